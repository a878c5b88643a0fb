"""Jobs: what takes longer than a request should. A worker calls `perform`."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from app.services import comparisons, fits, laws, paging, projects
from app.services.errors import ServiceError, not_found
from app.storage import jobs as storage
from app.storage import queue
from app.storage.errors import Conflict, NotFound
from app.storage.jobs import Job
from fitting import FittingError

# kind -> (transaction, request) -> where the outcome is. To add a kind is to add a line.
WORK: dict[str, Callable[[Connection, Mapping[str, Any]], dict[str, Any]]] = {}


def submit(
    connection: Connection,
    kind: str,
    request: Mapping[str, Any],
    project: str | int | None = None,
) -> Job:
    """Queue a job of a kind in `WORK`."""
    if kind not in WORK:
        raise ServiceError(
            "invalid", f"{kind!r} is no kind of job.", f"Use one of {', '.join(WORK)}.", value=kind
        )
    project_id = None if project is None else projects.resolve(connection, project).id
    job = storage.create(connection, kind, request, project_id)
    queue.defer_job(connection, job.id)
    return job


def submit_fit(connection: Connection, request: fits.FitRequest) -> Job:
    """A fit as a job; what can be refused at once is refused at once."""
    law = None if request.law == fits.AUTO else laws.find(request.law)
    if request.inputs is None:
        fits.select_runs(connection, law, request)
    else:
        fits.runs_of_points(law, request)
    return submit(connection, "fit", fits.describe_request(request), request.project)


def perform(engine: Engine, job_id: int) -> Job:
    """Do the job, from the worker's task. Done twice, it is done once: the second finds it ended.

    The outcome and the job's end are one transaction, so that a worker that dies in between leaves
    nothing; a refusal is the job's answer, kept as its message, and raises nothing.
    """
    with engine.begin() as connection:
        attempt = storage.claim(connection, job_id)
        job = storage.get(connection, job_id)
    if attempt is None:
        return job
    try:
        with engine.begin() as connection:
            result = WORK[job.kind](connection, job.request)
            # a fit takes no reports along its way; a stop that was asked for meanwhile counts
            asked = storage.report(connection, job_id, attempt, 1.0)
            if asked.stop_requested:
                raise _Stopped
            storage.end(connection, job_id, attempt, "finished", result=result)
    except _Stopped:
        _end(engine, job_id, attempt, "cancelled", "Cancelled.")
    except (ServiceError, FittingError) as error:
        refusal = {"kind": error.kind, "detail": error.message, "hint": error.hint}
        _end(engine, job_id, attempt, "failed", f"{error.message} {error.hint}".strip(), refusal)
    except OperationalError:
        # the database is away: the queue delivers the job again
        raise
    except Exception as error:
        _end(engine, job_id, attempt, "failed", f"{type(error).__name__}: {error}"[:2000])
        raise
    with engine.begin() as connection:
        return storage.get(connection, job_id)


def get(connection: Connection, job_id: int) -> Job:
    try:
        return storage.get(connection, job_id)
    except NotFound:
        raise not_found("job", job_id) from None


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    kind: str | None = None,
    status: str | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[Job]:
    stored = storage.page(
        connection,
        project_id=None if project is None else projects.resolve(connection, project).id,
        kind=kind,
        status=status,
        after=paging.after_of(cursor),
        limit=limit,
    )
    return paging.page_of(stored, lambda job: job)


def cancel(connection: Connection, job_id: int) -> Job:
    """A queued job at once, a running one when it next looks."""
    get(connection, job_id)
    try:
        storage.request_stop(connection, job_id)
    except Conflict as error:
        raise ServiceError(
            "conflict",
            f"{str(error)[:1].upper()}{str(error)[1:]}.",
            "Only a job that has not ended can be cancelled.",
            value=job_id,
        ) from None
    return get(connection, job_id)


class _Stopped(Exception):
    """The job was asked to stop; what it did is rolled back."""


def _end(
    engine: Engine,
    job_id: int,
    attempt: int,
    status: str,
    message: str,
    result: Mapping[str, Any] | None = None,
) -> None:
    with engine.begin() as connection:
        storage.end(connection, job_id, attempt, status, message=message, result=result)


def _fit(connection: Connection, request: Mapping[str, Any]) -> dict[str, Any]:
    made = comparisons.create_fit(
        connection, fits.request_from(json.loads(json.dumps(dict(request))))
    )
    return {"fit_id": made.id, "status": made.status, "url": f"/v1/fits/{made.id}"}


WORK["fit"] = _fit
