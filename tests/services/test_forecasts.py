"""Forecasts are written before the run lands, kept as they are, and scored once."""

import pytest
from sqlalchemy import Connection

from app.errors import ServiceError
from app.services import fits, forecasts
from app.services.fits import FitRequest, Select, StoredFit
from fitting import FittingError
from tests.services.conftest import project_with_runs


def fit_of(connection: Connection, name: str, leave_out: int = 0) -> StoredFit:
    imported = project_with_runs(connection, name, noise=0.002)
    chosen = tuple(imported.run_ids[: len(imported.run_ids) - leave_out])
    return fits.create(
        connection,
        FitRequest(
            law="chinchilla",
            project=name,
            validation_set="validation",
            select=Select(run_ids=chosen),
            draws=50,
        ),
    )


def test_inputs_alone_may_be_forecast(connection: Connection) -> None:
    fit = fit_of(connection, "inputs")
    made = forecasts.create(connection, fit.id, inputs={"N": 3e9, "D": 1e11})
    assert made.made == "of_inputs" and made.run_id is None and made.actual is None
    assert made.lower < made.loss < made.upper
    # the largest run has 1e9 parameters and 1e11 tokens
    assert made.reach == {"N": pytest.approx(3.0), "D": pytest.approx(1.0)}
    assert made.compute_ratio == pytest.approx(3.0)


def test_a_size_beyond_the_floats_is_refused(connection: Connection) -> None:
    fit = fit_of(connection, "absurd")
    with pytest.raises(FittingError, match="N is 1e\\+308"):
        forecasts.create(connection, fit.id, inputs={"N": 1e308, "D": 1e308})


def test_a_run_that_has_finished_is_no_forecast_but_may_be_a_backtest(
    connection: Connection,
) -> None:
    fit = fit_of(connection, "late", leave_out=2)
    held_out = max(run_id for run_id in range(min(fit.run_ids), max(fit.run_ids) + 3))
    with pytest.raises(ServiceError, match="no forecast") as refused:
        forecasts.create(connection, fit.id, run_id=held_out)
    assert refused.value.kind == "conflict" and "backtest" in refused.value.hint
    made = forecasts.create(connection, fit.id, run_id=held_out, backtest=True)
    assert made.made == "backtest"
    # the runs scatter by 0.2%, and the law is theirs
    assert made.error == pytest.approx(0.0, abs=0.01)
    assert made.inside is not None


def test_a_run_that_was_fitted_is_neither(connection: Connection) -> None:
    fit = fit_of(connection, "own")
    with pytest.raises(ServiceError, match="was made with run"):
        forecasts.create(connection, fit.id, run_id=fit.run_ids[0], backtest=True)


def test_what_does_not_exist_is_said(connection: Connection) -> None:
    fit = fit_of(connection, "nothing")
    with pytest.raises(ServiceError, match="no run 999999"):
        forecasts.create(connection, fit.id, run_id=999_999)
    with pytest.raises(ServiceError, match="a run or inputs"):
        forecasts.create(connection, fit.id)
    with pytest.raises(ServiceError, match="no forecast 999999"):
        forecasts.get(connection, 999_999)
