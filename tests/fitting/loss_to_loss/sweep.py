"""The public sweep of Brandfonbrener et al. 2024: six training sets, 84 to 91 runs each."""

import functools
import json
from typing import Any

import numpy as np

from fitting import Runs
from fitting.loss_to_loss.pairs import budgets
from tests.fitting import data

SETS = (
    "fineweb-100b",
    "fineweb-edu-100b",
    "proof-pile-2",
    "slimpajama-chunk1",
    "smollm-corpus",
    "starcoder",
)
OWN = "val_loss"
BIG_FLOPS = 1e21


@functools.cache
def table(name: str = "l2l_sweep") -> tuple[dict[str, str], ...]:
    return tuple(data.rows(f"loss_to_loss/{name}.csv"))


def losses(name: str, column: str = OWN) -> Runs:
    """Runs of one training set with the loss in that column."""
    rows = [r for r in table() if r["data"] == name and r[column] not in ("", "nan")]
    inputs = {"N": data.column(rows, "params"), "D": data.column(rows, "tokens")}
    return Runs(inputs, data.column(rows, column))


def compute_optimal(name: str) -> np.ndarray:
    """Rows of `losses(name)` with 16 to 23 tokens a parameter: the paper's 6 to 9 target runs."""
    runs = losses(name)
    ratio = runs.inputs["D"] / runs.inputs["N"]
    return np.asarray((ratio > 16) & (ratio < 23))


@functools.cache
def big(column: str = OWN) -> dict[str, float]:
    """Losses of the six real 3.3B models at 1e21 FLOPs, 20.7 times beyond the sweep."""
    return {r["data"]: float(r[column]) for r in table("l2l_extrapolation")}


@functools.cache
def golden() -> dict[str, Any]:
    return json.loads(data.path("loss_to_loss/golden.json").read_text())


def one_a_budget(name: str) -> np.ndarray:
    """Of `compute_optimal`, the run of each budget nearest to 20 tokens a parameter."""
    runs = losses(name)
    ratio = runs.inputs["D"] / runs.inputs["N"]
    keep = np.zeros(len(runs), bool)
    group = budgets(6 * runs.inputs["N"] * runs.inputs["D"])
    near = compute_optimal(name)
    for g in np.unique(group[near]):
        rows = np.flatnonzero(near & (group == g))
        keep[rows[np.argmin(np.abs(ratio[rows] - 20))]] = True
    return keep
