"""Kaplan et al. 2020, equation 1.1: straight lines on log-log paper have a closed-form fit."""

import numpy as np
import pytest

from fitting import Objective, fit, get_law
from fitting.simulate import simulate_runs

LAW = get_law("kaplan_size")


def test_least_squares_is_the_regression_line() -> None:
    assert LAW.published is not None
    runs = simulate_runs(LAW, LAW.published.params, points=40, noise=0.01, seed=2)
    slope, intercept = np.polyfit(np.log(runs.inputs["N"]), np.log(runs.loss), 1)
    got = fit(LAW, runs, objective=Objective("squares-log"), draws=0)
    assert got.params["alpha_N"] == pytest.approx(-slope, rel=1e-9)
    assert got.params["N_c"] == pytest.approx(np.exp(-intercept / slope), rel=1e-7)
    line = np.exp(intercept + slope * np.log(runs.inputs["N"]))
    np.testing.assert_allclose(got.predict(runs.inputs).value, line, rtol=1e-9)


def test_ten_times_the_parameters() -> None:
    """Each decade of N takes 16% off the loss (10^-.076 = .839)."""
    assert LAW.published is not None
    small, large = LAW.loss({"N": [1e8, 1e9]}, LAW.published.params)
    assert large / small == pytest.approx(0.8395, abs=1e-4)
