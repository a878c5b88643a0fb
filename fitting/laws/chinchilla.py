"""Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", equation 2.

L(N, D) = E + A / N^alpha + B / D^beta. E is the entropy of the text, the second term what a model
of N parameters must lose against a perfect one, the third what D tokens leave unlearned.
Constants: Besiroglu et al. 2024 (arXiv 2404.10102, table 1), refitted to the paper's own figure,
since the paper's printed constants do not minimise its stated objective.
"""

from typing import Any

from fitting.law import Input, Law, Param, PowerSum, Published
from fitting.links import LOG, bounded


def loss(N: Any, D: Any, *, E: Any, A: Any, B: Any, alpha: Any, beta: Any) -> Any:
    return E + A * N**-alpha + B * D**-beta


LAW = Law(
    name="chinchilla",
    title="Chinchilla: loss from model size and tokens",
    latex=r"L(N, D) = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}",
    source="Hoffmann et al. 2022, arXiv 2203.15556, eq. 2; constants of Besiroglu et al. 2024",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
    ),
    params=(
        Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("A", "what a small model loses, at N = 1", (1.0, 1e6), LOG),
        Param("B", "what little data loses, at D = 1", (1.0, 1e7), LOG),
        Param("alpha", "how fast a larger model helps", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("beta", "how fast more data helps", (0.1, 1.0), bounded(0.0, 3.0)),
    ),
    published=Published(
        {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        at={"N": 70e9, "D": 1.4e12},
        loss=1.9739,
        source="Besiroglu et al. 2024, arXiv 2404.10102, table 1",
        rtol=1e-4,
    ),
    powers=PowerSum("E", (("A", "N", "alpha"), ("B", "D", "beta"))),
    linear=("E", "A", "B"),
)
