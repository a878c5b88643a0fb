"""Whole loss curves: measured, the law through them, and what another schedule would give."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.dashboard import text
from app.dashboard.figures.style import (
    ACCENT,
    DISTINCT,
    MUTED,
    OPTIMUM,
    TEMPLATE,
    add_band,
    axis,
    new_figure,
)
from app.dashboard.figures.values import Line, Quantity

STEP = Quantity("step", log=False)
SINCE = Quantity("step", "since the transfer", log=False)
LOSS = Quantity("loss", "", log=False)


@dataclass(frozen=True)
class Overlaid:
    """One run: measured step, loss (n,); the law through it, law_step, law (m,)."""

    name: str
    step: np.ndarray
    loss: np.ndarray
    law_step: np.ndarray
    law: np.ndarray


def overlay(
    runs: Sequence[Overlaid],
    predicted: Line,
    rates: tuple[np.ndarray, np.ndarray],
    loss: Quantity = LOSS,
    level: float = 0.9,
) -> go.Figure:
    """Curves with the law through them, the predicted one with its band, its rates (step, rate)
    under it."""
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.8, 0.2]
    )
    figure.update_layout(template=TEMPLATE, height=540)
    figure.add_scatter(
        x=np.concatenate([predicted.x, predicted.x[::-1]]),
        y=_polygon(predicted),
        fill="toself",
        fillcolor="rgba(200,69,47,0.16)",
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name=f"{level:.0%} interval",
    )
    for index, run in enumerate(runs):
        tint = DISTINCT[index % 7]
        figure.add_scatter(
            x=run.step,
            y=run.loss,
            mode="lines",
            line={"color": tint, "width": 1},
            opacity=0.55,
            name=run.name,
            hovertemplate=f"<b>{run.name}</b><br>step %{{x:,}}<br>measured %{{y:.4f}}"
            "<extra></extra>",
            showlegend=len(runs) <= 8,
        )
        figure.add_scatter(
            x=run.law_step,
            y=run.law,
            mode="lines",
            line={"color": tint, "width": 1.6, "dash": "dash"},
            name=f"law, {run.name}",
            hovertemplate=f"<b>law, {run.name}</b><br>step %{{x:,}}<br>%{{y:.4f}}<extra></extra>",
            showlegend=False,
        )
    figure.add_scatter(
        x=predicted.x,
        y=predicted.y,
        mode="lines",
        line={"color": OPTIMUM, "width": 2.4},
        name=predicted.label,
        customdata=np.column_stack([np.asarray(predicted.lower), np.asarray(predicted.upper)]),
        hovertemplate=f"<b>{predicted.label}</b><br>step %{{x:,}}<br>%{{y:.4f}} "
        "[%{customdata[0]:.4f}, %{customdata[1]:.4f}]<extra></extra>",
    )
    figure.add_scatter(
        x=rates[0],
        y=rates[1],
        mode="lines",
        line={"color": OPTIMUM, "width": 1.4},
        hovertemplate="step %{x:,}<br>learning rate %{y:.3g}<extra></extra>",
        showlegend=False,
        row=2,
        col=1,
    )
    steps = [predicted.x, *(run.law_step for run in runs)]
    losses = [predicted.y, predicted.lower, predicted.upper, *(run.law for run in runs)]
    along = axis(STEP, np.concatenate(steps), 0.01)
    title = along.pop("title")
    figure.update_xaxes(**along)
    figure.update_xaxes(title=title, row=2, col=1)
    figure.update_yaxes(
        axis(loss, np.concatenate([one for one in losses if one is not None])), row=1
    )
    figure.update_yaxes(title_text="LR", nticks=3, exponentformat="e", rangemode="tozero", row=2)
    return figure


def _polygon(line: Line) -> np.ndarray:
    upper, lower = np.asarray(line.upper, float), np.asarray(line.lower, float)
    return np.concatenate([upper, lower[::-1]])


def transfer(
    measured: Sequence[tuple[str, np.ndarray, np.ndarray]],
    predicted: Line,
    start: float | None = None,
    turning: tuple[float, float] | None = None,
    loss: Quantity = LOSS,
    level: float = 0.9,
) -> go.Figure:
    """One domain's loss since a transfer: measured runs (name, step, loss), the predicted curve.

    start: the loss before the transfer; turning: (step, loss) where the predicted curve is back.
    """
    figure = new_figure(height=420)
    for index, (name, step, values) in enumerate(measured):
        figure.add_scatter(
            x=step,
            y=values,
            mode="lines",
            line={"color": DISTINCT[index % 7], "width": 1.2},
            opacity=0.75,
            name=name,
            hovertemplate=f"<b>{name}</b><br>step %{{x:,}}<br>measured %{{y:.4f}}<extra></extra>",
            showlegend=False,
        )
    add_band(figure, predicted.x, predicted.lower, predicted.upper, OPTIMUM)
    figure.add_scatter(
        x=predicted.x,
        y=predicted.y,
        mode="lines",
        line={"color": OPTIMUM, "width": 2.4},
        name=f"{predicted.label}, {level:.0%} interval",
        customdata=np.column_stack([np.asarray(predicted.lower), np.asarray(predicted.upper)]),
        hovertemplate=f"<b>{predicted.label}</b><br>step %{{x:,}}<br>%{{y:.4f}} "
        "[%{customdata[0]:.4f}, %{customdata[1]:.4f}]<extra></extra>",
    )
    shown = [predicted.y, predicted.lower, predicted.upper, *(values for _, _, values in measured)]
    if start is not None:
        shown.append(np.array([start]))
        figure.add_scatter(
            x=[float(predicted.x[0]), float(predicted.x[-1])],
            y=[start, start],
            mode="lines",
            line={"color": MUTED, "width": 1.2, "dash": "dot"},
            name="before the transfer",
            hovertemplate=f"before the transfer {text.loss(start)}<extra></extra>",
        )
    if turning is not None:
        figure.add_scatter(
            x=[turning[0]],
            y=[turning[1]],
            mode="markers+text",
            marker={"size": 11, "symbol": "diamond", "color": ACCENT},
            text=[f"back at step {turning[0]:,.0f}"],
            # where neither the falling curve nor the line of before passes
            textposition="top right"
            if turning[0] < np.mean([predicted.x[0], predicted.x[-1]])
            else "bottom left",
            name="turning point",
            showlegend=False,
            hovertemplate="back at the loss before: step %{x:,}<extra></extra>",
        )
    steps = [predicted.x, *(step for _, step, _ in measured)]
    figure.update_layout(
        xaxis=axis(SINCE, np.concatenate(steps), 0.02),
        yaxis=axis(loss, np.concatenate([np.asarray(one) for one in shown if one is not None])),
    )
    return figure
