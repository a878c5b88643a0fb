"""Parameters of the resampled fits, pair by pair."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.dashboard.figures.style import ACCENT, MUTED, OPTIMUM, TEMPLATE

MOST_PARAMETERS = 6
MOST_DRAWS = 300


def draws(
    names: Sequence[str], values: np.ndarray, best: Mapping[str, float], log: Sequence[str] = ()
) -> go.Figure:
    """Lower triangle of scatter plots with histograms on the diagonal.

    `values` is (draws, len(names)); `best` is the fit itself; `log` names parameters that are shown
    on a log axis. At most six parameters and 300 draws are drawn: the picture is about the shape.
    A narrow ridge means that two parameters are known together, not apart.
    """
    names = list(names)[:MOST_PARAMETERS]
    values = np.asarray(values, float)[:MOST_DRAWS, : len(names)]
    values = values[np.isfinite(values).all(axis=1)]
    shown = [np.log10(values[:, k]) if n in log else values[:, k] for k, n in enumerate(names)]
    marks = [np.log10(best[n]) if n in log else best[n] for n in names]
    titles = [f"log₁₀ {n}" if n in log else n for n in names]
    size = len(names)
    figure = make_subplots(rows=size, cols=size, horizontal_spacing=0.018, vertical_spacing=0.022)
    for row in range(size):
        for column in range(row + 1):
            where = {"row": row + 1, "col": column + 1}
            if row == column:
                figure.add_histogram(
                    x=shown[row],
                    nbinsx=24,
                    marker={"color": ACCENT, "opacity": 0.6},
                    **where,
                    hovertemplate=f"{titles[row]} %{{x}}<extra></extra>",
                )
                figure.add_vline(x=marks[row], line={"color": OPTIMUM, "width": 1.4}, **where)
            else:
                figure.add_scatter(
                    x=shown[column],
                    y=shown[row],
                    mode="markers",
                    marker={"size": 3, "color": ACCENT, "opacity": 0.4},
                    hovertemplate=(
                        f"{titles[column]} %{{x:.4g}}<br>{titles[row]} %{{y:.4g}}<extra></extra>"
                    ),
                    **where,
                )
                figure.add_scatter(
                    x=[marks[column]],
                    y=[marks[row]],
                    mode="markers",
                    marker={"size": 8, "symbol": "diamond", "color": OPTIMUM},
                    hoverinfo="skip",
                    **where,
                )
            bottom, left = row == size - 1, column == 0 and row > 0
            figure.update_xaxes(
                showticklabels=bottom,
                title_text=titles[column] if bottom else None,
                nticks=4,
                tickfont_size=10,
                **where,
            )
            figure.update_yaxes(
                showticklabels=left,
                title_text=titles[row] if left else None,
                nticks=4,
                tickfont_size=10,
                **where,
            )
    figure.update_layout(
        template=TEMPLATE,
        height=130 + 120 * size,
        showlegend=False,
        bargap=0.03,
        margin={"l": 64, "r": 12, "t": 12, "b": 56},
    )
    figure.update_xaxes(linecolor=MUTED)
    return figure
