"""Skaling (arXiv 2608.07222): Chinchilla's two shortages under one outer exponent.

L(N, D) = E + (A / N^alpha + B / D^beta)^k. With k = 1 this is Chinchilla; k below 1 says that the
shortages overlap. The compute-optimal N and D are those of Chinchilla with the same A, B, alpha,
beta, because the outer power does not move the minimum.
"""

from typing import Any

import numpy as np

from fitting.law import Exponential, Input, Law, Param
from fitting.links import LOG, bounded


def loss(N: Any, D: Any, *, E: Any, A: Any, B: Any, alpha: Any, beta: Any, k: Any) -> Any:
    return E + (A * N**-alpha + B * D**-beta) ** k


def exponent(N: Any, D: Any, *, A: Any, B: Any, alpha: Any, beta: Any, k: Any) -> Any:
    """ln(L - E)."""
    return k * np.log(A * N**-alpha + B * D**-beta)


LAW = Law(
    name="coupled",
    title="Coupled (Skaling): Chinchilla with an outer exponent",
    latex=r"L(N, D) = E + \left(\frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}\right)^{k}",
    source="Skaling, arXiv 2608.07222; the supervised form of Busbridge et al. 2025",
    about="The default challenger of Chinchilla: strong on wide grids (published k .31 to .90), "
    "unsafe on fewer than about fifteen runs, where k and the floor trade freely.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
    ),
    params=(
        Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("A", "what a small model loses, at N = 1, before the outer power", (1e1, 1e8), LOG),
        Param("B", "what little data loses, at D = 1, before the outer power", (1e1, 1e9), LOG),
        Param("alpha", "how fast a larger model helps, before k", (0.2, 1.2), bounded(0.0, 6.0)),
        Param("beta", "how fast more data helps, before k", (0.2, 1.2), bounded(0.0, 6.0)),
        Param("k", "1: the shortages add up; less: they overlap", (0.3, 1.2), bounded(0.05, 4.0)),
    ),
    exponential=Exponential("E", exponent),
)
