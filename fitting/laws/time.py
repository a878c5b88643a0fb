"""Inbar & Sernau 2024, arXiv 2406.18922, the method: loss from a shape and the time spent on it.

Tokens are not chosen but bought: D = GPU-hours x (tokens a GPU-hour at this shape). Put into a law
of width, depth, N and D (Gemstones, McLeish et al. 2025) it gives the loss from hyper-parameters
and time alone. The paper puts it into Chinchilla's form; that form knows nothing of shape, and its
best shape for a given time is three layers of great width (tests/fitting/test_time_optimal.py).
The throughput of a shape that was not measured: `fitting.costs.StepTime`.
"""

from typing import Any

from fitting.law import Input, Law, Param
from fitting.laws import width_depth
from fitting.links import LOG, bounded


def loss(
    width: Any,
    depth: Any,
    N: Any,
    gpu_hours: Any,
    tokens_per_gpu_hour: Any,
    *,
    E: Any,
    A_w: Any,
    a: Any,
    A_l: Any,
    b: Any,
    A_N: Any,
    c: Any,
    B: Any,
    beta: Any,
) -> Any:
    bought = gpu_hours * tokens_per_gpu_hour
    return width_depth.loss(
        width, depth, N, bought, E=E, A_w=A_w, a=a, A_l=A_l, b=b, A_N=A_N, c=c, B=B, beta=beta
    )


LAW = Law(
    name="time",
    title="Time: width, depth and GPU-hours",
    latex=r"L = E + \frac{A_w}{w^{a}} + \frac{A_l}{l^{b}} + \frac{A_N}{N^{c}}"
    r" + \frac{B}{(t \, r)^{\beta}}",
    source="the method of Inbar & Sernau 2024, arXiv 2406.18922, on the form of McLeish et al. "
    "2025, arXiv 2502.06857",
    about="For runs that are recorded by the time they took: t GPU-hours at r tokens a GPU-hour. "
    "The same law as width_depth with D = t r; where the throughput of a shape is not known, "
    "`scalewright time` predicts it.",
    formula=loss,
    inputs=(
        Input("width", "channels", "model width", (128, 8192)),
        Input("depth", "layers", "model depth", (2, 128)),
        Input("N", "parameters", "model size", (1e7, 1e11)),
        Input("gpu_hours", "GPU-hours", "time spent on all GPUs", (1e1, 1e6)),
        Input("tokens_per_gpu_hour", "tokens", "throughput of one GPU", (1e6, 1e9)),
    ),
    params=(
        Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("A_w", "what a narrow model loses, at width 1", (0.1, 1e3), LOG),
        Param("a", "how fast more width helps", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("A_l", "what a shallow model loses, at one layer", (0.01, 1e2), LOG),
        Param("b", "how fast more depth helps", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("A_N", "what a small model loses, at N = 1", (1.0, 1e6), LOG),
        Param("c", "how fast more parameters help", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("B", "what little data loses, at one token", (1.0, 1e7), LOG),
        Param("beta", "how fast more time helps", (0.1, 1.0), bounded(0.0, 3.0)),
    ),
    linear=("E", "A_w", "A_l", "A_N", "B"),
)
