"""One loss against another, and what the interval of a forecast through it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.dashboard.figures.style import (
    ACCENT,
    DISTINCT,
    MUTED,
    OPTIMUM,
    add_band,
    axis,
    colour_bar,
    new_figure,
)
from app.dashboard.figures.values import Cloud, Line, Quantity

# A floor farther below the smallest loss than this share of it is named at the edge, not drawn to
# scale: it would squeeze the pairs into a corner.
FAR_FLOOR = 0.4


@dataclass(frozen=True)
class Share:
    """One bar: how wide the interval is (half of it, relative) and what it is made of."""

    label: str
    half_width: float
    parts: dict[str, float]
    """{part: share of the variance}; adds up to one."""


PARTS = {
    "E": "floors E",
    "link": "slope and scale of the link",
    "source_law": "source law",
    "noise": "noise of one run",
    "drift": "drift beyond the pairs",
}


def link(
    pairs: Cloud,
    line: Line,
    floors: tuple[float, float],
    x: Quantity,
    y: Quantity,
    shade: Quantity,
    held: Cloud | None = None,
    level: float = 0.9,
) -> go.Figure:
    """Target loss against source loss: pairs coloured by compute, the link with its band, both
    floors, and where there are some the pairs that were held out."""
    figure = new_figure(height=520)
    low_x, low_y = float(np.min(pairs.x)), float(np.min(pairs.y))
    drawn = [
        floor if floor >= FAR_FLOOR * low else None
        for floor, low in zip(floors, (low_x, low_y), strict=True)
    ]
    if line.lower is not None and line.upper is not None:
        add_band(figure, line.x, line.lower, line.upper, ACCENT)
    figure.add_scatter(
        x=line.x,
        y=line.y,
        mode="lines",
        line={"color": ACCENT, "width": 2},
        name=f"link with its {level:.0%} interval",
        customdata=None
        if line.lower is None or line.upper is None
        else np.column_stack([line.lower, line.upper]),
        hovertemplate=f"{x.name} %{{x:.3f}}<br>{y.name} %{{y:.3f}}"
        + ("" if line.lower is None else "<br>[%{customdata[0]:.3f}, %{customdata[1]:.3f}]")
        + "<extra></extra>",
    )
    marker: dict[str, Any] = {"size": 8, "line": {"width": 0.8, "color": "rgba(255,255,255,0.75)"}}
    marker |= {"color": ACCENT} if pairs.shade is None else colour_bar(shade, pairs.shade)
    figure.add_scatter(
        x=pairs.x,
        y=pairs.y,
        mode="markers",
        marker=marker,
        text=list(pairs.labels) or None,
        hovertemplate="%{text}<br>" + f"{x.name} %{{x:.4f}}<br>{y.name} %{{y:.4f}}<extra></extra>",
        showlegend=False,
    )
    if held is not None and len(held.x):
        figure.add_scatter(
            x=held.x,
            y=held.y,
            mode="markers",
            marker={"size": 11, "symbol": "diamond-open", "color": OPTIMUM, "line": {"width": 2}},
            text=list(held.labels) or None,
            hovertemplate="%{text}<br>measured %{y:.4f}<extra></extra>",
            name="held out",
        )
    for floor, name, add in (
        (drawn[0], "E0", figure.add_vline),
        (drawn[1], "E1", figure.add_hline),
    ):
        if floor is not None:
            add(
                **{"x" if name == "E0" else "y": floor},
                line={"color": OPTIMUM, "width": 1.2, "dash": "dot"},
                annotation={
                    "text": f"{name} = {floor:.3f}",
                    "font": {"color": OPTIMUM, "size": 12},
                    "textangle": 0,
                },
                annotation_position="top right" if name == "E0" else "bottom right",
            )
    clouds = [pairs] if held is None else [pairs, held]
    floor_x, floor_y = (np.array([] if one is None else [one]) for one in drawn)
    ends_x = [line.x, floor_x, *(one.x for one in clouds)]
    ends_y = [line.y, floor_y, *(one.y for one in clouds)]
    figure.update_xaxes(axis(x, np.concatenate(ends_x)))
    figure.update_yaxes(axis(y, np.concatenate(ends_y), pad=0.06))
    return figure


def variance(bars: Sequence[Share], level: float = 0.9) -> go.Figure:
    """One bar a forecast: its length is half the interval, its pieces what the variance is made
    of. What a run measured costs less than what a law forecast."""
    figure = new_figure(
        height=120 + 34 * max(1, len(bars)),
        barmode="stack",
        margin={"l": 132, "t": 62},
        bargap=0.32,
        legend={"traceorder": "normal"},
    )
    labels = [bar.label for bar in bars]
    for place, (part, name) in enumerate(PARTS.items()):
        shares = [bar.parts.get(part, 0.0) for bar in bars]
        if not any(share > 0 for share in shares):
            continue
        figure.add_bar(
            y=labels,
            x=[100 * bar.half_width * share for bar, share in zip(bars, shares, strict=True)],
            orientation="h",
            name=name,
            marker={"color": DISTINCT[place]},
            customdata=[100 * share for share in shares],
            hovertemplate=f"%{{y}}<br>{name}: %{{customdata:.0f}}% of the variance<extra></extra>",
        )
    widths = [100 * bar.half_width for bar in bars]
    figure.add_scatter(
        x=widths,
        y=labels,
        mode="text",
        text=[f" ±{width:.2g}%" for width in widths],
        textposition="middle right",
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
    layout = axis(Quantity(f"± at {level:.0%}", "% of the loss", False), widths)
    figure.update_xaxes(layout | {"range": [0, 1.14 * max(widths, default=1.0)]})
    figure.update_yaxes(
        autorange="reversed", ticks="outside", ticklen=6, tickcolor="rgba(0,0,0,0)", showline=False
    )
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    return figure
