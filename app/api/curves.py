"""/v1/curves, /v1/schedules, /v1/cpt: laws of the whole loss curve"""

from fastapi import APIRouter, Response

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.curves import (
    ContinualFitIn,
    ContinualPlanIn,
    ContinualPlanOut,
    ContinualPredictIn,
    ContinualPredictionOut,
    CurveFitIn,
    CurvePredictIn,
    CurvePredictionOut,
    OptimizeIn,
    OptimizeOut,
    RankIn,
    RankOut,
    StoredOut,
)
from app.services import continual, fitted, loss_curves, paging

router = APIRouter(prefix="/v1", route_class=IdempotentRoute, dependencies=[READ])


@router.post("/curves/fit", status_code=201, tags=["curves"], dependencies=[SUBMIT])
def fit_curves(body: CurveFitIn, database: DatabaseDep, response: Response) -> StoredOut:
    """Fit a law of the whole loss curve to completed runs, and keep it."""
    request = body.to_request()
    with database.begin() as connection:
        made = loss_curves.create(connection, request)
    response.headers["Location"] = f"/v1/curves/{made.id}"
    return StoredOut.of(made)


@router.post("/curves/predict", tags=["curves"])
def predict_curve(body: CurvePredictIn, database: DatabaseDep) -> CurvePredictionOut:
    """The loss at any step of a run under any schedule, with its interval."""
    schedule = body.to_schedule()
    with database.begin() as connection:
        found = loss_curves.predict(
            connection, body.fit, schedule, steps=body.steps, size=body.size, level=body.level
        )
    return CurvePredictionOut.model_validate({"fit": body.fit, **found})


@router.get("/curves", tags=["curves"])
def list_curve_fits(
    database: DatabaseDep,
    project: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[StoredOut]:
    """Fits of curves, newest first."""
    with database.begin() as connection:
        page = fitted.page(connection, "curve_fit", project=project, cursor=cursor, limit=limit)
    return PageOf[StoredOut](
        items=[StoredOut.of(one) for one in page.items], next_cursor=page.next_cursor
    )


@router.get("/curves/{fit_id}", tags=["curves"])
def get_curve_fit(fit_id: Id, database: DatabaseDep) -> StoredOut:
    """One fit of curves."""
    with database.begin() as connection:
        return StoredOut.of(loss_curves.get(connection, fit_id))


@router.post("/schedules/rank", tags=["schedules"])
def rank_schedules(body: RankIn, database: DatabaseDep) -> RankOut:
    """Schedules of one peak rate by their predicted final loss, best first."""
    schedules = body.to_schedules()
    with database.begin() as connection:
        found = loss_curves.rank(connection, body.fit, schedules, size=body.size, level=body.level)
    return RankOut.model_validate({"fit": body.fit, **found})


@router.post("/schedules/optimize", tags=["schedules"])
def optimize_schedule(body: OptimizeIn, database: DatabaseDep) -> OptimizeOut:
    """How long to hold the peak rate, and how to fall from it. The peak itself is yours."""
    with database.begin() as connection:
        found = loss_curves.optimise(
            connection,
            body.fit,
            steps=body.steps,
            peak_lr=body.peak_lr,
            warmup_steps=body.warmup_steps,
            size=body.size,
            level=body.level,
        )
    return OptimizeOut.model_validate({"fit": body.fit, **found})


@router.post("/cpt/fit", status_code=201, tags=["continual pre-training"], dependencies=[SUBMIT])
def fit_continual(body: ContinualFitIn, database: DatabaseDep, response: Response) -> StoredOut:
    """Fit the general and the domain loss of continual pre-training, and keep them as one."""
    request = body.to_request()
    with database.begin() as connection:
        made = continual.create(connection, request)
    response.headers["Location"] = f"/v1/cpt/{made.id}"
    return StoredOut.of(made)


@router.post("/cpt/predict", tags=["continual pre-training"])
def predict_continual(body: ContinualPredictIn, database: DatabaseDep) -> ContinualPredictionOut:
    """Both losses along a continual run, and whether what is forgotten comes back."""
    transfer = body.to_transfer()
    with database.begin() as connection:
        found = continual.predict(
            connection, body.fit, transfer, steps=body.steps, level=body.level
        )
    return ContinualPredictionOut.model_validate({"fit": body.fit, **found})


@router.post("/cpt/plan", tags=["continual pre-training"])
def plan_continual(body: ContinualPlanIn, database: DatabaseDep) -> ContinualPlanOut:
    """Peak rate, loss potential, replay ratio and steps of the best continual run."""
    before = body.to_before()
    with database.begin() as connection:
        found = continual.plan(
            connection,
            body.fit,
            general_weight=body.general_weight,
            before=before,
            potentials=body.loss_potentials,
            steps=body.steps,
            options=body.options(),
        )
    return ContinualPlanOut(fit=body.fit, plan=found)


@router.get("/cpt", tags=["continual pre-training"])
def list_continual_fits(
    database: DatabaseDep,
    project: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[StoredOut]:
    """Fits of continual pre-training, newest first."""
    with database.begin() as connection:
        page = fitted.page(connection, "cpt_fit", project=project, cursor=cursor, limit=limit)
    return PageOf[StoredOut](
        items=[StoredOut.of(one) for one in page.items], next_cursor=page.next_cursor
    )


@router.get("/cpt/{fit_id}", tags=["continual pre-training"])
def get_continual_fit(fit_id: Id, database: DatabaseDep) -> StoredOut:
    """One fit of continual pre-training: both domains."""
    with database.begin() as connection:
        return StoredOut.of(continual.get(connection, fit_id))
