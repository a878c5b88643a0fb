"""Training curves: one run with its strips, many runs over each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.dashboard.figures.style import (
    ACCENT,
    DISTINCT,
    MUTED,
    OPTIMUM,
    TEMPLATE,
    add_band,
    axis,
    colours_for,
    new_figure,
)
from app.dashboard.figures.values import Line, Quantity

TOKENS = Quantity("training tokens", "tokens")
STEPS = Quantity("training step", "steps")


@dataclass(frozen=True)
class Curve:
    """Loss along training: tokens (or steps), loss, lr (n,). `shade` (the model's size) chooses the
    colour.
    """

    name: str
    tokens: np.ndarray
    loss: np.ndarray
    lr: np.ndarray | None = None
    shade: float | None = None
    cooled: bool = True


@dataclass(frozen=True)
class Evaluations:
    """Losses on one validation set: tokens seen and loss, (n,)."""

    validation_set: str
    tokens: np.ndarray
    loss: np.ndarray
    loss_unit: str = "nats/token"
    labels: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Ahead:
    """What is foreseen: the law with its band until the end, and the final loss (tokens, loss,
    lower, upper) with what this run has shown so far."""

    law: Line
    final: tuple[float, float, float, float]
    level: float = 0.9


def run(
    curve: Curve,
    evaluations: Sequence[Evaluations] = (),
    grad_norm: tuple[np.ndarray, np.ndarray] | None = None,
    loss_unit: str = "nats/token",
    along: Quantity = TOKENS,
    ahead: Ahead | None = None,
    spikes: tuple[np.ndarray, np.ndarray] | None = None,
) -> go.Figure:
    """Loss on log axes, the learning rate and the gradient norm (tokens, value) under it.

    spikes: (tokens, loss) of their tops.
    The first trace is always the training loss: the live page extends it by index.
    """
    figure = make_subplots(
        rows=3,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.05,
        row_heights=[0.68, 0.16, 0.16],
    )
    figure.add_scatter(
        x=curve.tokens,
        y=curve.loss,
        mode="lines",
        line={"color": ACCENT, "width": 1.3},
        name="training loss",
        hovertemplate=f"%{{x:.4s}} {along.unit}<br>loss %{{y:.4f}}<extra></extra>",
        row=1,
        col=1,
    )
    lr = curve.lr if curve.lr is not None else np.full_like(curve.tokens, np.nan)
    figure.add_scatter(
        x=curve.tokens,
        y=lr,
        mode="lines",
        line={"color": MUTED, "width": 1.3},
        hovertemplate=f"%{{x:.4s}} {along.unit}<br>learning rate %{{y:.3g}}<extra></extra>",
        showlegend=False,
        row=2,
        col=1,
    )
    norm = grad_norm or (np.array([]), np.array([]))
    if not len(norm[0]):  # plotly.js places a trace of no points at NaN
        norm = (curve.tokens[:1], np.full(len(curve.tokens[:1]), np.nan))
    figure.add_scatter(
        x=norm[0],
        y=norm[1],
        mode="lines",
        line={"color": MUTED, "width": 1},
        hovertemplate=f"%{{x:.4s}} {along.unit}<br>gradient norm %{{y:.3g}}<extra></extra>",
        showlegend=False,
        row=3,
        col=1,
    )
    for index, evaluation in enumerate(evaluations):
        figure.add_scatter(
            x=evaluation.tokens,
            y=evaluation.loss,
            mode="lines+markers",
            line={"width": 1, "dash": "dot", "color": DISTINCT[(index + 1) % len(DISTINCT)]},
            marker={"size": 7, "symbol": "diamond"},
            name=f"validation: {evaluation.validation_set}",
            hovertemplate=(
                f"{evaluation.validation_set}<br>%{{x:.4s}} {along.unit}<br>"
                f"loss %{{y:.4f}} {evaluation.loss_unit}<extra></extra>"
            ),
            row=1,
            col=1,
        )
    if spikes is not None and len(spikes[0]):
        figure.add_scatter(
            x=spikes[0],
            y=spikes[1],
            mode="markers",
            marker={"size": 10, "symbol": "triangle-down", "color": OPTIMUM},
            name="spike",
            hovertemplate=f"spike<br>%{{x:.4s}} {along.unit}<br>loss %{{y:.4f}}<extra></extra>",
            row=1,
            col=1,
        )
    seen = [curve.loss, *(e.loss for e in evaluations)]
    places = [curve.tokens, *(e.tokens for e in evaluations)]
    if ahead is not None:
        _add_ahead(figure, ahead, along)
        seen.append(np.array(ahead.final[1:]))
        places.append(ahead.law.x)
    losses = np.concatenate(seen)
    x_axis = axis(along, np.concatenate(places))
    title = x_axis.pop("title")
    figure.update_layout(template=TEMPLATE, height=560)
    figure.update_xaxes(**x_axis)
    figure.update_xaxes(title=title, row=3, col=1)
    figure.update_yaxes(axis(Quantity("loss", loss_unit), losses), row=1, col=1)
    figure.update_yaxes(title_text="LR", nticks=3, exponentformat="e", rangemode="tozero", row=2)
    figure.update_yaxes(title_text="‖grad‖", nticks=3, rangemode="tozero", row=3)
    return figure


def _add_ahead(figure: go.Figure, ahead: Ahead, along: Quantity) -> None:
    law, (end, loss, lower, upper) = ahead.law, ahead.final
    add_band(figure, law.x, law.lower, law.upper, OPTIMUM)
    figure.add_scatter(
        x=law.x,
        y=law.y,
        mode="lines",
        line={"color": OPTIMUM, "width": 1.6, "dash": "dash"},
        name=law.label,
        hovertemplate=f"{law.label}<br>%{{x:.4s}} {along.unit}<br>%{{y:.4f}}<extra></extra>",
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=[end],
        y=[loss],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [upper - loss],
            "arrayminus": [loss - lower],
            "color": OPTIMUM,
        },
        mode="markers",
        marker={"size": 9, "symbol": "circle", "color": OPTIMUM},
        name="forecast of the end",
        hovertemplate=f"forecast {loss:.4f}<br>{ahead.level:.0%} interval [{lower:.4f}, "
        f"{upper:.4f}]<extra></extra>",
        row=1,
        col=1,
    )


def curves(lines: Sequence[Curve], along: Quantity = TOKENS) -> go.Figure:
    """Many runs over each other, coloured by model size; runs not cooled down are drawn thin."""
    figure = new_figure(height=460, showlegend=len(lines) <= 12)
    sized = [line.shade for line in lines if line.shade]
    tint = dict(zip(sized, colours_for(sized), strict=True)) if sized else {}
    for index, line in enumerate(lines):
        figure.add_scatter(
            x=line.tokens,
            y=line.loss,
            mode="lines",
            name=line.name,
            opacity=0.95 if line.cooled else 0.45,
            line={
                "width": 1.5 if line.cooled else 1,
                "color": tint.get(line.shade or 0.0, DISTINCT[index % len(DISTINCT)]),
            },
            hovertemplate=f"<b>{line.name}</b><br>%{{x:.4s}} {along.unit}<br>loss %{{y:.4f}}"
            "<extra></extra>",
        )
        if line.cooled and len(line.tokens):
            figure.add_scatter(
                x=line.tokens[-1:],
                y=line.loss[-1:],
                mode="markers",
                marker={"size": 6, "color": tint.get(line.shade or 0.0, OPTIMUM)},
                hoverinfo="skip",
                showlegend=False,
            )
    tokens = np.concatenate([line.tokens for line in lines]) if lines else np.array([])
    losses = np.concatenate([line.loss for line in lines]) if lines else np.array([])
    figure.update_layout(
        xaxis=axis(along, tokens), yaxis=axis(Quantity("training loss", "nats/token"), losses)
    )
    return figure
