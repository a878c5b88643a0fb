"""Hoffmann et al. 2022 / Besiroglu et al. 2024: numbers that others found on the same rows."""

import numpy as np
import pytest

from fitting import AllocationProblem, Objective, allocate, fit, get_law
from tests.fitting import data

LAW = get_law("chinchilla")


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("huber-log", 0.0010182740178006), ("squares-log", 0.0057309434958493)],
)
def test_reaches_the_certified_optimum(kind: str, objective: float) -> None:
    """20,000 random starts of a compiled Newton found nothing below these."""
    found = fit(LAW, data.epoch(), objective=Objective(kind), draws=0)
    assert found.objective_value == pytest.approx(objective, rel=1e-10)
    assert found.status == "converged"
    assert found.certificate["agreeing"] == found.certificate["starts"]


def test_huber_parameters() -> None:
    got = fit(LAW, data.epoch(), draws=0).params
    expected = {"E": 1.81722, "A": 477.83, "B": 2143.4, "alpha": 0.34731, "beta": 0.36717}
    assert got == pytest.approx(expected, rel=2e-5)


def test_least_absolute_deviations_are_besiroglus_printed_constants() -> None:
    got = fit(LAW, data.epoch(), objective=Objective("lad-log"), draws=0).params
    printed = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
    assert got == pytest.approx(printed, rel=2e-4)


def test_all_245_rows() -> None:
    got = fit(LAW, data.epoch(used=False), draws=0).params
    assert got["E"] == pytest.approx(1.8913, abs=5e-5)
    assert got["B"] == pytest.approx(12846, rel=1e-3)
    assert got["beta"] == pytest.approx(0.4530, abs=5e-5)


def test_bootstrap_reproduces_the_published_intervals() -> None:
    """Besiroglu et al., 4,000 resamples, 95 %; the tolerance is their Monte Carlo error."""
    f = fit(LAW, data.epoch(), draws=4000, level=0.95)
    low_high = f.intervals()
    printed = {
        "A": (285.2, 743.6),
        "B": (1042, 5810),
        "E": (1.769, 1.871),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }
    for name, (low, high) in printed.items():
        assert low_high[name] == pytest.approx((low, high), rel=0.06), name
    a = allocate(AllocationProblem(fit=f, budget_flops=5.76e23, level=0.95))
    assert a.optimal["N"] == pytest.approx(74e9, rel=0.02)
    assert a.optimal["tokens_per_parameter"] == pytest.approx(17.4, rel=0.05)
    assert a.intervals["N"] == pytest.approx((51e9, 113e9), rel=0.05)
    assert a.intervals["tokens_per_parameter"] == pytest.approx((7.5, 36.4), rel=0.08)


def test_closed_allocation_is_the_numerical_one() -> None:
    f = fit(LAW, data.epoch(), draws=0)
    for budget in (1e20, 5.76e23, 1e26):
        a = allocate(AllocationProblem(fit=f, budget_flops=budget))
        assert a.closed_form is not None
        assert a.closed_form["relative_gap"] < 1e-6
        assert 6 * a.optimal["N"] * a.optimal["D"] == pytest.approx(budget, rel=1e-12)
        low, high = a.valley["N"]
        assert low < a.optimal["N"] < high
        for n in (low, high):
            at = f.predict({"N": n, "D": budget / 6 / n}).value[0]
            assert at <= a.optimal["loss"] * 1.001 + 1e-12
    assert np.isclose(a.exponents["a"] + a.exponents["b"], 1.0)
