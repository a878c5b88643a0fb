"""Jobs: work that outlives a request, done by a worker (training runs have runs.py instead).

A job is fenced like a run: claiming it raises its attempt, and who holds an old one writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, func, update
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import Conflict, NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, value_of
from app.storage.tables import jobs

ENDED = ("finished", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    """`progress` goes from 0 to 1; `result` says where the outcome is."""

    id: int
    project_id: int | None
    kind: str
    status: str
    request: dict[str, Any]
    attempt: int
    stop_requested: bool
    progress: float
    message: str
    result: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class Held:
    """Whether the job is still the writer's, and whether it was asked to stop."""

    held: bool
    stop_requested: bool


def create(
    connection: Connection, kind: str, request: Mapping[str, Any], project_id: int | None = None
) -> Job:
    """A queued job; defer it (queue.defer_job) in the same transaction."""
    row = connection.execute(
        insert(jobs)
        .values(kind=kind, request=dict(request), project_id=project_id)
        .returning(*columns_of(Job, jobs))
    ).one()
    return value_of(Job, row)


def get(connection: Connection, job_id: int) -> Job:
    found = find_row(connection, Job, jobs, id=job_id)
    if found is None:
        raise NotFound("job", job_id)
    return found


def page(
    connection: Connection,
    *,
    project_id: int | None = None,
    kind: str | None = None,
    status: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[Job]:
    where: dict[str, object] = {"project_id": project_id, "kind": kind, "status": status}
    return page_of(connection, Job, jobs, where=where, after=after, limit=limit)


def claim(connection: Connection, job_id: int) -> int | None:
    """Take the job: its attempt, or None if it has ended. A running one is taken over."""
    return connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(("queued", "running")))
        .values(status="running", attempt=jobs.c.attempt + 1, updated_at=func.clock_timestamp())
        .returning(jobs.c.attempt)
    ).scalar_one_or_none()


def report(
    connection: Connection, job_id: int, attempt: int, progress: float, message: str = ""
) -> Held:
    """Say how far the job is."""
    row = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status == "running")
        .values(progress=progress, message=message, updated_at=func.clock_timestamp())
        .returning(jobs.c.stop_requested)
    ).one_or_none()
    return Held(False, False) if row is None else Held(True, row.stop_requested)


def end(
    connection: Connection,
    job_id: int,
    attempt: int,
    status: str,
    *,
    message: str = "",
    result: Mapping[str, Any] | None = None,
) -> bool:
    """The job ended as finished, failed or cancelled. False if it is not the writer's any more."""
    if status not in ENDED:
        raise ValueError(f"a job ends as finished, failed or cancelled, not as {status!r}")
    return bool(
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status == "running")
            .values(
                status=status,
                message=message,
                result=None if result is None else dict(result),
                progress=1.0 if status == "finished" else jobs.c.progress,
                updated_at=func.clock_timestamp(),
            )
        ).rowcount
    )


def request_stop(connection: Connection, job_id: int) -> str:
    """Cancel a job: a queued one at once, a running one when its worker next reports.

    Returns the status it has now. Conflict if it has ended, NotFound if there is none.
    """
    status = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(("queued", "running")))
        .values(
            stop_requested=True,
            status=case((jobs.c.status == "queued", "cancelled"), else_=jobs.c.status),
            updated_at=func.clock_timestamp(),
        )
        .returning(jobs.c.status)
    ).scalar_one_or_none()
    if status is None:
        raise Conflict("job", f"job {job_id} is {get(connection, job_id).status} already")
    return str(status)
