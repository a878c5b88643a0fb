"""Kaplan et al. 2020, equation 1.5, and what section 4 derives from it."""

import numpy as np
import pytest

from fitting import get_law
from fitting.laws.kaplan import overfitting, tokens_needed
from fitting.simulate import simulate_runs
from tests.fitting.second_method import agrees_with_scipy, huber_agrees

LAW = get_law("kaplan")
assert LAW.published is not None
PUBLISHED = LAW.published.params


def test_tokens_needed_is_the_papers() -> None:
    """Equation 4.4: D >~ 5e3 N^.74 keeps overfitting below the spread of seeds."""
    n = np.array([1e7, 1e8, 1e9])
    got = tokens_needed(n, **PUBLISHED)
    np.testing.assert_allclose(got, 5e3 * n**0.74, rtol=0.15)
    assert np.polyfit(np.log(n), np.log(got), 1)[0] == pytest.approx(0.74, abs=0.005)
    np.testing.assert_allclose(overfitting(n, got, **PUBLISHED), 0.02, rtol=1e-9)


def test_overfitting_is_the_excess_over_unlimited_data() -> None:
    n, d = np.array([1e8, 1e9]), np.array([1e9, 1e9])
    excess = LAW.loss({"N": n, "D": d}, PUBLISHED) / (PUBLISHED["N_c"] / n) ** 0.076 - 1
    np.testing.assert_allclose(overfitting(n, d, **PUBLISHED), excess, rtol=1e-9)


def test_agrees_with_scipy() -> None:
    agrees_with_scipy(LAW, PUBLISHED)
    huber_agrees(LAW, simulate_runs(LAW, PUBLISHED, points=40, noise=3e-3), PUBLISHED)
