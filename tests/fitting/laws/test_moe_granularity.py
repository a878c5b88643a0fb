"""Krajewski et al. 2024."""

import numpy as np

from fitting import get_law
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("moe_granularity")
assert LAW.published is not None
PUBLISHED = LAW.published.params


def test_finer_experts_help_by_less_and_less() -> None:
    at = {"N": np.full(5, 1e9), "D": np.full(5, 1e11), "G": 2.0 ** np.arange(5)}
    loss = LAW.loss(at, PUBLISHED)
    gain = -np.diff(loss)
    assert (gain > 0).all() and (np.diff(gain) < 0).all()
    np.testing.assert_allclose(gain[1:] / gain[:-1], 2**-0.58, rtol=1e-9)


def test_without_g_it_is_chinchilla() -> None:
    chinchilla = get_law("chinchilla")
    at = {"N": np.array([1e8, 1e10]), "D": np.array([1e10, 1e12])}
    p = {"c": 0.47, "g": 0.0, "gamma": 0.58, "a": 16.3, "alpha": 0.126, "b": 26.7, "beta": 0.127}
    q = {"E": 0.47, "A": 16.3, "B": 26.7, "alpha": 0.126, "beta": 0.127}
    np.testing.assert_allclose(
        LAW.loss({**at, "G": np.ones(2)}, p), chinchilla.loss(at, q), rtol=1e-14
    )


def test_agrees_with_scipy() -> None:
    agrees_with_scipy(LAW, PUBLISHED, points=80, noise=1e-3)
