"""Loss over the shapes that a budget can train."""

import numpy as np
import plotly.graph_objects as go

from app.dashboard import text
from app.dashboard.figures.style import MUTED, OPTIMUM, SCALE, axis, new_figure
from app.dashboard.figures.values import Quantity

WIDTH = Quantity("width", "channels")
DEPTH = Quantity("depth", "layers")


def shapes(
    width: np.ndarray,
    depth: np.ndarray,
    losses: np.ndarray,
    N: np.ndarray,
    D: np.ndarray,
    loss: Quantity,
    best: tuple[float, float],
    tolerance: float,
) -> go.Figure:
    """Lines of equal loss at one budget. losses, N, D: [depth, width]; NaN where no plan holds.

    best: (width, depth). The dots are the shapes within `tolerance` (a share) of the lowest loss.
    """
    figure = new_figure(height=420)
    shown = np.dstack([N, D])
    figure.add_contour(
        x=width,
        y=depth,
        z=losses,
        customdata=shown,
        colorscale=SCALE,
        reversescale=True,
        contours={"coloring": "lines", "showlabels": True, "labelfont": {"size": 11}},
        ncontours=20,
        line={"width": 1.3},
        showscale=False,
        hovertemplate=(
            "%{x} wide, %{y} layers<br>N %{customdata[0]:.3s}, D %{customdata[1]:.3s}<br>"
            f"{loss.name} %{{z:.4f}}<extra></extra>"
        ),
    )
    row, column = np.nonzero(losses <= np.nanmin(losses) * (1 + tolerance))
    figure.add_scatter(
        x=width[column],
        y=depth[row],
        mode="markers",
        marker={"size": 5, "color": MUTED},
        hoverinfo="skip",
        name=f"within {tolerance:.1%} of the lowest loss",
    )
    figure.add_scatter(
        x=[best[0]],
        y=[best[1]],
        mode="markers",
        marker={"size": 11, "symbol": "diamond", "color": OPTIMUM},
        hovertemplate=f"best: {best[0]:.0f} wide, {best[1]:.0f} layers<br>"
        f"{loss.name} {text.loss(float(np.nanmin(losses)))}<extra></extra>",
        name="best shape",
        cliponaxis=False,
        showlegend=False,
    )
    # away from the dots, which lie about the diamond; towards the middle of the figure
    figure.add_annotation(
        x=np.log10(best[0]),
        y=np.log10(best[1]),
        text=f"{best[0]:.0f} × {best[1]:.0f}",
        ax=-64 if best[0] > np.median(width) else 64,
        ay=-52 if best[1] <= np.median(depth) else 52,
        arrowhead=0,
        arrowcolor=MUTED,
        standoff=7,
    )
    figure.update_layout(xaxis=axis(WIDTH, width, 0), yaxis=axis(DEPTH, depth, 0))
    return figure
