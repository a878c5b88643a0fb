"""Kaplan et al. 2020, equation 1.2."""

import numpy as np
import pytest

from fitting import Objective, fit, get_law
from fitting.simulate import simulate_runs

LAW = get_law("kaplan_data")


def test_least_squares_is_the_regression_line() -> None:
    assert LAW.published is not None
    runs = simulate_runs(LAW, LAW.published.params, points=40, noise=0.01, seed=2)
    slope, intercept = np.polyfit(np.log(runs.inputs["D"]), np.log(runs.loss), 1)
    got = fit(LAW, runs, objective=Objective("squares-log"), draws=0)
    assert got.params["alpha_D"] == pytest.approx(-slope, rel=1e-9)
    line = np.exp(intercept + slope * np.log(runs.inputs["D"]))
    np.testing.assert_allclose(got.predict(runs.inputs).value, line, rtol=1e-9)


def test_is_the_limit_of_the_joint_law() -> None:
    """L(N, D) becomes (D_c / D)^alpha_D as N grows."""
    joint = get_law("kaplan")
    assert joint.published is not None
    p = joint.published.params
    D = np.array([1e9, 1e11])
    limit = joint.loss({"N": np.full(2, 1e40), "D": D}, p)
    alone = LAW.loss({"D": D}, {"D_c": p["D_c"], "alpha_D": p["alpha_D"]})
    np.testing.assert_allclose(limit, alone, rtol=1e-9)
