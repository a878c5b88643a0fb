"""Runs with schedules: simulated ones with a known truth, and our own continual ones."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, insert

from app.services import continual, loss_curves
from app.services.continual import ContinualRequest
from app.services.loss_curves import CurveRequest
from app.storage import curves as stored_curves
from app.storage import projects, runs, tables
from fitting.curves import Schedule

CONTINUAL = Path(__file__).resolve().parents[2] / "docs" / "examples" / "continual"
# Tissue et al. 2024, eq. 1: L0 + A S1^-alpha - C S2, momentum .99
TRUTH = {"L0": 2.6, "A": 0.45, "alpha": 0.5, "C": 0.35}
PEAK = 1e-3
WSD = {"kind": "wsd", "steps": 3000, "warmup_steps": 100, "cooldown_steps": 600}
COSINE = {"kind": "cosine", "steps": 4000, "warmup_steps": 100}
DROPS = {"kind": "step", "steps": 4000, "warmup_steps": 100, "drops": [[2400, 0.3], [3200, 0.1]]}
SPIKE = (1500, 0.6)
"""Step and height (nats) of the live run's spike, which decays over 20 steps."""
WORSE = 1.01
"""The live run is so much above the law."""
SEEN = 2400


@dataclass(frozen=True)
class SeededCurves:
    project: str
    fit_id: int
    run_ids: list[int]
    live_run_id: int


@dataclass(frozen=True)
class SeededContinual:
    project: str
    fit_id: int


def truth(schedule: Schedule) -> np.ndarray:
    """The law after every step, as the paper writes it: S2 is the sum of m, m = .99 m + falls."""
    rates = schedule.rates()
    m, total, s2, past = 0.0, 0.0, [], rates[0]
    for rate in rates:
        m = 0.99 * m + (past - rate)
        total += m
        s2.append(total)
        past = rate
    s1 = np.cumsum(rates)
    return np.asarray(TRUTH["L0"] + TRUTH["A"] * s1 ** -TRUTH["alpha"] - TRUTH["C"] * np.array(s2))


def as_schedule(spec: Mapping[str, Any]) -> Schedule:
    from app.services.run_curves import as_stages

    return Schedule.from_dict(as_stages(spec, PEAK))


def seed_curves(connection: Connection, project: str = "whole <curves>") -> SeededCurves:
    """Three finished runs, a fit of them, and one at 80 % that had a spike and is 1 % worse."""
    into = projects.ensure(connection, project)
    rng = np.random.default_rng(3)
    ids = []
    for name, spec in (("drops", DROPS), ("cosine", COSINE), ("wsd", WSD)):
        loss = truth(as_schedule(spec))
        noisy = loss * np.exp(0.002 * rng.standard_normal(loss.size))
        ids.append(_run(connection, into.id, name, spec, "finished", noisy))
    stored = loss_curves.create(connection, CurveRequest(project=project, draws=60))
    loss = WORSE * truth(as_schedule(WSD))[:SEEN]
    loss = loss * np.exp(0.002 * rng.standard_normal(loss.size))
    at, height = SPIKE
    loss[at : at + 60] += height * np.exp(-np.arange(60) / 20)
    live = _run(connection, into.id, "under way", WSD, "running", loss)
    return SeededCurves(project, stored.id, ids, live)


def _run(
    connection: Connection,
    project: int,
    name: str,
    spec: Mapping[str, Any],
    status: str,
    loss: np.ndarray,
) -> int:
    run = runs.create(
        connection,
        runs.NewRun(
            project, name, status=status, steps=spec["steps"], step=loss.size, n_total=1e6,
            tokens=1024.0 * spec["steps"],
            config={"schedule": dict(spec), "optimizer": {"lr": PEAK}},
        ),
    )  # fmt: skip
    step = np.arange(1, loss.size + 1)
    stored_curves.copy_points(
        connection,
        stored_curves.Points(
            np.full(step.size, run.id), step, loss, 1024.0 * step,
            as_schedule(spec).rates()[: step.size],
        ),
    )  # fmt: skip
    return run.id


def seed_continual(connection: Connection, project: str = "continual") -> SeededContinual:
    """Our own continual runs of docs/examples/continual, and a fit of those marked "fit"."""
    into = projects.ensure(connection, project)
    plans = json.loads((CONTINUAL / "schedules.json").read_text())
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (CONTINUAL / "curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["run"]].append(row)
    ids: dict[str, int] = {}
    chosen = []
    for name in sorted(rows, key=lambda one: rows[one][0]["kind"] == "continual"):
        first, plan = rows[name][0], plans[name]
        later, ratio = first["kind"] == "continual", float(first["replay_ratio"])
        data = [{"name": "english", "weight": ratio}] if ratio or not later else []
        data += [{"name": "code", "weight": 1 - ratio}] if later else []
        if not later:
            data = [{"name": "english", "weight": 1.0}]
        run = runs.create(
            connection,
            runs.NewRun(
                into.id, name, kind="continual" if later else "single", status="finished",
                steps=plan["steps"], step=plan["steps"], n_total=133_184.0,
                parent_run_id=ids[first["parent"]] if later else None,
                parent_step=int(first["parent_step"]) if later else None,
                config={
                    "schedule": plan,
                    "optimizer": {"lr": plan["peak_lr"]},
                    "data": {"train": data},
                },
            ),
        )  # fmt: skip
        ids[name] = run.id
        if later and first["role"] == "fit":
            chosen.append(run.id)
        connection.execute(
            insert(tables.evaluations),
            [
                {
                    "run_id": run.id,
                    "validation_set": row["domain"],
                    "step": int(row["step"]),
                    "train_tokens": float(row["tokens"]),
                    "loss": float(row["loss"]),
                    "loss_unit": "nats/byte",
                }
                for row in rows[name]
                if int(row["step"]) > 0
            ],
        )
    stored = continual.create(
        connection,
        ContinualRequest("english", "code", project=project, run_ids=tuple(chosen), draws=30),
    )
    return SeededContinual(project, stored.id)
