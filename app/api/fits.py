"""/v1/laws, /v1/compare, /v1/fits, /v1/predictions, /v1/forecasts"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import JSONResponse

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, IdQuery, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.fits import (
    CompareIn,
    CompareOut,
    DiagnosticsOut,
    FitIn,
    FitOut,
    FitPoints,
    ForecastIn,
    ForecastOut,
    LawOut,
    LawsOut,
    PredictionIn,
    PredictionOut,
)
from app.api.schemas.jobs import JobOut
from app.api.unchanging import UNCHANGED, etag_of, unchanged
from app.services import (
    comparisons,
    diagnostics,
    fits,
    forecasts,
    jobs,
    laws,
    paging,
    predictions,
)

router = APIRouter(prefix="/v1", route_class=IdempotentRoute, dependencies=[READ])
RESPOND_ASYNC = "respond-async"


@router.get("/laws", tags=["laws"])
def list_laws() -> LawsOut:
    """Every law that can be fitted, with its inputs, parameters and an example."""
    return LawsOut(items=[LawOut(**laws.describe(laws.find(name))) for name in laws.names()])


@router.get("/laws/{name}", tags=["laws"])
def get_law(name: Annotated[str, Path(max_length=100)]) -> LawOut:
    """One law."""
    return LawOut(**laws.describe(laws.find(name)))


@router.post("/compare", tags=["laws"])
def compare_laws(body: CompareIn, database: DatabaseDep) -> CompareOut:
    """Rank the laws by how well they forecast the larger runs from the smaller ones.

    Each law is fitted below a cut in compute and judged above it, at several cuts.
    """
    request = body.to_request()
    with database.begin() as connection:
        found = comparisons.compare(connection, request, body.laws)
    return CompareOut.model_validate(found.to_dict())


@router.post(
    "/fits",
    status_code=201,
    tags=["fits"],
    dependencies=[SUBMIT],
    response_model=FitOut,
    responses={202: {"model": JobOut, "description": "Prefer: respond-async was asked for."}},
)
def create_fit(
    body: FitIn,
    database: DatabaseDep,
    response: Response,
    prefer: Annotated[str, Header(description="respond-async: a job does it.")] = "",
) -> FitOut | JSONResponse:
    """Fit a law to the finished runs of a project, or to points.

    The law "auto" is the first of /v1/compare; the document says under `compared` which laws were
    ranked and how.

    A fit that does not converge is an answer with a status; input that cannot be fitted is a 422
    that says what to change.
    """
    request = body.to_request()
    with database.begin() as connection:
        if RESPOND_ASYNC in prefer.lower():
            job = jobs.submit_fit(connection, request)
            return JSONResponse(
                JobOut.model_validate(job).model_dump(mode="json"),
                202,
                {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": RESPOND_ASYNC},
            )
        made = comparisons.create_fit(connection, request)
    response.headers["Location"] = f"/v1/fits/{made.id}"
    response.headers["ETag"] = etag_of(made)
    return FitOut.model_validate(made)


@router.get("/fits", tags=["fits"])
def list_fits(
    database: DatabaseDep,
    project: str | None = None,
    law: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[FitOut]:
    """Fits, newest first, without their draws."""
    with database.begin() as connection:
        page = fits.page(connection, project=project, law=law, cursor=cursor, limit=limit)
        return PageOf[FitOut].model_validate(page)


@router.get(
    "/fits/{fit_id}",
    tags=["fits"],
    response_model=FitOut,
    responses=UNCHANGED,
)
def get_fit(
    fit_id: Id,
    database: DatabaseDep,
    response: Response,
    draws: Annotated[bool, Query(description="With the draws: what `predict` needs.")] = False,
    if_none_match: Annotated[str, Header()] = "",
) -> FitOut | Response:
    """One fit. It never changes, so its ETag holds for ever."""
    with database.begin() as connection:
        fit = fits.get(connection, fit_id, draws=draws)
    return unchanged(fit, response, if_none_match) or FitOut.model_validate(fit)


@router.get("/fits/{fit_id}/points", tags=["fits"])
def get_fit_points(fit_id: Id, database: DatabaseDep) -> FitPoints:
    """The points that a fit was made from, with their runs."""
    with database.begin() as connection:
        return FitPoints.model_validate(
            {"fit_id": fit_id, "points": fits.points_of(connection, fit_id).rows()}
        )


@router.get("/fits/{fit_id}/diagnostics", tags=["fits"])
def get_fit_diagnostics(fit_id: Id, database: DatabaseDep) -> DiagnosticsOut:
    """What stands behind a fit: residuals, intervals by three methods, the compute optimum by all
    of Hoffmann et al.'s approaches. 409 where its runs have changed since."""
    with database.begin() as connection:
        return DiagnosticsOut.model_validate(diagnostics.diagnose(connection, fit_id))


