"""/v1/jobs"""

from typing import Literal

from fastapi import APIRouter

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.jobs import JobOut
from app.services import jobs, paging

router = APIRouter(
    prefix="/v1/jobs", tags=["jobs"], route_class=IdempotentRoute, dependencies=[READ]
)
Status = Literal["queued", "running", "finished", "failed", "cancelled"]


@router.get("")
def list_jobs(
    database: DatabaseDep,
    project: str | None = None,
    kind: str | None = None,
    status: Status | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[JobOut]:
    """Jobs, newest first."""
    with database.begin() as connection:
        page = jobs.page(
            connection, project=project, kind=kind, status=status, cursor=cursor, limit=limit
        )
        return PageOf[JobOut].model_validate(page)


@router.get("/{job_id}")
def get_job(job_id: Id, database: DatabaseDep) -> JobOut:
    """One job; when it has finished, `result` says where the outcome is."""
    with database.begin() as connection:
        return JobOut.model_validate(jobs.get(connection, job_id))


@router.post("/{job_id}/cancel", dependencies=[SUBMIT])
def cancel_job(job_id: Id, database: DatabaseDep) -> JobOut:
    """Stop a job: a queued one at once, a running one when it next looks."""
    with database.begin() as connection:
        return JobOut.model_validate(jobs.cancel(connection, job_id))
