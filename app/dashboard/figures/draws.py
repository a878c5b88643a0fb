"""Parameters of the resampled fits, pair by pair."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.dashboard.figures.style import ACCENT, MUTED, OPTIMUM, TEMPLATE, axis_name, panel

MOST_PARAMETERS = 6
MOST_DRAWS = 300
GAPS = (0.018, 0.022)  # between panels, across and up


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
    # one figure of plain parts: plotly takes long over each call
    traces: list[dict[str, Any]] = []
    axes: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    for row in range(size):
        for column in range(row + 1):
            number, across, up = panel(row, column, size, size, *GAPS)
            where = {"xaxis": axis_name("x", number), "yaxis": axis_name("y", number)}
            if row == column:
                traces.append(
                    {
                        "type": "histogram",
                        "x": shown[row],
                        "nbinsx": 24,
                        "marker": {"color": ACCENT, "opacity": 0.6},
                        "hovertemplate": f"{titles[row]} %{{x}}<extra></extra>",
                        **where,
                    }
                )
                lines.append(
                    {
                        "type": "line",
                        "xref": where["xaxis"],
                        "yref": where["yaxis"] + " domain",
                        "x0": marks[row],
                        "x1": marks[row],
                        "y0": 0,
                        "y1": 1,
                        "line": {"color": OPTIMUM, "width": 1.4},
                    }
                )
            else:
                traces.append(
                    {
                        "type": "scatter",
                        "x": shown[column],
                        "y": shown[row],
                        "mode": "markers",
                        "marker": {"size": 3, "color": ACCENT, "opacity": 0.4},
                        "hovertemplate": (
                            f"{titles[column]} %{{x:.4g}}<br>{titles[row]} %{{y:.4g}}"
                            "<extra></extra>"
                        ),
                        **where,
                    }
                )
                traces.append(
                    {
                        "type": "scatter",
                        "x": [marks[column]],
                        "y": [marks[row]],
                        "mode": "markers",
                        "marker": {"size": 8, "symbol": "diamond", "color": OPTIMUM},
                        "hoverinfo": "skip",
                        **where,
                    }
                )
            bottom, left = row == size - 1, column == 0 and row > 0
            plain = {"nticks": 4, "tickfont": {"size": 10}}
            axes[axis_name("xaxis", number)] = (
                across
                | plain
                | {
                    "showticklabels": bottom,
                    "title": {"text": titles[column] if bottom else None},
                    "linecolor": MUTED,
                }
            )
            axes[axis_name("yaxis", number)] = (
                up
                | plain
                | {
                    "showticklabels": left,
                    "title": {"text": titles[row] if left else None},
                }
            )
    layout = {
        "template": TEMPLATE,
        "height": 130 + 120 * size,
        "showlegend": False,
        "bargap": 0.03,
        "margin": {"l": 64, "r": 12, "t": 12, "b": 56},
        "shapes": lines,
        **axes,
    }
    return go.Figure({"data": traces, "layout": layout})
