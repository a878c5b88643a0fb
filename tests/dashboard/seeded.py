"""A database with something to show: a sweep of simulated runs with curves, a fit, forecasts.

The truth is Besiroglu et al.'s refit of Chinchilla (arXiv 2404.10102), on an IsoFLOP grid like the
one that Epoch read off the paper, with .5% noise: every number on a page can be held against it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, insert

from app.storage import tables
from fitting import Fit, Runs, fit, get_law

BUDGETS = (6e18, 3e19, 1.5e20, 7.5e20)
RATIOS = np.geomspace(0.25, 4.0, 5)
NOISE = 0.005
LAW = "chinchilla"


@dataclass(frozen=True)
class Seeded:
    project: str
    sweep_id: int
    run_ids: list[int]
    live_run_id: int
    fit_id: int
    fit: Fit


def truth() -> dict[str, float]:
    published = get_law(LAW).published
    assert published is not None
    return dict(published.params)


def optimal_n(budget: float, p: dict[str, float]) -> float:
    """Hoffmann et al. 2022, eq. 4: N* = G (C / 6)^a."""
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    return float(g * (budget / 6.0) ** (p["beta"] / (p["alpha"] + p["beta"])))


def grid() -> tuple[np.ndarray, np.ndarray]:
    """N and D of the sweep's runs: five sizes on each budget."""
    p = truth()
    N = np.concatenate([optimal_n(budget, p) * RATIOS for budget in BUDGETS])
    return N, np.repeat(BUDGETS, len(RATIOS)) / 6.0 / N


def seed(connection: Connection, project: str = "epoch-like", draws: int = 200) -> Seeded:
    rng = np.random.default_rng(7)
    law, p = get_law(LAW), truth()
    N, D = grid()
    loss = law.loss({"N": N, "D": D}, p) * np.exp(NOISE * rng.standard_normal(len(N)))
    project_id = _one(
        connection, tables.projects, name=project, description="Simulated runs with a known truth"
    )
    sweep_id = _one(
        connection, tables.sweeps, project_id=project_id, name="isoflop-grid", spec={"sizes": []}
    )
    run_ids = [
        _run(connection, project_id, sweep_id, f"n{n:.3g}-d{d:.3g}", float(n), float(d), float(l))
        for n, d, l in zip(N, D, loss, strict=True)
    ]
    live = _run(connection, project_id, sweep_id, "still-training", 1e9, 5e10, None)
    runs = Runs({"N": N, "D": D}, loss, run=[f"run {one}" for one in run_ids])
    fitted = fit(law, runs, draws=draws)
    fit_id = _one(
        connection,
        tables.fits,
        project_id=project_id,
        law=LAW,
        status=fitted.status,
        digest=runs.digest,
        request={"law": LAW, "project": project, "validation_set": "english"},
        document=fitted.to_dict(),
        run_ids=run_ids,
    )
    big = float(max(BUDGETS)) * 12
    n = optimal_n(big, p)
    for name, actual_factor in (("the-large-run", 1.001), ("a-run-with-a-bug", 1.12), (None, None)):
        at = {"N": n, "D": big / 6 / n}
        predicted = fitted.predict(at)
        value = float(predicted.value[0])
        run_id = None
        if name is not None:
            run_id = _run(connection, project_id, None, name, at["N"], at["D"], value)
        _one(
            connection,
            tables.forecasts,
            project_id=project_id,
            fit_id=fit_id,
            run_id=run_id,
            validation_set="english",
            inputs=at,
            level=predicted.level,
            loss=value,
            lower=float(predicted.lower[0]),
            upper=float(predicted.upper[0]),
            reach={key: float(values[0]) for key, values in predicted.reach.items()},
            compute_ratio=12.0,
            actual=None if actual_factor is None else value * actual_factor,
        )
    return Seeded(project, sweep_id, run_ids, live, fit_id, fitted)


def _run(
    connection: Connection,
    project_id: int,
    sweep_id: int | None,
    name: str,
    n: float,
    d: float,
    final: float | None,
) -> int:
    """A run with 120 curve points on its way to `final`; None: it is still at half its steps."""
    steps = 2000
    done = steps if final is not None else steps // 2
    run_id = _one(
        connection,
        tables.runs,
        project_id=project_id,
        sweep_id=sweep_id,
        name=name,
        kind="single",
        status="finished" if final is not None else "running",
        recipe="a" * 16,
        seed=1,
        steps=steps,
        step=done,
        n_total=n,
        n_non_embedding=0.9 * n,
        tokens=d,
        flops_6nd=6 * n * d,
    )
    step = np.unique(np.geomspace(1, done, 120).astype(int))
    end = final or 2.6
    losses = end + (10.5 - end) * (1 - step / done) ** 2 * step**-0.45
    connection.execute(
        insert(tables.curve_points),
        [
            {
                "run_id": run_id,
                "step": int(s),
                "tokens": d * s / steps,
                "loss": float(l),
                "lr": 3e-4,
            }
            for s, l in zip(step, losses, strict=True)
        ],
    )
    connection.execute(
        insert(tables.metrics),
        [{"run_id": run_id, "name": "grad_norm", "step": int(s), "value": 1.0} for s in step],
    )
    if final is not None:
        connection.execute(
            insert(tables.evaluations),
            {
                "run_id": run_id,
                "validation_set": "english",
                "step": steps,
                "train_tokens": d,
                "loss": final,
                "tokens": 1e6,
                "bytes": 4e6,
            },
        )
    return run_id


def _one(connection: Connection, table: Any, **values: Any) -> int:
    return int(
        connection.execute(insert(table).values(**values).returning(table.c.id)).scalar_one()
    )
