"""Laws of the whole loss curve: fitted, kept, asked about other schedules and runs in flight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import fits, fitted, projects, run_curves, runs
from app.services.errors import ServiceError
from app.storage import curves as stored_curves
from app.storage import fitted as storage
from app.storage.fitted import Stored
from app.storage.runs import Run
from fitting.curves import ENSEMBLE, Curve, CurveFit, Schedule, fit_curves
from fitting.curves.inflight import advise, forecast
from fitting.curves.rank import optimise_schedule, rank_schedules
from fitting.curves.spikes import Health, diagnose_run

MAX_DRAWS = 2_000
RECENT_STEPS = 20_000


@dataclass(frozen=True)
class CurveRequest:
    """law, and either curves, or a project's finished runs (`run_ids`: these and no others) with
    their training loss or that on a validation set."""

    law: str = ENSEMBLE
    curves: tuple[Curve, ...] = ()
    project: str | int | None = None
    run_ids: tuple[int, ...] | None = None
    validation_set: str | None = None
    draws: int = 200
    level: float = 0.9
    seed: int = 0
    first_step: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def create(connection: Connection, request: CurveRequest) -> Stored:
    """Fit a law to curves and keep it."""
    curves, run_ids, project_id, unit = list(request.curves), list[int](), None, None
    if request.project is not None:
        project_id = projects.resolve(connection, request.project).id
    if not curves:
        if request.project is None:
            raise ServiceError(
                "invalid",
                "There is nothing to fit.",
                'Give "curves", or a "project" with finished runs.',
                column="curves",
            )
        chosen = run_curves.chosen(connection, request.project, request.run_ids)
        curves = [
            run_curves.training_curve(connection, run, request.validation_set) for run in chosen
        ]
        run_ids = [run.id for run in chosen]
        unit = run_curves.loss_unit(connection, run_ids, request.validation_set)
    found = fit_curves(
        request.law,
        curves,
        draws=request.draws,
        level=request.level,
        seed=request.seed,
        first_step=request.first_step,
        **request.options,
    )
    return storage.create(
        connection,
        "curve_fit",
        kind=found.law,
        status=found.status,
        digest=found.digest,
        request={
            "law": request.law,
            "validation_set": request.validation_set,
            "loss_unit": unit,
            "curves": [curve.name for curve in curves],
            "seed": request.seed,
        },
        document=fits.finite(found.to_dict()),
        project_id=project_id,
        run_ids=run_ids,
    )


def get(connection: Connection, fit_id: int) -> Stored:
    return fitted.get(connection, "curve_fit", fit_id)


def load(connection: Connection, fit_id: int) -> CurveFit:
    return CurveFit.from_dict(with_nan(get(connection, fit_id).document))


def without_draws(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as it is shown: the resamples are many and stay behind."""
    shown = {name: value for name, value in document.items() if name != "draws"}
    if shown.get("members"):
        shown["members"] = [without_draws(one) for one in shown["members"]]
    return shown


def with_nan(document: Any) -> Any:
    """Null in the numbers of a calibration stands for NaN, which JSON has not."""
    if isinstance(document, dict):
        calibration = document.get("calibration")
        out = {name: with_nan(part) for name, part in document.items()}
        if isinstance(calibration, dict):
            out["calibration"] = {
                name: float("nan") if value is None else value
                for name, value in calibration.items()
            }
        return out
    return [with_nan(part) for part in document] if isinstance(document, list) else document


def predict(
    connection: Connection,
    fit_id: int,
    schedule: Schedule,
    *,
    steps: Sequence[int] | None = None,
    size: float | None = None,
    level: float | None = None,
) -> dict[str, Any]:
    found = load(connection, fit_id).predict(schedule, steps, size, level)
    return dict(fits.finite(found.to_dict()))


def rank(
    connection: Connection,
    fit_id: int,
    schedules: Mapping[str, Schedule],
    *,
    size: float | None = None,
    level: float | None = None,
) -> dict[str, Any]:
    found = rank_schedules(load(connection, fit_id), schedules, level, size)
    return dict(fits.finite(found.to_dict()))


def optimise(
    connection: Connection,
    fit_id: int,
    *,
    steps: int,
    peak_lr: float,
    warmup_steps: int = 0,
    size: float | None = None,
    level: float | None = None,
) -> dict[str, Any]:
    found = optimise_schedule(load(connection, fit_id), steps, peak_lr, warmup_steps, level, size)
    return dict(fits.finite(found.to_dict()))


def health_of(connection: Connection, run_id: int) -> tuple[Health | None, int]:
    """Spikes and verdict of a run's training loss over its last steps, and how many points that
    stands on. Looked for among the points themselves: means of neighbours hide a spike."""
    last = runs.get(connection, run_id).step
    seen = stored_curves.read_points(
        connection, run_id, after_step=last - RECENT_STEPS, limit=RECENT_STEPS
    )
    if not len(seen.step):
        seen = stored_curves.read(connection, run_id)
    if not len(seen.step):
        return None, 0
    return diagnose_run(seen.step, seen.loss), len(seen.step)


def in_flight(
    connection: Connection,
    run_id: int,
    fit_id: int | None = None,
    *,
    incumbent: float | None = None,
    level: float | None = None,
) -> dict[str, Any]:
    """What the run will end at, by the law of completed runs and by how far it is off that law.

    fit_id None: the newest curve fit of the run's project. incumbent: a final loss to beat; the
    answer then says whether it is worth going on.
    """
    run = runs.get(connection, run_id)
    if fit_id is None:
        newest = storage.page(connection, "curve_fit", project_id=run.project_id, limit=1).items
        if not newest:
            raise ServiceError(
                "not_enough_data",
                f"The project of run {run_id} has no law of the loss curve.",
                "Fit one to completed runs: POST /v1/curves/fit.",
            )
        fit_id = newest[0].id
    stored = get(connection, fit_id)
    fit = CurveFit.from_dict(with_nan(stored.document))
    validation_set = stored.request.get("validation_set")
    curve = (
        run_curves.training_curve(connection, run, validation_set) if run.step else _not_begun(run)
    )
    masked = diagnose_run(curve.step, curve.loss).masked
    health, _ = health_of(connection, run_id)
    found = forecast(
        fit,
        curve.schedule,
        curve.step,
        curve.loss,
        size=run.n_total,
        level=level,
        masked=list(masked),
    )
    answer = {
        "run": run_id,
        "fit": fit_id,
        "law": fit.law,
        "validation_set": validation_set,
        "status": run.status,
        **found.to_dict(),
        "health": None if health is None else health.to_dict(),
        "advice": None if incumbent is None else advise(found, incumbent).to_dict(),
    }
    return dict(fits.finite(_plain(answer)))


def _not_begun(run: Run) -> Curve:
    return Curve(run.name, np.zeros(0, np.int64), np.zeros(0), run_curves.schedule_of(run))


def _plain(value: Any) -> Any:
    """Tuples and numpy's numbers as JSON has them."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
