"""Real loss curves of other people, from the folder SCALING_DATA (default ../shared/data)."""

import csv
import gzip
from functools import cache

import numpy as np
import pytest

from fitting.curves import Curve, Schedule
from tests.fitting.data import path, rows

# --- Luo et al. 2025 (MPL): 25M, 100M, 400M, nine schedules each; peak 3e-4, warm-up 2160 ---------

TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
# How far each test curve is the same run as a training curve.
SHARED_UNTIL = {
    "constant_72000": 24_000,
    "cosine_72000": 0,
    "wsd_20000_24000": 20_000,
    "wsdld_20000_24000": 20_000,
    "wsdcon_3": 8_000,
    "wsdcon_18": 8_000,
}
WARMUP, PEAK, END = 2_160, 3e-4, 3e-5


def mpl_rates(name: str) -> np.ndarray:
    """The authors' schedules (their src/lr_schedules.py), re-derived."""
    parts = name.split("_")
    warm = np.linspace(0, PEAK, WARMUP)
    if parts[0] == "constant":
        return np.concatenate([warm, np.full(int(parts[1]) - WARMUP, PEAK)])
    if parts[0] == "cosine":
        total = int(parts[1])
        u = np.arange(total - WARMUP) / (total - WARMUP)
        return np.concatenate([warm, END + 0.5 * (PEAK - END) * (1 + np.cos(np.pi * u))])
    if parts[0] == "wsdcon":
        second = int(parts[1]) * 1e-5
        return np.concatenate([warm, np.full(8_000 - WARMUP, PEAK), np.full(8_000, second)])
    u = np.arange(4_000) / 4_000
    fall = PEAK * (1 - u) + END * u if parts[0] == "wsdld" else PEAK ** (1 - u) * END**u
    return np.concatenate([warm, np.full(20_000 - WARMUP, PEAK), fall])


@cache
def mpl() -> dict[str, dict[str, Curve]]:
    """{"25M": {schedule: Curve}}. Their step s counts from 0: s + 1 updates are done."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows("curves/mpl/mpl_curves.csv"):
        points.setdefault((row["model"], row["schedule"]), []).append(
            (int(row["step"]) + 1, float(row["loss"]))
        )
    found: dict[str, dict[str, Curve]] = {}
    for (model, name), some in points.items():
        step, loss = np.array(some).T
        schedule = Schedule.array(mpl_rates(name))
        found.setdefault(model, {})[name] = Curve.of(name, step, loss, schedule)
    return found


# --- Schaipp et al. 2025: 124M Llama on SlimPajama, peak 1e-3, warm-up 300 -----------------------

# The 32 runs of the plain 124M grid at peak rate 1e-3: linear cool-downs of 10 to 90 % and to
# 15k, 25k, 35k and 50k steps; 1 - sqrt cool-downs of 20 %; cosines to a tenth and to zero.
SCHAIPP = tuple(
    f"r{i:03d}"
    for i in (
        *(31, 32, 33, 34),  # linear cool-down over the last 10 %
        *(49, 50, 51, 52),  # 20 %
        *(53, 54),  # 20 %, 1 - sqrt, 25k and 50k
        *(67, 68, 69, 70),  # 40 %
        *(81, 82, 83, 84),  # 60 %
        *(95, 96, 97, 98),  # 80 %
        *(109, 110, 111, 112),  # 90 %
        *(124, 125, 126, 127),  # cosine to a tenth
        *(139, 140),  # cosine to zero, 25k and 50k
    )
)
CONSTANT = "r232"  # 50k steps at the peak rate; the cool-downs branch off it


@cache
def _schaipp_tables() -> tuple[dict[str, dict[str, str]], dict[str, list[tuple[int, float]]]]:
    with path("curves/lr_scheduling/runs.csv").open(newline="") as file:
        runs = {row["run_id"]: row for row in csv.DictReader(file)}
    points: dict[str, list[tuple[int, float]]] = {}
    wanted = {*SCHAIPP, CONSTANT}
    with gzip.open(path("curves/lr_scheduling/curves.csv.gz"), "rt", newline="") as file:
        for row in csv.DictReader(file):
            if row["run_id"] in wanted and row["val_loss"]:
                points.setdefault(row["run_id"], []).append(
                    (int(row["iter"]), float(row["val_loss"]))
                )
    return runs, points


def schaipp_schedule(run: dict[str, str]) -> Schedule:
    steps, peak, warm = int(run["iterations"]), float(run["lr"]), int(run["warmup_steps"])
    if run["scheduler"] == "cos":
        final = float(run["cos_final_lr"] or -1)
        return Schedule.cosine(steps, peak, warm, final / peak if final > 0 else 0.1)
    share = float(run["wsd_fract_decay"])
    form = "sqrt" if run["decay_type"] == "sqrt" else "linear"
    return Schedule.wsd(steps, peak, warm, round(share * steps), form)


def schaipp(name: str, until: int | None = None) -> Curve:
    """One run from its first step: a cool-down has the constant run's points before it."""
    runs, points = _schaipp_tables()
    own = points[name]
    if int(runs[name]["first_iter"]) > 0:
        own = [p for p in points[CONSTANT] if p[0] < own[0][0]] + own
    schedule = schaipp_schedule(runs[name])
    if until is not None:
        own = [p for p in own if p[0] <= until]
        schedule = schedule.until(until)
    step, loss = np.array(own).T
    return Curve.of(name, step, loss, schedule)


def schaipp_horizon(name: str) -> int:
    return int(_schaipp_tables()[0][name]["iterations"])


def need(name: str) -> None:
    """Skip where a file is missing, before a cached loader runs."""
    if not path(name).exists():
        pytest.skip(f"{name} is missing")
