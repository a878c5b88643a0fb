"""Forecasts: what a run will reach, written down before it trains, scored when it lands.

A forecast of a run that has finished is no forecast: it is refused, unless it is asked for as a
backtest, and then it says so for ever (it is younger than the run's end).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import fits, paging, projects
from app.services.errors import ServiceError, not_found
from app.storage import forecasts as storage
from app.storage import runs as stored_runs
from app.storage.errors import Conflict, NotFound
from app.storage.runs import Run
from fitting import Fit


@dataclass(frozen=True)
class ForecastShown:
    """A forecast and, once the run has landed, how it did.

    made       before_training | while_training | backtest | of_inputs (no run is attached)
    error      (loss - actual) / actual: above zero where the forecast was too high; None before
    inside     whether the actual lies in the interval
    reach, compute_ratio  times beyond the largest run of the fit
    """

    id: int
    project_id: int
    fit_id: int
    run_id: int | None
    run_name: str | None
    run_status: str | None
    law: str
    fit_status: str
    validation_set: str
    loss_unit: str
    inputs: dict[str, float]
    level: float
    loss: float
    lower: float
    upper: float
    reach: dict[str, float]
    compute_ratio: float | None
    made: str
    created_at: datetime
    actual: float | None
    error: float | None
    inside: bool | None
    scored_at: datetime | None


def create(
    connection: Connection,
    fit_id: int,
    *,
    run_id: int | None = None,
    inputs: Mapping[str, float] | None = None,
    validation_set: str | None = None,
    project: str | int | None = None,
    level: float | None = None,
    backtest: bool = False,
) -> ForecastShown:
    """Predict a run, or inputs, and keep the prediction.

    The validation set is the fit's; inputs of a run are its planned N (counted as the fit counts)
    and D. Raises ServiceError where the run has finished (unless `backtest`), was fitted, or is
    not known well enough to be predicted.
    """
    stored_fit = fits.get(connection, fit_id)
    fit = fits.load(connection, fit_id)
    validation_set = validation_set or str(stored_fit.request.get("validation_set") or "")
    run = _run(connection, run_id) if run_id is not None else None
    if run is not None:
        _refuse_what_is_no_forecast(run, stored_fit, validation_set, backtest)
        project_id = run.project_id
        inputs = {**inputs_of_run(run, fit), **(inputs or {})}
    else:
        project_id = _project_of(connection, project, stored_fit)
    if not inputs:
        raise ServiceError(
            "invalid",
            "A forecast needs a run or inputs.",
            'Give "run": id, or "inputs": {...}.',
            column="run",
        )
    predicted = fit.predict({name: np.array([value]) for name, value in inputs.items()}, level)
    try:
        stored = storage.create(
            connection,
            project_id=project_id,
            fit_id=fit_id,
            validation_set=validation_set,
            loss_unit=fit.loss_unit,
            inputs={name: float(column[0]) for name, column in predicted.inputs.items()},
            level=predicted.level,
            loss=float(predicted.value[0]),
            lower=float(predicted.lower[0]),
            upper=float(predicted.upper[0]),
            reach={name: float(column[0]) for name, column in predicted.reach.items()},
            compute_ratio=_compute_ratio(run, fit, predicted.inputs),
            run_id=run_id,
            backtest=backtest,
        )
    except Conflict as error:
        raise _no_forecast(str(error)) from None
    if run is not None and run.ended:
        storage.score_run(connection, run.id)
    return get(connection, stored.id)


def get(connection: Connection, forecast_id: int) -> ForecastShown:
    try:
        return _shown(connection, storage.get(connection, forecast_id))
    except NotFound:
        raise not_found("forecast", forecast_id) from None


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    fit_id: int | None = None,
    run_id: int | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[ForecastShown]:
    """Newest first."""
    stored = storage.page(
        connection,
        project_id=None if project is None else projects.resolve(connection, project).id,
        fit_id=fit_id,
        run_id=run_id,
        after=paging.after_of(cursor),
        limit=limit,
    )
    return paging.page_of(stored, lambda forecast: _shown(connection, forecast))


def inputs_of_run(run: Run, fit: Fit) -> dict[str, float]:
    """The inputs of the fit's law that a run has, known before it trains."""
    known = {
        "N": getattr(run, f"n_{fit.n_convention}"),
        "D": run.tokens,
        "U": run.unique_tokens,
        **(run.config.get("inputs") or {}),
    }
    missing = [name for name in fit.law.input_names if known.get(name) is None]
    if missing:
        raise ServiceError(
            "not_enough_data",
            f"Run {run.id} does not say its {missing[0]} (N is counted as {fit.n_convention}).",
            f'Give it: "inputs": {{"{missing[0]}": ...}}.',
            column="inputs",
        )
    return {name: float(known[name]) for name in fit.law.input_names}


