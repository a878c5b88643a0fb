"""A project of many runs with long curves, of a known law: what a page or a fit must cope with.

    python -m scripts.make_big_project --runs 10000 --points 10000 [--seed 0] [--project big]

writes into the database of the settings (the embedded one unless DATABASE_URL says otherwise), 50
runs a transaction. Run again with the same arguments it goes on where it was stopped. 1e8 points
are 10 GB on disk and about eight minutes of CPU.

Every run is its own draw of N, D and luck by (seed, index): its loss along training is Hoffmann et
al.'s law (arXiv 2203.15556, eq. 10) at the tokens it has seen, above it by what an uncooled
learning rate costs, with noise from batch to batch; its evaluations have noise from run to run, and
the last one lies on the law. One run in a hundred is still training: half a curve, no roll-up.
"""

import argparse
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text

from app.settings import Settings
from app.storage import curves, evaluations, migrate, projects, runs, sweeps
from app.storage.engine import make_engine
from app.storage.recording import EvaluationLine
from app.storage.runs import NewRun

# Hoffmann et al. 2022, eq. 10: what a fit to this project has to find
TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
RUN_NOISE, STEP_NOISE = 0.003, 0.02  # of log loss; guesses
UNCOOLED = 0.05  # nats above the law at the peak rate; guess
UNIFORM = float(np.log(32_000))  # nobody starts above the loss of knowing nothing
PEAK_LR = 1e-3
SETS = {"english": 0.0, "code": -0.6}  # nats by which a set is harder than what is trained on
EVALUATIONS = 5
RUNS_A_TIME, RUNS_A_SWEEP = 50, 500


@dataclass(frozen=True)
class Made:
    """One run: N, D, and its whole curve by step (n,)."""

    n: float
    tokens: float
    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    lr: NDArray[np.float64]
    final: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10_000, help="of a run's curve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--project", default="big")
    given = parser.parse_args()
    settings = Settings()
    migrate.upgrade(settings)
    engine = make_engine(settings)
    make(engine, given.project, given.runs, given.points, given.seed, report=print)
    engine.dispose()


def make(
    engine: Engine,
    project: str,
    n_runs: int,
    n_points: int,
    seed: int = 0,
    report: object = None,
) -> int:
    """Make what is missing of the project; its id. `report` is told of the progress."""
    with engine.begin() as connection:
        project_id = projects.ensure(connection, project).id
        there = connection.scalar(
            text("select count(*) from runs where project_id = :id"), {"id": project_id}
        )
    begun = time.monotonic()
    for first in range(there or 0, n_runs, RUNS_A_TIME):
        with engine.begin() as connection:
            _store(connection, project_id, range(first, min(first + RUNS_A_TIME, n_runs)),
                   n_points, seed)  # fmt: skip
        if callable(report) and (first // RUNS_A_TIME) % 20 == 0:
            report(f"{first + RUNS_A_TIME:,} runs after {time.monotonic() - begun:.0f} s")
    with engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("analyze"))
    return project_id


def _store(
    connection: Connection, project_id: int, indices: range, n_points: int, seed: int
) -> None:
    made = [make_run(seed, index, n_points) for index in indices]
    sweep_id = _sweep(connection, project_id, indices[0] // RUNS_A_SWEEP)
    ids = runs.create_many(
        connection,
        [
            _new_run(project_id, sweep_id, index, run)
            for index, run in zip(indices, made, strict=True)
        ],
    )
    kept = [run.step <= _reached(index, n_points) for index, run in zip(indices, made, strict=True)]
    curves.copy_points(
        connection,
        curves.Points(
            np.repeat(ids, [int(k.sum()) for k in kept]),
            np.concatenate([run.step[k] for run, k in zip(made, kept, strict=True)]),
            np.concatenate([run.loss[k] for run, k in zip(made, kept, strict=True)]),
            np.concatenate(
                [(run.tokens / n_points * run.step)[k] for run, k in zip(made, kept, strict=True)]
            ),
            np.concatenate([run.lr[k] for run, k in zip(made, kept, strict=True)]),
        ),
    )
    for index, run_id in zip(indices, ids, strict=True):
        if not training(index):
            curves.roll_up(connection, run_id)
    evaluations.add(
        connection,
        [
            (run_id, line)
            for index, run_id, run in zip(indices, ids, made, strict=True)
            for line in _evaluations(run, _reached(index, n_points), n_points)
        ],
    )


def training(index: int) -> bool:
    return index % 100 == 99


def _reached(index: int, n_points: int) -> int:
    return n_points // 2 if training(index) else n_points


def make_run(seed: int, index: int, n_points: int) -> Made:
    rng = np.random.default_rng([seed, index])
    n, tokens = 10 ** rng.uniform(7.0, 9.5), 10 ** rng.uniform(8.5, 10.5)
    step = np.arange(1, n_points + 1)
    warm, cool = max(1, n_points // 50), max(1, n_points // 5)
    lr = PEAK_LR * np.minimum(1.0, np.minimum(step / warm, (n_points - step) / cool))
    final = law(n, tokens) * np.exp(RUN_NOISE * rng.standard_normal())
    smooth = law(n, tokens * step / n_points) * (final / law(n, tokens)) + UNCOOLED * lr / PEAK_LR
    noise = np.exp(STEP_NOISE * rng.standard_normal(n_points))
    return Made(n, tokens, step, np.minimum(smooth, UNIFORM) * noise, lr, float(final))


def law(n: float, tokens: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Loss [nats/token] of a model of n parameters after `tokens`."""
    t = TRUTH
    return np.asarray(t["E"] + t["A"] * n ** -t["alpha"] + t["B"] * tokens ** -t["beta"])


def _new_run(project_id: int, sweep_id: int, index: int, run: Made) -> NewRun:
    steps, flops = len(run.step), 6.0 * run.n * run.tokens
    ended = not training(index)
    return NewRun(
        project_id,
        f"run-{index:06}",
        status="finished" if ended else "running",
        sweep_id=sweep_id,
        config={
            "schedule": {
                "kind": "wsd",
                "steps": steps,
                "warmup_steps": max(1, steps // 50),
                "cooldown_steps": max(1, steps // 5),
            },
            "optimizer": {"name": "adamw", "lr": PEAK_LR},
        },
        recipe="made by scripts/make_big_project.py",
        seed=index,
        steps=steps,
        step=_reached(index, steps),
        n_total=run.n,
        tokens=run.tokens,
        flops_exact=flops,
        flops_6nd=flops,
        finished_at=datetime.now(UTC) if ended else None,
    )


def _evaluations(run: Made, reached: int, n_points: int) -> list[EvaluationLine]:
    at = np.unique(np.linspace(0, n_points, EVALUATIONS + 1)[1:].astype(int))
    luck = run.final / law(run.n, run.tokens)
    lines = []
    for step in at[at <= reached]:
        seen = run.tokens * step / n_points
        loss = law(run.n, seen) * luck + UNCOOLED * run.lr[step - 1] / PEAK_LR
        lines += [
            EvaluationLine(int(step), name, float(loss + off), seen, 1e6, 4.2e6)
            for name, off in SETS.items()
        ]
    return lines


def _sweep(connection: Connection, project_id: int, number: int) -> int:
    name = f"sweep-{number:03}"
    found = sweeps.find_by_name(connection, project_id, name)
    return (found or sweeps.create(connection, project_id, name, {"made": True})).id


if __name__ == "__main__":
    main()
