"""Loss along a compute budget."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.dashboard import text
from app.dashboard.figures.style import (
    ACCENT,
    MUTED,
    OPTIMUM,
    Drawing,
    add_band,
    axis,
    colours_for,
    new_figure,
)
from app.dashboard.figures.values import Cloud, Line, Quantity


def isoflop(
    lines: Sequence[Line],
    points: Cloud,
    x: Quantity,
    loss: Quantity,
    nearest: np.ndarray | None = None,
) -> go.Figure:
    """One curve per budget (its `shade`, FLOPs) with its minimum, and the runs that lie near it.

    `nearest` (n,) gives the budget that each point belongs to. A curve whose lowest point is at the
    end of its range has no interior minimum and gets no mark.
    """
    figure = Drawing(height=460)
    tints = colours_for([line.shade or 1.0 for line in lines]) if lines else []
    for line, tint in zip(lines, tints, strict=True):
        if line.lower is not None and line.upper is not None:
            add_band(figure, line.x, line.lower, line.upper, tint, 0.10)
        figure.add_scatter(
            x=line.x,
            y=line.y,
            mode="lines",
            line={"color": tint, "width": 1.8},
            name=line.label,
            legendgroup=line.label,
            hovertemplate=(
                f"<b>{line.label}</b><br>{x.name} %{{x:.3s}}<br>{loss.name} %{{y:.3f}}"
                "<extra></extra>"
            ),
        )
        if nearest is not None and len(points.x):
            mine = nearest == line.shade
            figure.add_scatter(
                x=points.x[mine],
                y=points.y[mine],
                mode="markers",
                marker={"size": 7, "color": tint, "line": {"width": 0.8, "color": "white"}},
                legendgroup=line.label,
                showlegend=False,
                text=[points.labels[i] for i in np.flatnonzero(mine).tolist()]
                if points.labels
                else None,
                hovertemplate=(
                    ("%{text}<br>" if points.labels else "")
                    + f"{x.name} %{{x:.3s}}<br>{loss.name} %{{y:.4f}}<extra></extra>"
                ),
            )
    minima = [line.optimum for line in lines if line.optimum is not None]
    if minima:
        figure.add_scatter(
            x=[point[0] for point in minima],
            y=[point[1] for point in minima],
            mode="lines+markers",
            line={"color": OPTIMUM, "width": 1.4, "dash": "dot"},
            marker={"size": 9, "symbol": "diamond", "color": OPTIMUM},
            name="minimum of the law",
            hovertemplate=(
                f"<b>minimum</b><br>{x.name} %{{x:.4s}}<br>{loss.name} %{{y:.4f}}<extra></extra>"
            ),
        )
    figure.layout |= {
        "xaxis": axis(x, np.concatenate([line.x for line in lines]) if lines else points.x),
        "yaxis": axis(loss, np.concatenate([points.y, *(line.y for line in lines)])),
    }
    return figure.figure()


def valley(
    line: Line,
    x: Quantity,
    loss: Quantity,
    optimum: tuple[float, float] | None = None,
    span: tuple[float, float] | None = None,
    tolerance: float | None = None,
    chosen: tuple[float, float] | None = None,
) -> go.Figure:
    """Loss along one input, or along one budget around its optimum (x, loss).

    `span` is the range of x whose loss stays within `tolerance` (a share, .01 = 1%) of the optimum:
    what a smaller, cheaper-to-serve model costs can be read from it. `chosen` marks a run of yours.
    """
    figure = new_figure(height=360, showlegend=False, margin={"t": 30})
    if span is not None:
        figure.add_vrect(x0=span[0], x1=span[1], fillcolor=MUTED, opacity=0.14, line_width=0)
    if line.lower is not None and line.upper is not None:
        add_band(figure, line.x, line.lower, line.upper, ACCENT)
    figure.add_scatter(
        x=line.x,
        y=line.y,
        mode="lines",
        line={"color": ACCENT, "width": 2},
        hovertemplate=f"{x.name} %{{x:.3s}}<br>{loss.name} %{{y:.4f}}<extra></extra>",
    )
    marks = []
    if optimum is not None:
        marks.append((optimum, OPTIMUM, f"{x.name}* = {text.quantity(optimum[0], x.unit)}", "top"))
    if chosen is not None:
        label = f"this run: {text.quantity(chosen[0], x.unit)}"
        marks.append((chosen, ACCENT, label, "bottom"))
    for point, tint, label, side in marks:
        figure.add_scatter(
            x=[point[0]],
            y=[point[1]],
            mode="markers+text",
            marker={"size": 10, "symbol": "diamond", "color": tint},
            text=[label],
            textposition=f"{side} center",
            hovertemplate=f"{label}<br>{loss.name} {text.loss(point[1])}<extra></extra>",
        )
    if span is not None and tolerance is not None:
        figure.add_annotation(
            x=0,
            y=1.01,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            text=f"grey: within {tolerance:.1%} of the lowest loss",
            font={"size": 12, "color": MUTED},
        )
    ends = [line.y] + [b for b in (line.lower, line.upper) if b is not None]
    figure.update_layout(xaxis=axis(x, line.x, 0), yaxis=axis(loss, np.concatenate(ends)))
    return figure
