"""Forecasts: predictions that are kept, and scored once the run that they are about has landed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import Conflict, NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, value_of, values_of
from app.storage.tables import forecasts


@dataclass(frozen=True)
class Forecast:
    """A loss with its interval at `level`, for `inputs`; `actual` once it is known.

    `reach` is per input, `compute_ratio` in FLOPs: times the largest run of the fit.
    """

    id: int
    project_id: int
    fit_id: int
    run_id: int | None
    validation_set: str
    loss_unit: str
    inputs: dict[str, Any]
    level: float
    loss: float
    lower: float
    upper: float
    reach: dict[str, Any]
    compute_ratio: float | None
    created_at: datetime
    actual: float | None
    scored_at: datetime | None

    @property
    def inside(self) -> bool | None:
        """Whether the actual loss lies in the interval; None before it is known."""
        return None if self.actual is None else self.lower <= self.actual <= self.upper

    @property
    def error(self) -> float | None:
        """(forecast - actual) / actual: above zero where the forecast was too high; None before
        the actual loss is known."""
        return None if self.actual is None else self.loss / self.actual - 1.0


def create(
    connection: Connection,
    *,
    project_id: int,
    fit_id: int,
    validation_set: str,
    loss_unit: str,
    inputs: Mapping[str, Any],
    level: float,
    loss: float,
    lower: float,
    upper: float,
    reach: Mapping[str, Any],
    compute_ratio: float | None = None,
    run_id: int | None = None,
    backtest: bool = False,
) -> Forecast:
    """Keep a forecast. Conflict if its run has a loss already: that would be no forecast.

    `backtest` keeps it all the same; created_at, after the run's end, tells it from a forecast.
    """
    if run_id is not None and not backtest and _known(connection, run_id, validation_set):
        raise Conflict(
            "forecast",
            f"the loss of run {run_id} on {validation_set!r} is known already: a forecast is "
            "made before",
        )
    row = connection.execute(
        insert(forecasts)
        .values(
            project_id=project_id,
            fit_id=fit_id,
            run_id=run_id,
            validation_set=validation_set,
            loss_unit=loss_unit,
            inputs=dict(inputs),
            level=level,
            loss=loss,
            lower=lower,
            upper=upper,
            reach=dict(reach),
            compute_ratio=compute_ratio,
        )
        .returning(*columns_of(Forecast, forecasts))
    ).one()
    return value_of(Forecast, row)


def get(connection: Connection, forecast_id: int) -> Forecast:
    found = find_row(connection, Forecast, forecasts, id=forecast_id)
    if found is None:
        raise NotFound("forecast", forecast_id)
    return found


def page(
    connection: Connection,
    *,
    project_id: int | None = None,
    fit_id: int | None = None,
    run_id: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[Forecast]:
    where: dict[str, object] = {"project_id": project_id, "fit_id": fit_id, "run_id": run_id}
    return page_of(connection, Forecast, forecasts, where=where, after=after, limit=limit)


def score_run(connection: Connection, run_id: int) -> list[Forecast]:
    """Score the forecasts about a finished run by its loss at its last step; those just scored.

    A forecast is scored once, in its own validation set and loss unit; twice is harmless.
    """
    rows = connection.execute(
        text(
            """
            update forecasts set actual = final.loss, scored_at = now()
            from runs, lateral (
                select distinct on (validation_set) validation_set, loss, loss_unit, step
                from evaluations where evaluations.run_id = runs.id
                order by validation_set, step desc
            ) as final
            where runs.id = :run_id and runs.status = 'finished'
                and forecasts.run_id = runs.id and forecasts.actual is null
                and final.validation_set = forecasts.validation_set
                and final.loss_unit = forecasts.loss_unit
                and final.step = coalesce(runs.steps, final.step)
            returning forecasts.*
            """
        ),
        {"run_id": run_id},
    ).all()
    return values_of(Forecast, rows)


def _known(connection: Connection, run_id: int, validation_set: str) -> bool:
    """Whether the run's last loss is known. A finished run's counts as known."""
    return bool(
        connection.scalar(
            text(
                """
                select exists (
                    select 1 from runs left join evaluations e
                        on e.run_id = runs.id and e.validation_set = :validation_set
                        and e.step = runs.steps
                    where runs.id = :run_id
                        and (runs.status = 'finished' or e.loss is not null)
                )
                """
            ),
            {"run_id": run_id, "validation_set": validation_set},
        )
    )
