"""Ludziejewski et al. 2025: the reductions that the paper prints for one and for eight experts."""

import numpy as np
import pytest

from fitting import get_law
from fitting.laws.moe_joint import effective_experts
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("moe_joint")
assert LAW.published is not None
PUBLISHED = LAW.published.params


@pytest.mark.parametrize(
    ("experts", "a", "alpha", "b", "beta"),
    [(1, 30.36, -0.1817, 53.98, -0.1965), (8, 21.83, -0.1676, 119.9, -0.2338)],
)
def test_reduces_to_the_papers_chinchilla_laws(
    experts: int, a: float, alpha: float, b: float, beta: float
) -> None:
    e = effective_experts(experts, E_start=PUBLISHED["E_start"], E_max=PUBLISHED["E_max"])
    p = PUBLISHED
    assert p["alpha"] + p["gamma"] * np.log(e) == pytest.approx(alpha, abs=6e-5)
    assert p["beta"] + p["zeta"] * np.log(e) == pytest.approx(beta, abs=1.5e-4)
    assert p["a"] * e ** p["delta"] == pytest.approx(a, rel=2e-3)
    assert p["b"] * e ** p["omega"] == pytest.approx(b, rel=3e-3)
    at = {"N": np.array([1e8, 1e10]), "D": np.array([1e10, 1e12])}
    reduced = a * at["N"] ** alpha + b * at["D"] ** beta + p["c"]
    got = LAW.loss({**at, "experts": np.full(2, float(experts))}, p)
    np.testing.assert_allclose(got, reduced, rtol=1e-3)


def test_experts_saturate() -> None:
    start, most = PUBLISHED["E_start"], PUBLISHED["E_max"]
    assert effective_experts(1.0, E_start=start, E_max=most) == pytest.approx(start)
    assert effective_experts(1e9, E_start=start, E_max=most) == pytest.approx(most, rel=1e-5)


def test_agrees_with_scipy() -> None:
    agrees_with_scipy(LAW, PUBLISHED, points=150, noise=1e-3)
