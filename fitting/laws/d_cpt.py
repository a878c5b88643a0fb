"""Que et al. 2024, "D-CPT Law: Domain-specific Continual Pre-Training Scaling Law".

L(N, D, r) = E + A / N^alpha + B r^eta / D^beta + C / (r + epsilon)^gamma

The final loss on one domain after continual pre-training on D tokens, of which the share r is of
that domain. Final losses only: for the loss along the way, and other schedules, see
`fitting.curves.continual`.
"""

from typing import Any

from fitting.law import Input, Law, Param
from fitting.links import LOG, bounded


def loss(
    N: Any, D: Any, r: Any, *, E: Any, A: Any, B: Any, C: Any, alpha: Any, beta: Any, eta: Any,
    gamma: Any, epsilon: Any,
) -> Any:  # fmt: skip
    return E + A * N**-alpha + B * r**eta * D**-beta + C * (r + epsilon) ** -gamma


LAW = Law(
    name="d_cpt",
    title="Final loss of continual pre-training",
    latex=r"L(N, D, r) = E + \frac{A}{N^\alpha} + \frac{B\, r^\eta}{D^\beta}"
    r" + \frac{C}{(r + \epsilon)^\gamma}",
    source="Que et al. 2024, arXiv 2406.01375",
    about="The final loss on a domain of which the share r was in the mixture. Needs runs at "
    "several sizes, lengths and shares; the last term and E are told apart by the shares alone.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size", (1e8, 1e10)),
        Input("D", "tokens", "tokens of continual pre-training", (1e9, 1e11)),
        Input("r", "share", "share of the domain in the mixture", (0.05, 1.0)),
    ),
    params=(
        Param("E", "the loss that stays", (0.3, 2.0), LOG),
        Param("A", "size of what parameters remove", (10.0, 1e3), LOG),
        Param("B", "size of what tokens remove", (10.0, 1e4), LOG),
        Param("C", "size of what the share removes", (0.05, 1.0), LOG),
        Param("alpha", "exponent of N", (0.2, 0.5), bounded(0.01, 2.0)),
        Param("beta", "exponent of D", (0.2, 0.5), bounded(0.01, 2.0)),
        Param("eta", "how tokens and share go together", (0.1, 0.5), bounded(-1.0, 3.0)),
        Param("gamma", "exponent of the share", (0.2, 0.8), bounded(0.01, 3.0)),
        Param("epsilon", "share that stands for none", (0.02, 0.2), bounded(1e-3, 1.0, log=True)),
    ),
    linear=("E", "A", "B", "C"),
)
