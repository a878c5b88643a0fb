"""Kaplan et al. 2020, equation 1.6, the critical batch size and section 6."""

import pytest

from fitting import get_law
from fitting.laws.kaplan_compute import PF_DAY
from fitting.laws.kaplan_steps import (
    compute_exponent,
    critical_batch,
    minimum_compute,
    minimum_steps,
    optimal_allocation,
)
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("kaplan_steps")
assert LAW.published is not None
PUBLISHED = LAW.published.params


def test_critical_batch_doubles_for_13_percent_less_loss() -> None:
    """The caption of figure 10."""
    assert critical_batch(0.87 * 3.0) / critical_batch(3.0) == pytest.approx(2.0, rel=0.04)
    assert critical_batch(3.0) == pytest.approx(1.07e6, rel=0.01)


def test_time_and_compute_trade_as_a_hyperbola() -> None:
    """(S / S_min - 1)(E / E_min - 1) = 1, E = B S, E_min = B_crit S_min (eq. 5.1 and 5.2)."""
    S, B, L = 2e4, 2.0**19, 3.0
    s_min = minimum_steps(S, B, L)
    e_min = critical_batch(L) * s_min
    assert (S / s_min - 1) * (B * S / e_min - 1) == pytest.approx(1.0)
    N = 1e8
    assert minimum_compute(6 * N * B * S, B, L) == pytest.approx(6 * N * e_min)


def test_exponent_of_compute() -> None:
    """Equation 6.4 prints about .054; the exponents of table 3 give .0524."""
    got = compute_exponent(alpha_N=PUBLISHED["alpha_N"], alpha_S=PUBLISHED["alpha_S"])
    assert got == pytest.approx(0.0525, abs=2e-4)


def test_allocation_at_one_petaflop_day() -> None:
    at = optimal_allocation(PF_DAY)
    assert at == {"N": 1.3e9, "batch_tokens": 2.0e6, "S": 5.4e3, "D": 2.0e10}
    assert 6 * at["N"] * at["batch_tokens"] * at["S"] == pytest.approx(PF_DAY, rel=0.05)


def test_agrees_with_scipy() -> None:
    agrees_with_scipy(LAW, PUBLISHED)
