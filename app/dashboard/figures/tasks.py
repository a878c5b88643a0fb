"""Accuracy against loss."""

import numpy as np
import plotly.graph_objects as go

from app.dashboard.figures.style import ACCENT, MUTED, add_band, axis, new_figure
from app.dashboard.figures.values import Cloud, Line, Quantity


def task(
    points: Cloud,
    line: Line,
    chance: float | None,
    x: Quantity,
    smallest: float,
    level: float = 0.9,
) -> go.Figure:
    """Points, the curve with its band, what guessing scores, and where the data end: to the left
    of `smallest` (a loss) the curve is a forecast. Accuracies are shares."""
    figure = new_figure(height=460)
    if line.lower is not None and line.upper is not None:
        add_band(figure, line.x, 100 * line.lower, 100 * line.upper, ACCENT)
        bounds = 100 * np.column_stack([line.lower, line.upper])
    else:
        bounds = None
    figure.add_scatter(
        x=line.x,
        y=100 * line.y,
        mode="lines",
        line={"color": ACCENT, "width": 2},
        name=f"{line.label} with its {level:.0%} interval",
        customdata=bounds,
        hovertemplate="loss %{x:.3f}<br>accuracy %{y:.1f}%"
        + ("" if bounds is None else "<br>[%{customdata[0]:.1f}%, %{customdata[1]:.1f}%]")
        + "<extra></extra>",
    )
    figure.add_scatter(
        x=points.x,
        y=100 * points.y,
        mode="markers",
        marker={"size": 8, "color": ACCENT, "line": {"width": 0.8, "color": "white"}},
        text=list(points.labels) or None,
        hovertemplate=("%{text}<br>" if len(points.labels) else "")
        + "loss %{x:.4f}<br>accuracy %{y:.2f}%<extra></extra>",
        showlegend=False,
    )
    if chance is not None:
        figure.add_hline(
            y=100 * chance,
            line={"color": MUTED, "width": 1.2, "dash": "dot"},
            annotation={
                "text": f"guessing: {100 * chance:.3g}%",
                "font": {"color": MUTED, "size": 12},
            },
            # at low losses, far from the points that lie at chance
            annotation_position="top left",
        )
    figure.add_vline(
        x=smallest,
        line={"color": MUTED, "width": 1, "dash": "dash"},
        annotation={"text": "end of the data", "font": {"color": MUTED, "size": 12}},
        annotation_position="bottom left",
    )
    shown = [100 * points.y, 100 * line.y]
    if bounds is not None:
        shown.append(bounds.ravel())
    if chance is not None:
        shown.append(np.array([100 * chance]))
    figure.update_xaxes(axis(x, np.concatenate([points.x, line.x])))
    figure.update_yaxes(axis(Quantity("accuracy", "%", log=False), np.concatenate(shown), pad=0.08))
    return figure
