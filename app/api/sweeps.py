"""/v1/sweeps"""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, Limit, SettingsDep
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.sweeps import (
    NoiseOut,
    PlanOut,
    RateSensitivity,
    SeedNoise,
    SensitivityOut,
    SweepIn,
    SweepOut,
)
from app.services import paging, sweeps

router = APIRouter(
    prefix="/v1/sweeps", tags=["sweeps"], route_class=IdempotentRoute, dependencies=[READ]
)


@router.post("", status_code=201, dependencies=[SUBMIT])
def create_sweep(
    body: SweepIn,
    database: DatabaseDep,
    settings: SettingsDep,
    response: Response,
    dry_run: Annotated[bool, Query(description="Answer the plan and store nothing.")] = False,
    processes: Annotated[
        int, Query(ge=1, le=100_000, description="Trainings at once, for the dry run's estimate.")
    ] = 1,
) -> SweepOut | PlanOut:
    """Plan sizes x budgets as trunks and branches, and queue them; or, dry, the plan alone."""
    with database.begin() as connection:
        if dry_run:
            planned = sweeps.plan(connection, settings, body.name, body.spec(), processes=processes)
            response.status_code = 200
            members = {name: getattr(planned.plan, name) for name in PLAN_MEMBERS}
            return PlanOut.model_validate({**members, "estimate": planned.estimate})
        made = sweeps.create(connection, settings, body.project, body.name, body.spec())
    response.headers["Location"] = f"/v1/sweeps/{made.id}"
    return SweepOut.model_validate(made)


PLAN_MEMBERS = ("runs", "skipped", "warnings", "total_flops", "total_tokens")


@router.get("")
def list_sweeps(
    database: DatabaseDep,
    project: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[SweepOut]:
    """Sweeps, newest first, with how far each is."""
    with database.begin() as connection:
        page = sweeps.page(connection, project=project, cursor=cursor, limit=limit)
        return PageOf[SweepOut].model_validate(page)


@router.get("/{sweep_id}")
def get_sweep(sweep_id: Id, database: DatabaseDep) -> SweepOut:
    """One sweep and how far it is; its runs are at /v1/runs?sweep_id=."""
    with database.begin() as connection:
        return SweepOut.model_validate(sweeps.get(connection, sweep_id))


@router.post("/{sweep_id}/cancel", dependencies=[SUBMIT])
def cancel_sweep(sweep_id: Id, database: DatabaseDep) -> SweepOut:
    """Cancel what has not ended; what is stored stays."""
    with database.begin() as connection:
        return SweepOut.model_validate(sweeps.cancel(connection, sweep_id))


@router.get("/{sweep_id}/noise")
def get_noise(
    sweep_id: Id,
    database: DatabaseDep,
    level: Annotated[float, Query(gt=0, lt=1, description="Of the interval.")] = 0.9,
) -> NoiseOut:
    """What luck is worth: the spread of the last loss over seeds, from the sweep's repeats."""
    with database.begin() as connection:
        found = sweeps.seed_noise(connection, sweep_id, level=level)
    return NoiseOut(sweep_id=sweep_id, noise=list(map(SeedNoise.model_validate, found)))


@router.get("/{sweep_id}/sensitivity")
def get_sensitivity(sweep_id: Id, database: DatabaseDep) -> SensitivityOut:
    """What a wrong peak rate costs, from the sweep's rates (`lrs`), three or more of a size."""
    with database.begin() as connection:
        found = sweeps.rate_sensitivity(connection, sweep_id)
    return SensitivityOut(
        sweep_id=sweep_id, sensitivity=list(map(RateSensitivity.model_validate, found))
    )
