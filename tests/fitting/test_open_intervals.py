"""What the runs cannot see is open: never an interval of no width, never a silent prediction."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fitting import Fit, Runs, fit, get_law
from tests.fitting.test_diagnose import LAW, TRUE, codes, grid, runs


def one_size() -> Runs:
    return runs(np.full(12, 1e8), np.geomspace(1e9, 1e11, 12))


def one_corpus() -> Runs:
    return runs(np.geomspace(1e7, 1e9, 12), np.full(12, 1e10))


def in_step() -> Runs:
    N = np.geomspace(1e7, 1e10, 24)
    return runs(N, 20 * N)


def no_floor() -> Runs:
    N, D = grid(6, 5)
    return Runs({"N": N, "D": D}, 400 * N**-0.3 + 3000 * D**-0.4)


@pytest.mark.parametrize(
    ("data", "open_", "closed"),
    [
        (one_size(), {"E", "A", "alpha"}, {"B", "beta"}),
        (one_corpus(), {"E", "B", "beta"}, {"A", "alpha"}),
        (in_step(), {"A", "B", "alpha", "beta"}, {"E"}),
    ],
    ids=["one size", "one corpus", "in step"],
)
def test_what_the_design_leaves_open_has_no_ends(
    data: Runs, open_: set[str], closed: set[str]
) -> None:
    found = fit(LAW, data, draws=60)
    assert found.status == "degenerate" and set(found.unidentified) == open_
    for name, (low, high) in found.intervals().items():
        if name in open_:
            assert low is None and high is None
        if name in closed:
            assert low is not None and high is not None and low < found.params[name] < high
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["intervals"][min(open_)] == [None, None]
    again = Fit.from_dict(document)
    assert again.intervals() == found.intervals() and again.data == found.data


def test_the_floor_of_runs_that_show_none_is_open_downwards() -> None:
    found = fit(LAW, no_floor(), draws=60)
    assert found.intervals()["E"] == (None, None)
    noisy = Runs(no_floor().inputs, no_floor().loss * (1 + 0.004 * np.cos(np.arange(30) ** 2)))
    low, high = fit(LAW, noisy, draws=60).intervals()["E"]
    assert low is None and (high is None or high > 0)


def test_a_parameter_at_its_bound_is_open_there() -> None:
    """Loss falls with every decade of D alike, as no power law with a floor does."""
    N, D = grid(6, 5)
    loss = 9.0 + 40 * N**-0.3 - 0.25 * np.log(D)
    found = fit(LAW, Runs({"N": N, "D": D}, loss), draws=60)
    assert "parameter_at_bound" in codes(found) or "floor_vanishes" in codes(found)
    ends = found.intervals()
    assert any(None in pair for pair in ends.values())


def test_no_interval_of_a_noisy_fit_has_no_width() -> None:
    for data in (one_size(), one_corpus(), in_step(), runs(*grid())):
        for name in ("chinchilla", "tied"):
            found = fit(get_law(name), data, draws=60)
            for low, high in found.intervals().values():
                assert low is None or high is None or high - low > 1e-9 * abs(high)


@pytest.mark.parametrize(
    ("data", "on", "off", "said"),
    [
        (one_size(), {"N": 1e8, "D": 1e12}, {"N": 1e9, "D": 1e11}, "N = 1e+08"),
        (in_step(), {"N": 1e11, "D": 2e12}, {"N": 1e11, "D": 2e11}, "own path"),
    ],
    ids=["one size", "in step"],
)
def test_a_prediction_off_the_seen_line_says_so(
    data: Runs, on: dict[str, float], off: dict[str, float], said: str
) -> None:
    found = fit(LAW, data, draws=20)
    assert not found.predict(on).warnings
    (warned,) = found.predict(off).warnings
    assert warned["code"] == "off_the_seen_line" and said in warned["message"]
    assert found.predict(off).to_dict()["warnings"] == [warned]


def test_a_prediction_by_a_fit_that_did_not_converge_says_so() -> None:
    found = replace(fit(LAW, runs(*grid()), draws=20), status="not_converged", message="Stopped.")
    (warned,) = found.predict({"N": 1e8, "D": 1e9}).to_dict()["warnings"]
    assert warned == {"code": "fit_not_converged", "message": "Stopped."}


def test_beyond_runs_without_a_floor_the_prediction_says_so() -> None:
    found = fit(LAW, no_floor(), draws=20)
    assert [w["code"] for w in found.predict({"N": 1e12, "D": 1e13}).warnings] == ["floor_unknown"]
    assert not found.predict({"N": 1e8, "D": 1e9}).warnings


def test_a_sound_grid_is_closed_and_silent() -> None:
    found = fit(LAW, runs(*grid()), draws=60)
    assert found.unidentified == () and not found.data.lines
    assert all(None not in pair for pair in found.intervals().values())
    assert not found.predict({"N": 1e11, "D": 1e12}).warnings
    assert TRUE["E"] > 0
