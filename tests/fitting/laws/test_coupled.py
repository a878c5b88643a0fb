"""Skaling's coupled form: the outer exponent and held-out errors that others measured."""

import numpy as np
import pytest

from fitting import Objective, Runs, get_law
from fitting.engine import Engine
from tests.fitting import data
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("coupled")
TRUTH = {"E": 1.6, "A": 5e3, "B": 2e4, "alpha": 0.55, "beta": 0.6, "k": 0.6}


@pytest.mark.parametrize(("below", "above", "percent"), [(1e20, 3e20, 1.40), (3e20, 1e21, 1.44)])
def test_held_out_error(below: float, above: float, percent: float) -> None:
    assert data.held_out_percent(LAW, below, above) == pytest.approx(percent, abs=0.006)


def test_outer_exponent_on_gemstones() -> None:
    """k = .43 on the 22 shapes of McLeish et al., from 10B tokens on."""
    table = data.rows("parametric/gemstones_hot_100bplus.csv")
    runs = Runs({k: data.column(table, k) for k in ("N", "D")}, data.column(table, "loss"))
    found = Engine.of(LAW, runs, Objective()).cold(count=2)
    assert dict(zip(LAW.param_names, found.values, strict=True))["k"] == pytest.approx(
        0.43, abs=0.005
    )


def test_is_chinchilla_at_k_1() -> None:
    chinchilla = get_law("chinchilla")
    assert chinchilla.published is not None
    p = chinchilla.published.params
    at = {"N": np.array([1e8, 1e10]), "D": np.array([1e10, 1e12])}
    np.testing.assert_allclose(LAW.loss(at, {**p, "k": 1.0}), chinchilla.loss(at, p), rtol=1e-14)


def test_agrees_with_scipy() -> None:
    agrees_with_scipy(LAW, TRUTH, points=80)
