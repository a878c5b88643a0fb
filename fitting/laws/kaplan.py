"""Kaplan et al. 2020, "Scaling Laws for Neural Language Models", equation 1.5: L(N, D).

One law for both limits: it becomes L(N) as D grows and L(D) as N grows, and says how much data a
model needs before it overfits. `kaplan_floor` is the same form with an irreducible loss.
"""

from typing import Any

import numpy as np

from fitting.law import Exponential, Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(N: Any, D: Any, *, N_c: Any, D_c: Any, alpha_N: Any, alpha_D: Any) -> Any:
    return ((N_c / N) ** (alpha_N / alpha_D) + D_c / D) ** alpha_D


def exponent(N: Any, D: Any, *, N_c: Any, D_c: Any, alpha_N: Any, alpha_D: Any) -> Any:
    """The logarithm of the loss."""
    return alpha_D * np.log((N_c / N) ** (alpha_N / alpha_D) + D_c / D)


LAW = Law(
    name="kaplan",
    title="Kaplan L(N, D): model size and tokens, no floor",
    latex=r"L(N, D) = \left[\left(\frac{N_c}{N}\right)^{\alpha_N / \alpha_D}"
    r" + \frac{D_c}{D}\right]^{\alpha_D}",
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5",
    about="N leaves the embeddings out. Without a floor it is too hopeful far beyond the data.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size, without embeddings", (1e6, 1e10)),
        Input("D", "tokens", "distinct training tokens", (1e8, 1e12)),
    ),
    params=(
        Param("N_c", "size at which L(N) would be 1 nat", (1e9, 1e17), LOG),
        Param("D_c", "tokens at which L(D) would be 1 nat", (1e9, 1e17), LOG),
        Param("alpha_N", "how fast a larger model helps", (0.03, 0.3), bounded(1e-3, 3.0)),
        Param("alpha_D", "how fast more data helps", (0.03, 0.3), bounded(1e-3, 3.0)),
    ),
    exponential=Exponential(None, exponent),
    published=Published(
        {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
        at={"N": 1e9, "D": 22e9},
        loss=2.36932,
        source="Kaplan et al. 2020, table 2",
        rtol=1e-4,
    ),
)


def overfitting(N: Any, D: Any, *, N_c: Any, D_c: Any, alpha_N: Any, alpha_D: Any) -> Any:
    """delta L = L(N, D) / L(N, infinity) - 1 (eq. 4.3): what the limited data costs."""
    return (1.0 + (N / N_c) ** (alpha_N / alpha_D) * D_c / D) ** alpha_D - 1.0


def tokens_needed(
    N: Any, delta: float = 0.02, *, N_c: Any, D_c: Any, alpha_N: Any, alpha_D: Any
) -> Any:
    """Distinct tokens at which the data costs at most `delta`, as a fraction of the loss (eq. 4.4).

    With the paper's constants and its delta of .02 (the spread between seeds): 5e3 N^.74.
    """
    return D_c * (N / N_c) ** (alpha_N / alpha_D) / ((1.0 + delta) ** (1.0 / alpha_D) - 1.0)
