"""Laws by their forecasts of the larger runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from app.dashboard.figures.style import ACCENT, MUTED, axis, new_figure
from app.dashboard.figures.values import Quantity


@dataclass(frozen=True)
class Standing:
    """One law: error and score as shares (.01 = 1%), the score with its penalty."""

    law: str
    error: float
    score: float


def ranking(rows: Sequence[Standing]) -> go.Figure:
    """One line a law, best on top: its held-out error, and the score that it is ranked by."""
    names = [row.law for row in rows]
    error = [100.0 * row.error for row in rows]
    score = [100.0 * row.score for row in rows]
    longest = max((len(name) for name in names), default=0)
    figure = new_figure(
        height=110 + 30 * max(1, len(rows)), margin={"l": 30 + min(320, 8 * longest), "t": 34}
    )
    figure.add_scatter(
        x=[x for pair in zip(error, score, strict=True) for x in (*pair, None)],
        y=[name for name in names for _ in range(3)],
        mode="lines",
        line={"color": MUTED, "width": 1.5},
        hoverinfo="skip",
        showlegend=False,
    )
    marks: list[tuple[list[float], str, dict[str, Any]]] = [
        (error, "held-out error", {"size": 9, "color": ACCENT}),
        (
            score,
            "score, with the penalty on many parameters and few runs",
            {"size": 9, "symbol": "line-ns", "line": {"width": 2, "color": MUTED}},
        ),
    ]
    for x, label, mark in marks:
        figure.add_scatter(
            x=x,
            y=names,
            mode="markers",
            marker=mark,
            name=label,
            hovertemplate="%{y}: %{x:.3f}%<extra></extra>",
        )
    figure.update_layout(
        xaxis=axis(Quantity("error on the larger runs", "%"), [*error, *score]),
        yaxis={"autorange": "reversed", "ticks": "", "showline": False},
    )
    return figure
