"""Abnar et al. 2025."""

import numpy as np

from fitting import get_law
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("moe_sparsity")
assert LAW.published is not None
PUBLISHED = LAW.published.params


def test_larger_models_should_be_sparser() -> None:
    """The paper's finding: the optimal sparsity grows with the total size."""
    share = np.geomspace(1e-4, 1.0, 400)
    best = []
    for n in (1e10, 1e11, 1e12, 1e13):
        at = {"N": np.full(400, n), "D": np.full(400, 1e12), "active": share}
        best.append(share[np.argmin(LAW.loss(at, PUBLISHED))])
    assert (np.diff(best) < 0).all()
    assert 0 < best[-1] < best[0] < 1


def test_agrees_with_scipy() -> None:
    """Ten parameters, a long flat valley."""
    agrees_with_scipy(LAW, PUBLISHED, points=200, noise=1e-3, seed=4)