def _refuse_what_is_no_forecast(
    run: Run, fit: fits.StoredFit, validation_set: str, backtest: bool
) -> None:
    if run.id in fit.run_ids:
        raise ServiceError(
            "conflict",
            f"Fit {fit.id} was made with run {run.id}.",
            "Fit again without it (select.run_ids), then forecast.",
            column="run",
            value=run.id,
        )
    if not validation_set:
        raise ServiceError(
            "invalid",
            f"Fit {fit.id} was made from points, so it does not say which loss to score by.",
            'Give "validation_set".',
            column="validation_set",
        )
    if run.status in ("failed", "cancelled", "diverged"):
        raise ServiceError(
            "conflict",
            f"Run {run.id} is {run.status}: it will not land.",
            "Retry it, or forecast another.",
            column="run",
            value=run.id,
        )
    if run.status == "finished" and not backtest:
        raise _no_forecast(f"run {run.id} has finished")


def _no_forecast(why: str) -> ServiceError:
    return ServiceError(
        "conflict",
        f"This would be no forecast: {why}.",
        'To score a fit on a run that is known, say "backtest": true.',
        column="run",
    )


def _compute_ratio(run: Run | None, fit: Fit, inputs: Mapping[str, Any]) -> float | None:
    """Compute of the run over that of the fit's largest, both counted as the fit counts."""
    if fit.data.compute is None:
        return None
    column = {"exact": "flops_exact", "palm": "flops_palm", "6ND": "flops_6nd"}
    flops = getattr(run, column[fit.flops_convention]) if run is not None else None
    if flops is None and {"N", "D"} <= inputs.keys():
        flops = 6.0 * float(inputs["N"][0]) * float(inputs["D"][0])
    return None if flops is None else float(flops) / fit.data.compute[1]


def _project_of(connection: Connection, project: str | int | None, fit: fits.StoredFit) -> int:
    if project is not None:
        return projects.resolve(connection, project).id
    if fit.project_id is None:
        raise ServiceError(
            "invalid",
            f"Fit {fit.id} belongs to no project, so the forecast needs one.",
            'Give "project".',
            column="project",
        )
    return fit.project_id


def _run(connection: Connection, run_id: int) -> Run:
    try:
        return stored_runs.get(connection, run_id)
    except NotFound:
        raise not_found("run", run_id) from None


def _shown(connection: Connection, stored: storage.Forecast) -> ForecastShown:
    run = None if stored.run_id is None else stored_runs.get(connection, stored.run_id)
    fit = fits.get(connection, stored.fit_id)
    return ForecastShown(
        **asdict(stored),
        run_name=None if run is None else run.name,
        run_status=None if run is None else run.status,
        law=fit.law,
        fit_status=fit.status,
        made=_made(stored, run),
        error=stored.error,
        inside=stored.inside,
    )


def _made(stored: storage.Forecast, run: Run | None) -> str:
    if run is None:
        return "of_inputs"
    if run.finished_at is not None and stored.created_at >= run.finished_at:
        return "backtest"
    if run.started_at is not None and stored.created_at >= run.started_at:
        return "while_training"
    return "before_training"
