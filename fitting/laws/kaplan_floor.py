"""Brandfonbrener et al. 2024, "Loss-to-Loss Prediction": Kaplan's L(N, D) with an irreducible loss.

L(N, D) = E + [(A / N)^(alpha / beta) + B / D]^beta. Unlike Chinchilla's sum, the two shortages
compete: the larger of them rules. A and B have the units of N and D.
"""

from typing import Any

import numpy as np

from fitting.law import Exponential, Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(N: Any, D: Any, *, E: Any, A: Any, B: Any, alpha: Any, beta: Any) -> Any:
    return E + ((A / N) ** (alpha / beta) + B / D) ** beta


def exponent(N: Any, D: Any, *, A: Any, B: Any, alpha: Any, beta: Any) -> Any:
    """ln(L - E)."""
    return beta * np.log((A / N) ** (alpha / beta) + B / D)


LAW = Law(
    name="kaplan_floor",
    title="Kaplan form with a floor",
    latex=r"L(N, D) = E + \left[\left(\frac{A}{N}\right)^{\alpha / \beta}"
    r" + \frac{B}{D}\right]^{\beta}",
    source="Brandfonbrener et al. 2024, arXiv 2411.12925, eq. 2",
    about="Extrapolates better than Chinchilla on some isoFLOP grids and worse on others; "
    "compare both on held-out runs.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
    ),
    params=(
        Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("A", "size at which the size term would be 1 nat", (1e5, 1e11), LOG),
        Param("B", "tokens at which the data term would be 1 nat", (1e6, 1e12), LOG),
        Param("alpha", "how fast a larger model helps", (0.1, 1.0), bounded(1e-3, 3.0)),
        Param("beta", "how fast more data helps", (0.1, 1.0), bounded(1e-3, 3.0)),
    ),
    exponential=Exponential("E", exponent),
    published=Published(
        {
            "E": 2.170014475198798,
            "A": 67873135.34438552,
            "B": 931024497.4102619,
            "alpha": 0.4107232461462465,
            "beta": 0.4530876781023781,
        },
        at={"N": 3309980160.0, "D": 50352769083.264435},
        loss=2.4226044131270292,
        source="Brandfonbrener et al. 2024, the authors' fit to FineWeb, their 3.3B prediction",
        rtol=1e-6,
    ),
)
