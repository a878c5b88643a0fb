"""The shape of each parameter's valley: how much worse the fit gets when it is held elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from app.dashboard import text
from app.dashboard.figures.style import (
    ACCENT,
    MUTED,
    OPTIMUM,
    TEMPLATE,
    across_at,
    axis_name,
    faded,
    log_ticks,
    panel,
)

COLUMNS = 3


@dataclass(frozen=True)
class Valley:
    """values, statistic (k,): where the parameter was held, and how much worse (0: not at all;
    `threshold` at the ends of its interval, None where it has none). draws: the interval of the
    resamples, to compare."""

    name: str
    best: float
    values: np.ndarray
    statistic: np.ndarray
    threshold: float
    lower: float | None
    upper: float | None
    draws: tuple[float, float] | None = None
    log: bool = False


def profiles(valleys: Sequence[Valley], level: float) -> go.Figure:
    """One panel a parameter: the root of the statistic, a V where the interval is symmetric. The
    bar at the bottom is the interval of the draws."""
    rows = -(-len(valleys) // COLUMNS) or 1
    traces: list[dict[str, Any]] = []
    axes: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    for k, valley in enumerate(valleys):
        number, across, up = panel(*divmod(k, COLUMNS), rows, COLUMNS, 0.06, 0.34 / rows)
        where = {"xaxis": axis_name("x", number), "yaxis": axis_name("y", number)}
        limit = float(np.sqrt(valley.threshold))
        traces.append(
            {
                "x": valley.values,
                "y": np.sqrt(valley.statistic),
                "mode": "lines+markers",
                "line": {"color": ACCENT, "width": 1.8},
                "marker": {"size": 4},
                "hovertemplate": f"{valley.name} %{{x:.4g}}<br>%{{y:.2f}} from the fit"
                "<extra></extra>",
                "name": "profile",
                **where,
            }
        )
        if valley.draws is not None:
            traces.append(
                {
                    "x": list(valley.draws),
                    "y": [0.0, 0.0],
                    "mode": "lines",
                    "line": {"color": faded(MUTED, 0.6), "width": 6},
                    "hovertemplate": f"{level:.0%} of the draws: %{{x:.4g}}<extra></extra>",
                    "name": "draws",
                    **where,
                }
            )
        traces.append(
            {
                "x": [valley.best],
                "y": [0.0],
                "mode": "markers",
                "marker": {"size": 9, "symbol": "diamond", "color": OPTIMUM},
                "hovertemplate": f"{valley.name} = {text.number(valley.best)}<extra></extra>",
                "name": "fit",
                **where,
            }
        )
        lines.append(across_at(limit, {"color": MUTED, "width": 1, "dash": "dot"}, number))
        ends = valley.values if valley.draws is None else np.append(valley.values, valley.draws)
        low, high = float(np.min(ends)), float(np.max(ends))
        plain = {"nticks": 4, "tickfont": {"size": 10}}
        across |= plain | {
            "title": {"text": valley.name},
            "type": "log" if valley.log else "linear",
        }
        if valley.log and low > 0:
            ticks = log_ticks(low, high)[:: max(1, len(log_ticks(low, high)) // 4)]
            across |= {"tickvals": ticks, "ticktext": [text.tick(one) for one in ticks]}
            low, high = float(np.log10(low)), float(np.log10(high))
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axes[axis_name("xaxis", number)] = across | {"range": [low - room, high + room]}
        axes[axis_name("yaxis", number)] = up | plain | {"range": [-0.15 * limit, 1.9 * limit]}
    layout = {
        "template": TEMPLATE,
        "height": 80 + 210 * rows,
        "showlegend": False,
        "margin": {"l": 44, "r": 12, "t": 12, "b": 56},
        "shapes": lines,
        **axes,
    }
    data = [{"type": "scatter", **one} for one in traces]
    return go.Figure({"data": data, "layout": layout})
