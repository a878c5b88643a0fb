"""Real runs of other people, from the folder SCALING_DATA (default ../shared/data)."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from fitting import Law, Objective, Runs
from fitting.engine import Engine

ROOT = Path(os.environ.get("SCALING_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def path(name: str) -> Path:
    """The file, or a skip that says what is missing."""
    found = ROOT / name
    if not found.exists():
        pytest.skip(f"{found} is missing; set SCALING_DATA to the folder with the public runs")
    return found


def rows(name: str) -> list[dict[str, str]]:
    with path(name).open(newline="") as file:
        return list(csv.DictReader(file))


def column(table: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in table])


def epoch(used: bool = True) -> Runs:
    """The 240 rows of Besiroglu et al. (or all 245)."""
    table = rows("parametric/epoch_chinchilla.csv")
    if used:
        table = [row for row in table if row["epoch_used"] == "True"]
    return Runs({k: column(table, k) for k in ("N", "D")}, column(table, "loss"))


def held_out_percent(law: Law, below: float, above: float) -> float:
    """Mean absolute error in % on Epoch's rows with C >= above, fitted to those with C < below."""
    table = [row for row in rows("parametric/epoch_chinchilla.csv") if row["epoch_used"] == "True"]
    C, loss = column(table, "C"), column(table, "loss")
    inputs = {k: column(table, k) for k in ("N", "D")}
    small, large = below > C, above <= C
    runs = Runs({k: v[small] for k, v in inputs.items()}, loss[small])
    found = Engine.of(law, runs, Objective()).cold()
    predicted = law.evaluate({k: v[large] for k, v in inputs.items()}, found.values)
    return float(100 * np.abs(predicted / loss[large] - 1).mean())
