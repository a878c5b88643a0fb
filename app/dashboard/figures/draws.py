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
    # traces, axes and lines are handed over at once: plotly takes long over each call
    traces: list[go.Histogram | go.Scatter] = []
    places: list[tuple[int, int]] = []
    axes: dict[str, dict[str, object]] = {}
    lines: list[dict[str, object]] = []
    for row in range(size):
        for column in range(row + 1):
            number = row * size + column + 1
            if row == column:
                traces.append(
                    go.Histogram(
                        x=shown[row],
                        nbinsx=24,
                        marker={"color": ACCENT, "opacity": 0.6},
                        hovertemplate=f"{titles[row]} %{{x}}<extra></extra>",
                    )
                )
                lines.append(
                    {
                        "type": "line",
                        "xref": _axis("x", number),
                        "yref": _axis("y", number) + " domain",
                        "x0": marks[row],
                        "x1": marks[row],
                        "y0": 0,
                        "y1": 1,
                        "line": {"color": OPTIMUM, "width": 1.4},
                    }
                )
            else:
                traces.append(
                    go.Scatter(
                        x=shown[column],
                        y=shown[row],
                        mode="markers",
                        marker={"size": 3, "color": ACCENT, "opacity": 0.4},
                        hovertemplate=(
                            f"{titles[column]} %{{x:.4g}}<br>{titles[row]} %{{y:.4g}}"
                            "<extra></extra>"
                        ),
                    )
                )
                traces.append(
                    go.Scatter(
                        x=[marks[column]],
                        y=[marks[row]],
                        mode="markers",
                        marker={"size": 8, "symbol": "diamond", "color": OPTIMUM},
                        hoverinfo="skip",
                    )
                )
            places += [(row + 1, column + 1)] * (len(traces) - len(places))
            bottom, left = row == size - 1, column == 0 and row > 0
            plain = {"nticks": 4, "tickfont": {"size": 10}}
            axes[_axis("xaxis", number)] = plain | {
                "showticklabels": bottom,
                "title": {"text": titles[column] if bottom else None},
                "linecolor": MUTED,
            }
            axes[_axis("yaxis", number)] = plain | {
                "showticklabels": left,
                "title": {"text": titles[row] if left else None},
            }
    figure.add_traces(traces, *(list(each) for each in zip(*places, strict=True)))
    figure.update_layout(
        template=TEMPLATE,
        height=130 + 120 * size,
        showlegend=False,
        bargap=0.03,
        margin={"l": 64, "r": 12, "t": 12, "b": 56},
        shapes=lines,
        **axes,
    )
    return figure


def _axis(kind: str, number: int) -> str:
    """As plotly names the axes of a grid: x, x2, x3, ..."""
    return kind if number == 1 else f"{kind}{number}"
