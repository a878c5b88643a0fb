"""What was forecast, and what came."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from app.dashboard import text
from app.dashboard.figures.style import HIT, MISS, MUTED, new_figure

WIDE = 2.0
"""An interval that reaches beyond so many times its centre is cut off at the figure's edge."""


@dataclass(frozen=True)
class Forecast:
    """One forecast; `actual` is None until its run has landed."""

    label: str
    loss: float
    lower: float
    upper: float
    actual: float | None = None
    compute_ratio: float | None = None
    loss_unit: str = "nats/token"


def forecasts(rows: Sequence[Forecast], level: float | None = 0.9) -> go.Figure:
    """One line a forecast: its interval, its centre, and the measured loss where it is known.

    Filled and green where the actual lies inside the interval, red where it does not.
    """
    units = sorted({row.loss_unit for row in rows}) or ["nats/token"]
    names = [_label(row, index) for index, row in enumerate(rows)]
    longest = max((len(name.rstrip("\u200b")) for name in names), default=0)
    figure = new_figure(
        height=110 + 44 * max(1, len(rows)), margin={"l": 30 + min(320, 7 * longest), "t": 34}
    )
    figure.add_scatter(
        x=[row.loss for row in rows],
        y=names,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row.upper - row.loss for row in rows],
            "arrayminus": [row.loss - row.lower for row in rows],
            "thickness": 5,
            "width": 0,
            "color": "rgba(127,137,150,0.45)",
        },
        mode="markers",
        marker={"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": MUTED}},
        name="forecast with its interval" if level is None else f"forecast, {level:.0%} interval",
        customdata=[[text.interval(row.lower, row.upper)] for row in rows],
        hovertemplate="forecast %{x:.3f} %{customdata[0]}<extra></extra>",
    )
    landed = [
        (name, row, row.actual)
        for name, row in zip(names, rows, strict=True)
        if row.actual is not None
    ]
    for hit, tint, title in ((True, HIT, "actual, inside"), (False, MISS, "actual, outside")):
        group = [
            (name, row, actual)
            for name, row, actual in landed
            if (row.lower <= actual <= row.upper) is hit
        ]
        if group:
            figure.add_scatter(
                x=[actual for _, _, actual in group],
                y=[name for name, _, _ in group],
                mode="markers",
                marker={"size": 11, "color": tint, "symbol": "circle" if hit else "x"},
                name=title,
                customdata=[[text.percent(row.loss / actual - 1)] for _, row, actual in group],
                hovertemplate="actual %{x:.3f}, error %{customdata[0]}<extra></extra>",
            )
    figure.update_layout(
        xaxis={"title": {"text": f"loss ({', '.join(units)})"}, "nticks": 8, **_span(rows)},
        yaxis={"autorange": "reversed", "ticks": "", "showline": False},
    )
    return figure


def _span(rows: Sequence[Forecast]) -> dict[str, Any]:
    """The range of the losses: one interval that is almost open does not squeeze the others."""
    if not any(row.upper > WIDE * row.loss for row in rows):
        return {}
    shown = [
        end
        for row in rows
        for end in (row.lower, min(row.upper, WIDE * row.loss), row.actual)
        if end is not None
    ]
    pad = 0.04 * (max(shown) - min(shown))
    return {"range": [min(shown) - pad, max(shown) + pad]}


def _label(row: Forecast, index: int) -> str:
    # rows are told apart by their place, so that two forecasts of one run do not share a line
    far = f" · {text.times(row.compute_ratio)} compute" if row.compute_ratio else ""
    return f"{row.label}{far}" + "\u200b" * index
