"""McLeish et al. 2025, "Gemstones": a law that knows a model's shape, not only its size.

L = E + A_w / width^a + A_l / depth^b + A_N / N^c + B / D^beta. Chinchilla misses narrow-deep and
wide-shallow models by up to 5.5%; with the two shape terms a shape that was left out of the fit
is predicted to .44%. Without the depth term the best shape would have no finite depth.
"""

from typing import Any

from fitting.law import Input, Law, Param, PowerSum
from fitting.links import LOG, bounded


def loss(
    width: Any,
    depth: Any,
    N: Any,
    D: Any,
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
    return E + A_w * width**-a + A_l * depth**-b + A_N * N**-c + B * D**-beta


LAW = Law(
    name="width_depth",
    title="Width and depth: Gemstones",
    latex=r"L = E + \frac{A_w}{w^{a}} + \frac{A_l}{l^{b}} + \frac{A_N}{N^{c}}"
    r" + \frac{B}{D^{\beta}}",
    source="McLeish et al. 2025, arXiv 2502.06857",
    about="For sweeps that vary the shape. It needs some ten shapes; with shapes along one line of "
    "width against depth the terms cannot be told apart.",
    formula=loss,
    inputs=(
        Input("width", "channels", "model width", (128, 8192)),
        Input("depth", "layers", "model depth", (2, 128)),
        Input("N", "parameters", "model size", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
    ),
    params=(
        Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("A_w", "what a narrow model loses, at width 1", (0.1, 1e3), LOG),
        Param("a", "how fast more width helps", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("A_l", "what a shallow model loses, at one layer", (0.01, 1e2), LOG),
        Param("b", "how fast more depth helps", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("A_N", "what a small model loses, at N = 1", (1.0, 1e6), LOG),
        Param("c", "how fast more parameters help", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("B", "what little data loses, at D = 1", (1.0, 1e7), LOG),
        Param("beta", "how fast more data helps", (0.1, 1.0), bounded(0.0, 3.0)),
    ),
    powers=PowerSum(
        "E",
        (("A_w", "width", "a"), ("A_l", "depth", "b"), ("A_N", "N", "c"), ("B", "D", "beta")),
    ),
    linear=("E", "A_w", "A_l", "A_N", "B"),
)
