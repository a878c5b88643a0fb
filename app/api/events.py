"""Server-sent events: what happens to a run, a sweep or a job, as it happens.

An announcement of the database says that something is new; what it is, is read then, and sent. A
stream ends with the event `end` when nothing more will happen.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from app.api.auth import READ, still_known
from app.api.dependencies import DatabaseDep, Id, IdQuery
from app.api.schemas.curves import InFlightOut
from app.api.schemas.jobs import JobOut
from app.api.schemas.runs import CurveOut, RunOut
from app.api.schemas.sweeps import SweepOut
from app.services import curves, jobs, loss_curves, runs, sweeps
from app.storage import jobs as stored_jobs
from app.storage.listen import Event, Listener
from app.storage.runs import ENDED

router = APIRouter(prefix="/v1", tags=["events"], dependencies=[READ])
# A trainer reports many times a second; eyes are slower.
LEAST_SECONDS_BETWEEN = 0.25
IDLE_SECONDS = 15.0
POINTS_AT_ONCE = 5_000


# A stream that has begun cannot answer 404 any more, so existence is looked at before.
def _run_exists(run_id: Id, database: DatabaseDep) -> None:
    with database.begin() as connection:
        runs.get(connection, run_id)


def _sweep_exists(sweep_id: Id, database: DatabaseDep) -> None:
    with database.begin() as connection:
        sweeps.get(connection, sweep_id)


def _job_exists(job_id: Id, database: DatabaseDep) -> None:
    with database.begin() as connection:
        jobs.get(connection, job_id)


@router.get(
    "/runs/{run_id}/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(_run_exists)],
)
async def run_events(
    run_id: Id, request: Request, last_event_id: Annotated[str, Header()] = ""
) -> AsyncIterable[ServerSentEvent]:
    """`run` (its status and progress) and `points` (new points of its curve; the event's id is the
    last step, so that a reader who reconnects misses none)."""
    after = int(last_event_id[:18]) if last_event_id.isdecimal() else None

    def look(connection: Connection) -> tuple[RunOut, CurveOut | None]:
        run = runs.get(connection, run_id)
        curve = (
            curves.read(connection, run_id)
            if after is None
            else curves.read_points(connection, run_id, after_step=after, limit=POINTS_AT_ONCE)
        )
        points = CurveOut.of(curve) if len(curve.step) else None
        return RunOut.of(runs.shown(connection, run)), points

    def wanted(event: Event) -> bool:
        return event.get("run_id") == run_id

    async for _ in _moments(request, wanted):
        run, points = await _read(request, look)
        if points is not None:
            after = int(points.step[-1])
            yield ServerSentEvent(event="points", id=str(after), data=points)
        yield ServerSentEvent(event="run", data=run)
        if run.status in ENDED:
            yield ServerSentEvent(event="end", data={"status": run.status})
            return


def _law_exists(run_id: Id, database: DatabaseDep, fit: IdQuery = None) -> None:
    with database.begin() as connection:
        loss_curves.in_flight(connection, run_id, fit)


@router.get("/runs/{run_id}/forecast", tags=["forecasts"])
def run_forecast(
    run_id: Id,
    database: DatabaseDep,
    fit: IdQuery = None,
    incumbent: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
    level: Annotated[float | None, Query(ge=0.5, le=0.999)] = None,
) -> InFlightOut:
    """What a run under way will end at: the law of completed runs (`fit`: of /v1/curves; default:
    the project's newest), frozen, and how far this run is off it. With `incumbent`, a final loss
    to beat, also whether to go on."""
    with database.begin() as connection:
        found = loss_curves.in_flight(connection, run_id, fit, incumbent=incumbent, level=level)
    return InFlightOut.model_validate(found)


@router.get(
    "/runs/{run_id}/forecast/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(_law_exists)],
)
async def run_forecast_events(
    run_id: Id,
    request: Request,
    fit: IdQuery = None,
    incumbent: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
) -> AsyncIterable[ServerSentEvent]:
    """`forecast`: the final loss foreseen, again whenever the run has moved."""
    seen = -1

    def look(connection: Connection) -> InFlightOut | None:
        run = runs.get(connection, run_id)
        if run.step == seen and not run.ended:
            return None
        return InFlightOut.model_validate(
            loss_curves.in_flight(connection, run_id, fit, incumbent=incumbent)
        )

    def wanted(event: Event) -> bool:
        return event.get("run_id") == run_id

    async for _ in _moments(request, wanted):
        found = await _read(request, look)
        if found is None:
            continue
        seen = found.step
        yield ServerSentEvent(event="forecast", id=str(seen), data=found)
        if found.status in ENDED:
            yield ServerSentEvent(event="end", data={"status": found.status})
            return


@router.get(
    "/sweeps/{sweep_id}/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(_sweep_exists)],
)
async def sweep_events(sweep_id: Id, request: Request) -> AsyncIterable[ServerSentEvent]:
    """`sweep`: how far it is, whenever one of its runs moves."""

    def look(connection: Connection) -> SweepOut:
        return SweepOut.model_validate(sweeps.get(connection, sweep_id))

    def wanted(event: Event) -> bool:
        return event.get("sweep_id") == sweep_id

    async for _ in _moments(request, wanted):
        sweep = await _read(request, look)
        yield ServerSentEvent(event="sweep", data=sweep)
        if sweep.progress.ended:
            yield ServerSentEvent(event="end", data=sweep.progress)
            return


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(_job_exists)],
)
async def job_events(job_id: Id, request: Request) -> AsyncIterable[ServerSentEvent]:
    """`job`: its status and progress."""

    def look(connection: Connection) -> JobOut:
        return JobOut.model_validate(jobs.get(connection, job_id))

    def wanted(event: Event) -> bool:
        return event.get("job_id") == job_id

    async for _ in _moments(request, wanted):
        job = await _read(request, look)
        yield ServerSentEvent(event="job", data=job)
        if job.status in stored_jobs.ENDED:
            yield ServerSentEvent(event="end", data={"status": job.status, "result": job.result})
            return


async def _moments(request: Request, wanted: Callable[[Event], bool]) -> AsyncIterator[None]:
    """Now, and whenever there may be something new, at most four times a second.

    Listening begins before the first look, so that nothing falls between the two; silence is a
    moment too, in case an announcement was lost. They end when the caller's key was revoked.
    """
    listener: Listener = request.app.state.listener
    events = listener.events(wanted, idle_seconds=IDLE_SECONDS)
    following = _next_of(events)
    await asyncio.sleep(0)
    try:
        while await run_in_threadpool(still_known, request):
            yield None
            looked_at = time.monotonic()
            await following
            following = _next_of(events)
            await asyncio.sleep(max(0.0, LEAST_SECONDS_BETWEEN - time.monotonic() + looked_at))
            # whatever else was announced meanwhile is seen by the same look
            while following.done():
                following = _next_of(events)
                await asyncio.sleep(0)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await following


def _next_of(events: AsyncIterator[Event]) -> asyncio.Task[Event]:
    async def following() -> Event:
        return await anext(events)

    return asyncio.create_task(following())


async def _read(request: Request, look: Callable[[Connection], Any]) -> Any:
    def inside() -> Any:
        with request.app.state.engine.begin() as connection:
            return look(connection)

    return await run_in_threadpool(inside)
