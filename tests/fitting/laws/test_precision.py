"""Kumar et al. 2024: the two forms, their limits, and a known truth recovered."""

import numpy as np
import pytest

from fitting import get_law
from fitting.laws.precision import effective_size
from tests.fitting.second_method import agrees_with_scipy

CHINCHILLA = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}
BITS = {"gamma_w": 2.6, "gamma_a": 2.2, "gamma_kv": 1.0}
POST = {"C_T": 0.05, "gamma_D": 0.5, "gamma_N": 0.45, "gamma_post": 0.7}


def test_many_bits_are_chinchilla() -> None:
    at = {"N": np.array([1e8, 1e10]), "D": np.array([1e10, 1e12])}
    expected = get_law("chinchilla").loss(at, CHINCHILLA)
    bits = {k: np.full(2, 400.0) for k in ("P_w", "P_a", "P_kv")}
    in_training = get_law("precision").loss({**at, **bits}, CHINCHILLA | BITS)
    np.testing.assert_allclose(in_training, expected, rtol=1e-13)
    after = get_law("precision_post").loss({**at, "P_post": np.full(2, 400.0)}, CHINCHILLA | POST)
    np.testing.assert_allclose(after, expected, rtol=1e-13)


def test_few_bits_make_a_smaller_model() -> None:
    """Each precision alone keeps 1 - exp(-P / gamma) of the parameters; together, the product."""
    kept = effective_size(1.0, 4.0, 4.0, 4.0, **BITS)
    parts = [1 - np.exp(-4.0 / g) for g in BITS.values()]
    assert kept == pytest.approx(np.prod(parts))


def test_more_training_makes_the_quantised_model_worse_in_the_end() -> None:
    D = np.geomspace(1e9, 1e15, 200)
    at = {"N": np.full(200, 1e9), "D": D, "P_post": np.full(200, 3.0)}
    loss = get_law("precision_post").loss(at, CHINCHILLA | POST)
    best = int(np.argmin(loss))
    assert 0 < best < 199


@pytest.mark.parametrize(
    ("name", "truth"), [("precision", CHINCHILLA | BITS), ("precision_post", CHINCHILLA | POST)]
)
def test_agrees_with_scipy(name: str, truth: dict[str, float]) -> None:
    agrees_with_scipy(get_law(name), truth, points=100, noise=1e-3)
