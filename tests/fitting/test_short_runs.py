"""Runs that have not reached the power-law regime: short ones of our own trainer.

ours/short_runs.csv: five tiny models read after 8 to 64 steps at a constant learning rate; the
script beside it made them.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from fitting import Runs, fit, get_law

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
