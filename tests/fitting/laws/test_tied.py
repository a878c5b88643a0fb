"""Tied exponents: held-out errors that another engine measured on Epoch's rows."""

import numpy as np
import pytest

from fitting import AllocationProblem, Objective, allocate, fit, get_law
from fitting.engine import Engine
from tests.fitting import data
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("tied")


@pytest.mark.parametrize(
    ("name", "below", "above", "percent"),
    [
        ("tied", 1e20, 3e20, 0.99),
        ("tied", 3e20, 1e21, 1.16),
        ("chinchilla", 1e20, 3e20, 1.09),
        ("chinchilla", 3e20, 1e21, 1.46),
    ],
)
def test_held_out_error(name: str, below: float, above: float, percent: float) -> None:
    assert data.held_out_percent(get_law(name), below, above) == pytest.approx(percent, abs=0.006)


def test_agrees_with_scipy() -> None:
    assert LAW.published is not None
    agrees_with_scipy(LAW, LAW.published.params)


def test_optimal_ratio_does_not_move_with_the_budget() -> None:
    """dL/dlnN = dL/dlnD gives D/N = (B / A)^(1/alpha) at every budget."""
    f = fit(LAW, data.epoch(), draws=0)
    ratio = (f.params["B"] / f.params["A"]) ** (1 / f.params["alpha"])
    for budget in (1e21, 1e25):
        best = allocate(AllocationProblem(fit=f, budget_flops=budget)).optimal
        assert best["D"] / best["N"] == pytest.approx(ratio, rel=1e-4)


def test_is_chinchilla_with_equal_exponents() -> None:
    runs = data.epoch()
    p = dict(zip(LAW.param_names, Engine.of(LAW, runs, Objective()).cold().values, strict=True))
    both = get_law("chinchilla").loss(
        runs.inputs,
        {"E": p["E"], "A": p["A"], "B": p["B"], "alpha": p["alpha"], "beta": p["alpha"]},
    )
    np.testing.assert_allclose(LAW.loss(runs.inputs, p), both, rtol=1e-14)
