"""`curve` and `cpt` on plain files: known truth, our own runs, refusals with their exit codes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from app.cli_curves import Convention
from fitting.curves import CURVE_LAWS, Schedule
from fitting.curves.continual import CONVENTIONS

from .conftest import ROOT, Run

TRUTH = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "C": 0.45}
PEAK = 3e-4
SPECS = {
    "steps": {"kind": "step", "steps": 12_000, "peak_lr": PEAK, "warmup_steps": 300,
              "boundaries": [8_000, 10_000], "factors": [0.3, 0.1]},
    "wsd": {"kind": "wsd", "steps": 12_000, "peak_lr": PEAK, "warmup_steps": 300,
            "cooldown_steps": 3_000, "decay": "linear"},
    "constant": {"kind": "constant", "steps": 10_000, "peak_lr": PEAK, "warmup_steps": 300},
}  # fmt: skip
TARGET = {"kind": "cosine", "steps": 16_000, "peak_lr": PEAK, "warmup_steps": 300,
          "final_fraction": 0.1}  # fmt: skip
EXAMPLES = ROOT / "docs" / "examples" / "continual"


def true_loss(spec: dict, step: np.ndarray) -> np.ndarray:
    return CURVE_LAWS["annealing"].loss(TRUTH, Schedule.from_dict(spec), step)


@pytest.fixture
def curves_csv(tmp_path: Path) -> Path:
    path = tmp_path / "curves.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["run", "step", "lr", "loss"])
        for name, spec in SPECS.items():
            schedule = Schedule.from_dict(spec)
            step = np.arange(100, schedule.steps + 1, 100)
            for s, loss in zip(step, true_loss(spec, step), strict=True):
                out.writerow([name, s, schedule.rates()[s - 1], loss])
    (tmp_path / "schedules.json").write_text(json.dumps(SPECS))
    return path


@pytest.fixture
def fit_json(curves_csv: Path, run: Run) -> Path:
    out = curves_csv.parent / "fit.json"
    done = run(
        "curve", "fit", "annealing", curves_csv, "--out", out, "--json",
        "--schedules", curves_csv.parent / "schedules.json",
    )  # fmt: skip
    assert done.code == 0
    assert done.document["params"] == pytest.approx(TRUTH, rel=1e-3)
    assert "draws" not in done.document and done.document["status"] == "converged"
    return out


def test_curve_fit_and_predict(fit_json: Path, run: Run) -> None:
    done = run("curve", "predict", fit_json, "--schedule", json.dumps(TARGET),
               "--steps", "8000,16000", "--json")  # fmt: skip
    truth = true_loss(TARGET, np.array([8_000, 16_000]))
    assert [row["loss"] for row in done.document["curve"]] == pytest.approx(list(truth), abs=1e-4)
    final = done.document["final"]
    assert final["lower"] < final["loss"] < final["upper"]
    assert done.document["reach"]["steps"] == pytest.approx(16 / 12)
    assert run("curve", "predict", fit_json, "--schedule", "{nothing").code == 2
    outside = run("curve", "predict", fit_json, "--schedule",
                  json.dumps({**TARGET, "peak_lr": 1e-3}), "--json")  # fmt: skip
    assert "peak_lr_outside" in {w["code"] for w in outside.document["warnings"]}


def test_curve_rank(fit_json: Path, run: Run) -> None:
    done = run("curve", "rank", fit_json, "--schedule", "a=" + json.dumps(TARGET), "--schedule",
               "b=" + json.dumps({**TARGET, "kind": "constant"}), "--json")  # fmt: skip
    assert [one["name"] for one in done.document["ranked"]] == ["a", "b"]
    refused = run("curve", "rank", fit_json, "--schedule", "a=" + json.dumps(TARGET), "--schedule",
                  "b=" + json.dumps({**TARGET, "peak_lr": 6e-4}), "--json")  # fmt: skip
    assert refused.code == 1 and "peak" in refused.document["message"]
    assert run("curve", "rank", fit_json).code == 2


def test_curve_forecast(fit_json: Path, tmp_path: Path, run: Run) -> None:
    step = np.arange(100, 12_001, 100)
    path = tmp_path / "now.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["step", "loss"])
        out.writerows(zip(step, true_loss(TARGET, step), strict=True))
    done = run("curve", "forecast", fit_json, path, "--schedule", json.dumps(TARGET),
               "--incumbent", "2.9", "--json")  # fmt: skip
    truth = float(true_loss(TARGET, np.array([16_000]))[0])
    assert done.document["final"]["loss"] == pytest.approx(truth, abs=1e-3)
    assert done.document["share_seen"] == 0.75 and done.document["advice"]["verdict"] == "stop"


def test_a_schedule_from_logged_rates(curves_csv: Path, run: Run) -> None:
    done = run("curve", "fit", "annealing", curves_csv, "--json")
    assert done.code == 0 and "drawn through its logged rates" in done.err
    assert done.document["params"]["alpha"] == pytest.approx(TRUTH["alpha"], abs=0.03)


def test_what_cannot_be_fitted_is_refused(tmp_path: Path, run: Run) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text("step,loss\n1,3.0\n2,2.9\n")
    done = run("curve", "fit", "annealing", bare, "--json")
    assert done.code == 1 and "neither a column lr nor a schedule" in done.document["message"]
    bare.write_text("when,loss\n1,3.0\n")
    assert run("curve", "fit", "annealing", bare, "--json").code == 1


def test_cpt_on_our_own_runs(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "cpt.json"
    done = run(
        "cpt", "fit", EXAMPLES / "curves.csv", "--schedules", EXAMPLES / "schedules.json",
        "--general", "english", "--domain", "code", "--law", "continual_replay_convex",
        "--momentum", "0.95", "--convention", "carry", "--out", out, "--json",
    )  # fmt: skip
    assert done.code == 0
    errors = [row["mean_absolute_error"] for row in done.document["held_out"]]
    assert len(errors) >= 6 and max(errors) <= 0.05
    before = json.dumps({"kind": "constant", "steps": 3_000, "peak_lr": 3e-3, "warmup_steps": 100})
    after = json.dumps({"kind": "cosine", "steps": 1_200, "peak_lr": 2e-3, "warmup_steps": 50})
    said = run("cpt", "predict", out, "--before", before, "--schedule", after,
               "--replay-ratio", "0.3", "--json")  # fmt: skip
    for role in ("general", "domain"):
        final = said.document[role]["final"]
        assert final["lower"] < final["loss"] < final["upper"]
    assert set(said.document["forgetting"]) >= {"turning_length", "critical_step", "recoverable"}
    plans = {}
    for weight in ("0.1", "0.9"):
        plan = run("cpt", "plan", out, "--before", before, "--general-weight", weight,
                   "--steps", "600,1200", "--json")  # fmt: skip
        assert plan.code == 0
        plans[weight] = plan.document["best"]
    assert plans["0.9"]["general_loss"] <= plans["0.1"]["general_loss"]
    assert plans["0.9"]["replay_ratio"] >= plans["0.1"]["replay_ratio"]
    wrong = run("cpt", "predict", EXAMPLES / "schedules.json", "--before", before, "--schedule",
                after, "--json")  # fmt: skip
    assert wrong.code == 1


def test_the_conventions_are_those_of_fitting() -> None:
    assert tuple(one.value for one in Convention) == CONVENTIONS


def test_losses_of_two_validation_sets_are_not_one_curve(run: Run) -> None:
    done = run("curve", "fit", "annealing", EXAMPLES / "curves.csv", "--schedules",
               EXAMPLES / "schedules.json")  # fmt: skip
    assert done.code == 1 and "--domain" in done.err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("steps,200,3e-4,9.9", "two losses"),
        ("steps,12.5,3e-4,9.9", "whole"),
        ("steps,-3,3e-4,9.9", "whole"),
        ("steps,201,nan,9.9", "lr is 'nan'"),
        ("steps,201,3e-4,9,9", "more cells"),
        ("ste\0ps,201,3e-4,9.9", "NUL"),
    ],
)
def test_a_bad_row_is_named(curves_csv: Path, run: Run, row: str, said: str) -> None:
    with curves_csv.open("a") as file:
        file.write(row + "\n")
    done = run("curve", "fit", "annealing", curves_csv, "--draws", 0)
    words = {"two losses": "has the losses"}.get(said, said)
    assert done.code == 1 and words in done.err and "line" in done.err


def test_a_semicolon_file_is_read(curves_csv: Path, run: Run) -> None:
    curves_csv.write_text(curves_csv.read_text().replace(",", ";"))
    assert run("curve", "fit", "annealing", curves_csv, "--draws", 0).code == 0


def test_options_out_of_range_are_refused(curves_csv: Path, run: Run) -> None:
    for options in (("--momentum", 2), ("--momentum", "nan"), ("--delta", 0), ("--delta", "nan")):
        done = run("curve", "fit", "annealing", curves_csv, "--draws", 0, *options)
        assert done.code == 1 and str(options[0][2:]) in done.err


def test_steps_that_are_no_numbers_are_wrong_usage(fit_json: Path, run: Run) -> None:
    for steps in ("nan", "inf", "1,,2"):
        done = run("curve", "predict", fit_json, "--schedule", json.dumps(TARGET), "--steps", steps)
        assert done.code == 2


def test_a_forecast_says_its_reach(fit_json: Path, curves_csv: Path, run: Run) -> None:
    so_far = curves_csv.parent / "now.csv"
    step = np.arange(100, 8_000, 100)
    losses = true_loss(TARGET, step)
    rows = "\n".join(f"{s},{y}" for s, y in zip(step, losses, strict=True))
    so_far.write_text("step,loss\n" + rows + "\n")
    done = run("curve", "forecast", fit_json, so_far, "--schedule", json.dumps(TARGET), "--json")
    assert done.document["reach"]["steps"] == pytest.approx(16 / 12)


def test_json_too_deep_is_refused(tmp_path: Path, run: Run) -> None:
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000)
    done = run("curve", "predict", deep, "--schedule", json.dumps(TARGET))
    assert done.code == 1 and "deep.json is not a curve fit" in done.err
