"""`isoflop` on files, held to biases that are known without noise; laws of compute on files."""

import csv
from pathlib import Path

import numpy as np
import pytest

from fitting import get_law

from .conftest import Run

CHINCHILLA = get_law("chinchilla")
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def write(path: Path, **columns: np.ndarray) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))
    return path


def wide_budgets(factor: float = 16.0, sizes: int = 15) -> dict[str, np.ndarray]:
    """Losses without noise: 1e17 to 1e21, each budget `factor` wide on each side of its D*."""
    C = np.geomspace(1e17, 1e21, 5)
    p = HOFFMANN
    ratio = p["alpha"] * p["A"] / (p["beta"] * p["B"])
    best = (C / 6) / (
        ratio ** (1 / (p["alpha"] + p["beta"])) * (C / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    )
    D = (best[:, None] * np.geomspace(1 / factor, factor, sizes)).ravel()
    N = np.repeat(C, sizes) / 6 / D
    return {"N": N, "D": D, "loss": CHINCHILLA.loss({"N": N, "D": D}, p)}


def test_the_three_approaches_and_the_parabolas_published_bias(run: Run, tmp_path: Path) -> None:
    """Open-Athena, scaling-law-analysis: D* at 1e24 comes out 5.1% low for budgets 16x wide."""
    file = write(tmp_path / "runs.csv", **wide_budgets())
    done = run("isoflop", file, "--at", "1e24", "--json")
    assert done.code == 0, done.err
    by = {one["method"]: one for one in done.document["methods"]}
    assert {one["approach"] for one in by.values()} == {1, 2, 3}
    D = {name: one["at"]["D"] for name, one in by.items() if "at" in one}
    assert 100 * (D["parabola"] / D["parametric"] - 1) == pytest.approx(-5.1, abs=0.15)
    assert abs(D["cubic"] / D["parametric"] - 1) < abs(D["parabola"] / D["parametric"] - 1)
    assert by["parametric"]["N_exponent"] == pytest.approx(0.28 / 0.62, abs=1e-5)
    assert "parabola_bias" in {said["code"] for said in by["parabola"]["notes"]}
    assert by["envelope"]["reason"] and by["envelope"]["hint"]
    assert [one["sizes"] for one in done.document["budgets"]] == [15] * 5


def test_the_table_says_the_bias_and_what_could_not_be_used(run: Run, tmp_path: Path) -> None:
    done = run("isoflop", write(tmp_path / "runs.csv", **wide_budgets()))
    assert done.code == 0 and "parabola" in done.out and "misses D*" in done.out
    assert "not used: envelope" in done.err
    assert "100 times the largest budget" in done.out  # what is asked for where nothing is said


def test_too_few_runs_for_a_law_still_leave_the_parabola(run: Run, tmp_path: Path) -> None:
    """Four points: no five-parameter law, and nothing to lie between: every method says why."""
    whole = wide_budgets()
    file = write(tmp_path / "runs.csv", **{k: v[:4] for k, v in whole.items()})
    done = run("isoflop", file, "--json")
    assert done.code == 0 and done.document["fit"] is None
    reasons = {one["method"]: one.get("reason", "") for one in done.document["methods"]}
    assert "5 parameters" in reasons["parametric"] and all(reasons.values())


def test_a_law_of_compute_is_no_law_for_approach_3(run: Run, tmp_path: Path) -> None:
    done = run("isoflop", write(tmp_path / "runs.csv", **wide_budgets()), "--law", "broken")
    assert done.code == 2 and "N, D" in done.err


def test_laws_of_compute_take_it_from_flops_or_six_n_d(run: Run, tmp_path: Path) -> None:
    """As in the library: a file with N and D has a C, and one with FLOPs has it from there."""
    C = np.geomspace(1e18, 1e22, 24)
    N = np.sqrt(C / 120)
    points = {"N": N, "D": C / 6 / N, "loss": 1.7 + 1100 * C**-0.16}

    def fitted(law: str = "henighan_compute", **columns: np.ndarray) -> dict:
        file = write(tmp_path / "runs.csv", **columns)
        done = run("fit", law, file, "--draws", 0, "--json")
        assert done.code == 0, done.err
        assert run("fit", law, file, "--draws", 0).code == 0  # the table shows C
        return done.document

    given = fitted(C=C, loss=points["loss"])
    for columns in (points, {"flops": C, "loss": points["loss"]}):
        found = fitted(**columns)
        assert found["params"] == pytest.approx(given["params"], rel=1e-6)
        assert found["data"]["inputs"]["C"] == pytest.approx([1e18, 1e22])
    double = fitted(**points, flops=2 * C)
    assert double["data"]["inputs"]["C"] == pytest.approx([2e18, 2e22])
    assert fitted("broken", **points)["n_points"] == 24


def test_a_file_without_compute_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "runs.csv", N=np.array([1e8, 2e8]), loss=np.array([3.0, 2.9]))
    done = run("fit", "henighan_compute", file)
    assert done.code == 1 and "No column holds C" in done.err
