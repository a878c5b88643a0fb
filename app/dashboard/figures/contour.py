"""Loss over the plane of two inputs, and the path along which compute is best spent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from app.dashboard import text
from app.dashboard.figures.style import (
    DISTINCT,
    GRID,
    MUTED,
    OPTIMUM,
    SCALE,
    Drawing,
    axis,
    faded,
)
from app.dashboard.figures.values import Cloud, Quantity


@dataclass(frozen=True)
class Path:
    """The compute-optimal (x, y) for each budget, with the interval of x; all (n,).

    Along a budget x and y are tied, so an interval of x is a stretch of the budget's line: its ends
    are (x_lower, y_at_x_lower) and (x_upper, y_at_x_upper).
    """

    budget: np.ndarray
    x: np.ndarray
    y: np.ndarray
    x_lower: np.ndarray
    y_at_lower: np.ndarray
    x_upper: np.ndarray
    y_at_upper: np.ndarray


def contour(
    x_grid: np.ndarray,
    y_grid: np.ndarray,
    losses: np.ndarray,
    points: Cloud,
    x: Quantity,
    y: Quantity,
    loss: Quantity,
    path: Path | None = None,
    budgets: Sequence[tuple[float, np.ndarray, np.ndarray]] = (),
    level: float = 0.9,
    spent: Sequence[tuple[str, np.ndarray, np.ndarray]] = (),
    best: tuple[float, float] | None = None,
) -> go.Figure:
    """Lines of equal loss. `losses` is (len(y_grid), len(x_grid)).

    `budgets` are (FLOPs, x, y) of equal-compute lines, drawn thin. The band is the `level` interval
    of the optimum on each budget. `spent` are (label, x, y) of lines that cost the same time or
    money; `best` marks a plan.
    """
    figure = Drawing(height=560)
    figure.add_contour(
        x=x_grid,
        y=y_grid,
        z=losses,
        colorscale=SCALE,
        reversescale=True,
        contours={"coloring": "lines", "showlabels": True, "labelfont": {"size": 11}},
        ncontours=18,
        line={"width": 1.3},
        showscale=False,
        hovertemplate=(
            f"{x.name} %{{x:.3s}}<br>{y.name} %{{y:.3s}}<br>{loss.name} %{{z:.3f}}<extra></extra>"
        ),
    )
    for flops, xs, ys in budgets:
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"color": MUTED, "width": 0.8, "dash": "dash"},
            opacity=0.6,
            hovertemplate=f"{text.scientific(flops)} FLOPs<extra></extra>",
            showlegend=False,
        )
    for k, (label, xs, ys) in enumerate(spent):
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"color": DISTINCT[k % len(DISTINCT)], "width": 1.8, "dash": "dot"},
            name=label,
            hovertemplate=f"{label}<br>{x.name} %{{x:.3s}}, {y.name} %{{y:.3s}}<extra></extra>",
        )
    if path is not None:
        figure.add_scatter(
            x=np.concatenate([path.x_lower, path.x_upper[::-1]]),
            y=np.concatenate([path.y_at_lower, path.y_at_upper[::-1]]),
            fill="toself",
            fillcolor=faded(OPTIMUM, 0.16),
            mode="lines",
            line={"width": 0},
            hoverinfo="skip",
            name=f"{level:.0%} interval of the path",
        )
        figure.add_scatter(
            x=path.x,
            y=path.y,
            mode="lines",
            line={"color": OPTIMUM, "width": 2.4},
            name="compute-optimal path",
            customdata=np.column_stack([path.budget, path.x_lower, path.x_upper]),
            hovertemplate=(
                "<b>%{customdata[0]:.2e} FLOPs</b><br>"
                f"{x.name}* %{{x:.3s}} [%{{customdata[1]:.3s}}, %{{customdata[2]:.3s}}]<br>"
                f"{y.name}* %{{y:.3s}}<extra></extra>"
            ),
        )
    if len(points.x):
        figure.add_scatter(
            x=points.x,
            y=points.y,
            mode="markers",
            marker={"size": 6, "color": MUTED, "line": {"width": 0.8, "color": GRID}},
            text=list(points.labels) or None,
            hovertemplate=(
                ("%{text}<br>" if len(points.labels) else "")
                + f"{x.name} %{{x:.3s}}<br>{y.name} %{{y:.3s}}<extra></extra>"
            ),
            name="runs",
        )
    if best is not None:
        figure.add_scatter(
            x=[best[0]],
            y=[best[1]],
            mode="markers",
            marker={"size": 12, "symbol": "diamond", "color": OPTIMUM},
            name="this plan",
            cliponaxis=False,
        )
    figure.layout |= {"xaxis": axis(x, x_grid, 0), "yaxis": axis(y, y_grid, 0)}
    return figure.figure()
