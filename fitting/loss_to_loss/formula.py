"""Brandfonbrener et al. 2024, "Loss-to-Loss Prediction" (arXiv 2411.12925): one shifted power law.

L_1 = K (L_0 - E_0)^kappa + E_1. If every loss less its floor is a power of one common z(N, D),
then any two losses are tied by exactly this.
"""

from typing import Any

import numpy as np

from fitting.links import Floats

PARAMS = ("kappa", "K", "E0", "E1")


def linked_loss(x: Any, *, kappa: Any, K: Any, E0: Any, E1: Any) -> Any:
    """The target loss that goes with source loss x. NaN where x <= E0: never clipped."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gap = np.asarray(x, dtype=float) - E0
        return K * np.where(gap > 0, gap, np.nan) ** kappa + E1


def at(params: Floats, x: Any) -> Floats:
    """Target losses [..., points] for params [..., 4] in the order of PARAMS."""
    kappa, K, E0, E1 = (np.asarray(params)[..., j, None] for j in range(4))
    return np.asarray(linked_loss(x, kappa=kappa, K=K, E0=E0, E1=E1))


def slope(params: Floats, x: Any) -> Floats:
    """d L_1 / d L_0 at x, [..., points]."""
    kappa, K, E0, _ = (np.asarray(params)[..., j, None] for j in range(4))
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.asarray(x, dtype=float) - E0
        return np.asarray(K * kappa * np.where(gap > 0, gap, np.nan) ** (kappa - 1.0))


def inverse(params: Floats) -> Floats:
    """The link the other way, [..., 4]: from target to source. Exact for one curve."""
    kappa, K, E0, E1 = (np.asarray(params)[..., j] for j in range(4))
    return np.stack([1.0 / kappa, K ** (-1.0 / kappa), E1, E0], axis=-1)


def chained(first: Floats, second: Floats) -> Floats:
    """The link 0 -> 2 from 0 -> 1 and 1 -> 2, both [4], where they agree about E_1.

    (K_2 (K_1 g^k1 + E_1 - E_1)^k2 + E_2); the second link's own E_1 is taken to be the first's.
    """
    k1, K1, E0, _ = first
    k2, K2, _, E2 = second
    return np.array([k1 * k2, K2 * K1**k2, E0, E2])
