"""Chinchilla with one exponent for both terms (Hoffmann et al. 2022, eq. 2, with alpha = beta).

The right choice where the design cannot tell the two exponents apart (few runs, or all of them
near one ratio D/N): Muennighoff et al. 2023 (arXiv 2305.16264) fit this form, and so do Gadre et
al. 2024, see `over_training`. The optimum then keeps D/N the same at every budget.
"""

from typing import Any

from fitting.law import Input, Law, Param, PowerSum, Published
from fitting.links import LOG, bounded


def loss(N: Any, D: Any, *, E: Any, A: Any, B: Any, alpha: Any) -> Any:
    return E + A * N**-alpha + B * D**-alpha


LAW = Law(
    name="tied",
    title="Tied exponents: Chinchilla with alpha = beta",
    latex=r"L(N, D) = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\alpha}}",
    source="Hoffmann et al. 2022, arXiv 2203.15556, eq. 2 with alpha = beta; "
    "constants of Muennighoff et al. 2023, arXiv 2305.16264",
    about="Three shape parameters instead of five: for small sets, and for sets that lie along one "
    "ratio of tokens to parameters. The compute-optimal D/N does not change with the budget.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
    ),
    params=(
        Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("A", "what a small model loses, at N = 1", (1.0, 1e6), LOG),
        Param("B", "what little data loses, at D = 1", (1.0, 1e7), LOG),
        Param("alpha", "how fast more of either helps", (0.1, 1.0), bounded(0.0, 3.0)),
    ),
    published=Published(
        # Given as exp(6.255414), exp(7.3049974), exp(.6254804): the C4 fit on unique tokens.
        {"E": 1.86914368, "A": 520.824952, "B": 1487.71609, "alpha": 0.3526596},
        at={"N": 2.8e9, "D": 55e9},
        loss=2.35440,
        source="Muennighoff et al. 2023, arXiv 2305.16264, appendix A",
        rtol=1e-4,
    ),
    powers=PowerSum("E", (("A", "N", "alpha"), ("B", "D", "alpha"))),
    linear=("E", "A", "B"),
)
