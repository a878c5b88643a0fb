"""The shape of each parameter's valley: how much worse the fit gets when it is held elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.dashboard import text
from app.dashboard.figures.style import ACCENT, MUTED, OPTIMUM, TEMPLATE, faded, log_ticks

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
    figure = make_subplots(
        rows=rows, cols=COLUMNS, horizontal_spacing=0.06, vertical_spacing=0.34 / rows
    )
    for k, valley in enumerate(valleys):
        where = {"row": k // COLUMNS + 1, "col": k % COLUMNS + 1}
        limit = float(np.sqrt(valley.threshold))
        figure.add_scatter(
            x=valley.values,
            y=np.sqrt(valley.statistic),
            mode="lines+markers",
            line={"color": ACCENT, "width": 1.8},
            marker={"size": 4},
            hovertemplate=f"{valley.name} %{{x:.4g}}<br>%{{y:.2f}} from the fit<extra></extra>",
            name="profile",
            **where,
        )
        if valley.draws is not None:
            figure.add_scatter(
                x=list(valley.draws),
                y=[0.0, 0.0],
                mode="lines",
                line={"color": faded(MUTED, 0.6), "width": 6},
                hovertemplate=f"{level:.0%} of the draws: %{{x:.4g}}<extra></extra>",
                name="draws",
                **where,
            )
        figure.add_scatter(
            x=[valley.best],
            y=[0.0],
            mode="markers",
            marker={"size": 9, "symbol": "diamond", "color": OPTIMUM},
            hovertemplate=f"{valley.name} = {text.number(valley.best)}<extra></extra>",
            name="fit",
            **where,
        )
        figure.add_hline(y=limit, line={"color": MUTED, "width": 1, "dash": "dot"}, **where)
        ends = valley.values if valley.draws is None else np.append(valley.values, valley.draws)
        low, high = float(np.min(ends)), float(np.max(ends))
        if valley.log and low > 0:
            ticks = log_ticks(low, high)[:: max(1, len(log_ticks(low, high)) // 4)]
            labels = [text.tick(one) for one in ticks]
            figure.update_xaxes(tickvals=ticks, ticktext=labels, **where)
            low, high = float(np.log10(low)), float(np.log10(high))
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        figure.update_xaxes(
            title_text=valley.name,
            type="log" if valley.log else "linear",
            range=[low - room, high + room],
            nticks=4,
            tickfont_size=10,
            **where,
        )
        figure.update_yaxes(range=[-0.15 * limit, 1.9 * limit], nticks=4, tickfont_size=10, **where)
    figure.update_layout(
        template=TEMPLATE,
        height=80 + 210 * rows,
        showlegend=False,
        margin={"l": 44, "r": 12, "t": 12, "b": 56},
    )
    return figure
