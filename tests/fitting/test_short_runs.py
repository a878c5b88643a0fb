"""Runs that have not reached the power-law regime: short ones of our own trainer.

ours/short_runs.csv: five tiny models read after 8 to 64 steps at a constant learning rate; the
script beside it made them.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from fitting import Runs, fit, get_law
from tests.benchmarks.truths import simulated
from tests.fitting import data

FILE = Path(__file__).parent / "ours" / "short_runs.csv"
LAW = get_law("chinchilla")


def short_runs(**more: object) -> Runs:
    with FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    N, D, loss = (np.array([float(r[k]) for r in rows]) for k in ("N", "D", "loss"))
    return Runs({"N": N, "D": D}, loss, run=[r["run"] for r in rows], **more)


def test_short_runs_are_not_taken_for_a_law() -> None:
    """In the transient loss falls faster than any power law of trained-out runs."""
    found = fit(LAW, short_runs(cooled=np.zeros(35)), draws=60)
    said = {w.code: w.message for w in found.warnings}
    assert found.params["beta"] > 0.8
    assert "initial transient" in said["steep_exponent"]
    assert "unfinished_schedules" in said


def test_an_exponent_that_moves_with_the_cut_is_said() -> None:
    """Without the shortest ten runs beta is .72 instead of 1.61: these are no power laws yet."""
    found = fit(LAW, short_runs(), draws=0)
    (said,) = [w.message for w in found.warnings if w.code == "exponent_moves_with_the_cut"]
    assert said.startswith("beta falls") and "1.61 -> " in said and " -> 0.72 " in said
    alone = fit(get_law("tied"), short_runs(), draws=0)
    assert "exponent_moves_with_the_cut" in {w.code for w in alone.warnings}


@pytest.mark.parametrize("form", ["exact", "coupled", "broken", "repeated"])
def test_exponents_of_clean_simulated_runs_stand_still(form: str) -> None:
    for task in simulated(2, 5000):
        if task.family == f"{form}, clean runs":
            codes = {w.code for w in fit(LAW, task.train, draws=0).warnings}
            assert "exponent_moves_with_the_cut" not in codes, task.name


def test_exponents_of_published_runs_move_less() -> None:
    for runs in (data.epoch(), data.epoch(used=False)):
        codes = {w.code for w in fit(LAW, runs, draws=0).warnings}
        assert "exponent_moves_with_the_cut" not in codes


@pytest.mark.parametrize("law", ["chinchilla", "tied", "kaplan_floor"])
def test_whatever_the_law(law: str) -> None:
    codes = {w.code for w in fit(get_law(law), short_runs(), draws=40).warnings}
    assert codes & {"steep_exponent", "drift_of_one_sign"}


def test_the_exponent_falls_towards_the_regime_as_the_short_ones_go() -> None:
    runs = short_runs()
    beta = [
        fit(LAW, runs.select(runs.inputs["D"] >= least), draws=0).params["beta"]
        for least in (4000, 8000)
    ]
    assert beta[1] < 0.5 * beta[0]
