"""Points with the law through them, and what the law leaves over."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.dashboard.figures.style import (
    ACCENT,
    MUTED,
    Drawing,
    across_at,
    add_band,
    axis,
    colour,
    colour_bar,
)
from app.dashboard.figures.values import Cloud, Line, Quantity


def fitted(
    points: Cloud,
    lines: Sequence[Line],
    x: Quantity,
    loss: Quantity,
    shade: Quantity | None = None,
    level: float = 0.9,
) -> go.Figure:
    """Loss against one input: points, one curve for each value of the other, with its interval.

    The points and the curves share one colour scale (log of the other input).
    """
    figure = Drawing(height=460)
    shades = _shades(points, lines)
    for line in lines:
        tint = _tint(line.shade, shades)
        if line.lower is not None and line.upper is not None:
            add_band(figure, line.x, line.lower, line.upper, tint)
        figure.add_scatter(
            x=line.x,
            y=line.y,
            mode="lines",
            line={"color": tint, "width": 1.8},
            name=line.label,
            showlegend=False,
            customdata=_bounds(line),
            hovertemplate=(
                f"<b>{line.label}</b><br>{x.name} %{{x:.3s}}<br>{loss.name} %{{y:.3f}}"
                + (
                    f"<br>{level:.0%} interval [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]"
                    if line.lower is not None
                    else ""
                )
                + "<extra></extra>"
            ),
        )
    if len(points.x):
        marker: dict[str, Any] = {
            "size": 7,
            "line": {"width": 0.8, "color": "rgba(255,255,255,0.75)"},
        }
        if shade is not None and points.shade is not None and shades is not None:
            marker |= colour_bar(shade, points.shade)
            marker |= {"cmin": np.log10(shades[0]), "cmax": np.log10(shades[1])}
        else:
            marker["color"] = ACCENT
        figure.add_scatter(
            x=points.x,
            y=points.y,
            mode="markers",
            marker=marker,
            text=list(points.labels) or None,
            hovertemplate=(
                ("%{text}<br>" if len(points.labels) else "")
                + f"{x.name} %{{x:.4s}}<br>{loss.name} %{{y:.4f}}<extra></extra>"
            ),
            showlegend=False,
        )
    figure.layout |= {
        "xaxis": axis(x, np.concatenate([points.x, *(line.x for line in lines)])),
        "yaxis": axis(loss, np.concatenate([points.y, *(line.y for line in lines)])),
    }
    return figure.figure()


def residuals(
    points: Cloud,
    x: Quantity,
    shade: Quantity | None = None,
    masked: Cloud | None = None,
) -> go.Figure:
    """(measured - law) / law in percent against `x`, with the spread beside it.

    A law that fits leaves a band without a trend; a slope at the right end is drift, and says that
    the extrapolation will miss on that side.
    """
    figure = Drawing(height=340, bargap=0.06)
    marker: dict[str, Any] = {"size": 7, "color": ACCENT}
    if shade is not None and points.shade is not None:
        marker |= colour_bar(shade, points.shade)
        marker["colorbar"]["x"] = 1.0
    figure.add_scatter(
        x=points.x,
        y=points.y,
        mode="markers",
        marker=marker,
        text=list(points.labels) or None,
        hovertemplate=("%{text}<br>" if len(points.labels) else "")
        + f"{x.name} %{{x:.3s}}<br>residual %{{y:+.2f}}%<extra></extra>",
        showlegend=False,
    )
    if masked is not None and len(masked.x):
        figure.add_scatter(
            x=masked.x,
            y=masked.y,
            mode="markers",
            marker={"size": 8, "symbol": "x-thin", "line": {"width": 1.5, "color": MUTED}},
            text=list(masked.labels) or None,
            hovertemplate="%{text}<br>residual %{y:+.2f}%<extra></extra>",
            name="left out of the fit",
        )
    figure.add_histogram(
        y=points.y,
        xaxis="x2",
        marker={"color": MUTED, "opacity": 0.55},
        hovertemplate="%{x} points at %{y}%<extra></extra>",
        showlegend=False,
    )
    largest = float(np.max(np.abs(points.y))) if len(points.y) else 1.0
    figure.layout |= {
        "shapes": [across_at(0, {"color": MUTED, "width": 1})],
        "xaxis": axis(x, points.x) | {"domain": [0, 0.86]},
        "xaxis2": {"domain": [0.88, 1], "showgrid": False, "showticklabels": False, "ticks": ""},
        "yaxis": {
            "title": {"text": "residual (% of loss)"},
            "range": [-1.12 * largest, 1.12 * largest],
            "ticksuffix": "%",
        },
    }
    return figure.figure()


def _shades(points: Cloud, lines: Sequence[Line]) -> tuple[float, float] | None:
    values = [line.shade for line in lines if line.shade is not None]
    if points.shade is not None and len(points.shade):
        values += [float(points.shade.min()), float(points.shade.max())]
    return (min(values), max(values)) if values else None


def _tint(value: float | None, shades: tuple[float, float] | None) -> str:
    if value is None or shades is None:
        return ACCENT
    span = np.log(shades[1] / shades[0])
    return colour(float(np.log(value / shades[0]) / span) if span > 0 else 0.5)


def _bounds(line: Line) -> np.ndarray | None:
    if line.lower is None or line.upper is None:
        return None
    return np.column_stack([line.lower, line.upper])