@router.post("/predictions", tags=["predictions"], response_model=PredictionOut)
def create_prediction(body: PredictionIn, database: DatabaseDep) -> Response:
    """Losses of up to 100,000 runs, each with its interval and how far it reaches."""
    with database.begin() as connection:
        found = predictions.predict(connection, body.fit, body.inputs(), level=body.level)
        more: dict[str, Any] = {}
        headers = {}
        if body.keep:
            kept = predictions.keep(connection, body.fit, body.model_dump(), found)
            headers["Location"] = f"/v1/predictions/{kept.id}"
            more = {"id": kept.id, "created_at": kept.created_at}
    written = PredictionOut.written(body.fit, found, **more)
    return Response(written, 201 if headers else 200, headers, "application/json")


@router.get("/predictions", tags=["predictions"])
def list_predictions(
    database: DatabaseDep,
    fit_id: IdQuery = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[PredictionOut]:
    """Predictions that were kept, newest first."""
    with database.begin() as connection:
        page = predictions.page(connection, fit_id=fit_id, cursor=cursor, limit=limit)
    return PageOf[PredictionOut](
        items=list(map(PredictionOut.of, page.items)), next_cursor=page.next_cursor
    )


@router.get("/predictions/{prediction_id}", tags=["predictions"])
def get_prediction(prediction_id: Id, database: DatabaseDep) -> PredictionOut:
    """One prediction that was kept."""
    with database.begin() as connection:
        return PredictionOut.of(predictions.get(connection, prediction_id))


@router.post("/forecasts", status_code=201, tags=["forecasts"], dependencies=[SUBMIT])
def create_forecast(body: ForecastIn, database: DatabaseDep, response: Response) -> ForecastOut:
    """Write down, before it trains, what a run will reach. It is scored when the run lands."""
    with database.begin() as connection:
        made = forecasts.create(
            connection,
            body.fit,
            run_id=body.run,
            inputs=body.inputs,
            validation_set=body.validation_set,
            project=body.project,
            level=body.level,
            backtest=body.backtest,
        )
    response.headers["Location"] = f"/v1/forecasts/{made.id}"
    return ForecastOut.model_validate(made)


@router.get("/forecasts", tags=["forecasts"])
def list_forecasts(
    database: DatabaseDep,
    project: str | None = None,
    fit_id: IdQuery = None,
    run_id: IdQuery = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[ForecastOut]:
    """Forecasts against actuals, newest first."""
    with database.begin() as connection:
        page = forecasts.page(
            connection, project=project, fit_id=fit_id, run_id=run_id, cursor=cursor, limit=limit
        )
        return PageOf[ForecastOut].model_validate(page)


@router.get("/forecasts/{forecast_id}", tags=["forecasts"])
def get_forecast(forecast_id: Id, database: DatabaseDep) -> ForecastOut:
    """One forecast and, once the run has landed, how it did."""
    with database.begin() as connection:
        return ForecastOut.model_validate(forecasts.get(connection, forecast_id))
