"""A worker process: slots for runs, slots for jobs, the reaper, and an orderly end.

procrastinate's own worker claims and delivers; `SturdyWorker` makes it outlive its database.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from procrastinate import exceptions, job_context, jobs, retry
from procrastinate.worker import Worker
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.settings import Settings
from app.storage.engine import KEEPALIVE
from app.storage.listen import dsn
from app.storage.reaping import left_to_do
from workers.attempt import Station
from workers.reaper import Reaper
from workers.tasks import JOBS_QUEUE, QUEUES, TRAIN_QUEUE, app
from workers.tidy import Tidier

log = structlog.get_logger()

RETRY_SECONDS = 1.0
POLL_SECONDS = 2.0  # LISTEN tells of new work at once; this finds what is due after a wait
CONNECT_SECONDS = 5.0
DRAIN_LOOK_SECONDS = 0.25
SAME_ORDER_SECONDS = 1.0  # signals this close together are one order


@dataclass(frozen=True)
class Slots:
    """How much is done at once: runs (one process each), and jobs (threads of this process)."""

    train: int
    jobs: int


class WorkerFailed(Exception):
    """Something that nobody was prepared for ended this worker; its runs were given back."""


class SturdyWorker(Worker):
    """procrastinate's worker, except that losing the database does not end it.

    The original stops for good when a heartbeat, a fetch or its LISTEN fails, and forgets the
    outcome of a delivery that it could not store. Runs outlive such an outage (recorder.py), so
    the worker must too. These are private methods of procrastinate 3.10; the test that kills
    Postgres under a run watches over them. What none of them expects goes to `failed`: the original
    would wait for its runs, or stop and say no more.
    """

    def __init__(self, *arguments: Any, failed: Callable[[BaseException], None], **named: Any):
        super().__init__(*arguments, **named)
        self._failed = failed

    async def _fetch_and_process_jobs(self) -> None:
        try:
            await super()._fetch_and_process_jobs()  # type: ignore[no-untyped-call]
        except exceptions.ConnectorException as error:
            log.warning("no work could be fetched", error=type(error.__cause__).__name__)
            if isinstance(error.__cause__, psycopg.errors.ForeignKeyViolation):
                # While this worker was frozen another one struck it off.
                self.worker_id = await self.app.job_manager.register_worker()
                self._new_job_event.set()
        except Exception as error:
            self._failed(error)

    async def _update_heartbeat(self) -> None:
        while True:
            try:
                await super()._update_heartbeat()  # type: ignore[no-untyped-call]
            except exceptions.ConnectorException as error:
                log.warning("no heartbeat", error=type(error.__cause__).__name__)

    async def _listen(self) -> None:
        while True:
            try:
                await self.app.job_manager.listen_for_jobs(
                    on_notification=self._handle_notification, queues=self.queues
                )
            except (exceptions.ConnectorException, psycopg.OperationalError):
                await asyncio.sleep(RETRY_SECONDS)

    def _start_side_tasks(self) -> list[asyncio.Task[None]]:
        tasks = [*super()._start_side_tasks(), asyncio.create_task(self._listen(), name="listen")]
        for task in tasks:
            watch_over(task, self._failed)
        return tasks

    async def _persist_job_status(
        self,
        job: jobs.Job,
        status: jobs.Status,
        retry_decision: retry.RetryDecision | None,
        context: job_context.JobContext,
        job_result: job_context.JobResult | None,
    ) -> None:
        """Try until stored. The reaper may have taken the delivery back: then there is no row."""
        stopping_since: float | None = None
        while True:
            try:
                await super()._persist_job_status(job, status, retry_decision, context, job_result)
                return
            except exceptions.ConnectorException as error:
                if not isinstance(error.__cause__, psycopg.OperationalError):
                    log.info("the delivery was taken back", delivery=job.id)
                    return
            if self._stop_event.is_set():
                stopping_since = stopping_since or time.monotonic()
                if time.monotonic() - stopping_since > CONNECT_SECONDS:
                    return
            await asyncio.sleep(RETRY_SECONDS)


def watch_over(task: asyncio.Task[None], failed: Callable[[BaseException], None]) -> None:
    """Have `failed` called with what the task dies of, should it die of anything."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failed(error)

    task.add_done_callback(ended)


def make_pool(url: str, name: str) -> AsyncConnectionPool[psycopg.AsyncConnection]:
    """Connections for the queue. To be made inside the event loop.

    A broken connection is replaced when it is next wanted. psycopg's own attempts to reconnect are
    cut short, since they back off for as long again as the outage lasted.
    """
    return AsyncConnectionPool(
        dsn(url),
        open=False,
        min_size=1,
        max_size=4,
        timeout=3.0,
        reconnect_timeout=0.5,
        check=AsyncConnectionPool.check_connection,
        configure=_commit_each_statement,
        kwargs={"application_name": name, **KEEPALIVE},
    )


async def _commit_each_statement(connection: psycopg.AsyncConnection) -> None:
    """A worker that froze between a statement and its commit would keep what it has fetched."""
    await connection.set_autocommit(True)


async def serve(
    station: Station,
    url: str,
    slots: Slots,
    *,
    queues: Sequence[str] = QUEUES,
    drain: bool = False,
) -> None:
    """Work until SIGTERM or SIGINT; with `drain`, until nothing is left to do.

    The first signal lets every run write a checkpoint and gives it back; a second one, a second or
    more later, ends this process at once (the trainers die with it, and the leases run out).

    What nothing here is prepared for ends it in the same good order as a signal does, and then
    raises WorkerFailed: half a worker, without its reaper or deaf to its queue, would look alive.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(
        ThreadPoolExecutor(slots.train + slots.jobs + 4, thread_name_prefix="work")
    )
    settings = station.settings
    counts = {TRAIN_QUEUE: slots.train, JOBS_QUEUE: slots.jobs}
    ended = asyncio.Event()
    pool = make_pool(url, station.name)
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        if error not in failures:
            log.error("something failed that must not", exc_info=error)
            failures.append(error)
        if not station.stopping.is_set():
            stop()

    async with pool, app.open_async(pool):
        workers = [
            SturdyWorker(
                app,
                failed=failed,
                queues=[name],
                name=station.name,
                concurrency=counts[name],
                fetch_job_polling_interval=POLL_SECONDS,
                listen_notify=False,
                delete_jobs="always",
                additional_context={"station": station},
                install_signal_handlers=False,
                update_heartbeat_interval=settings.worker_heartbeat_seconds,
                stalled_worker_timeout=settings.worker_timeout_seconds,
            )
            for name in queues
        ]

        stopping_since = 0.0

        def stop() -> None:
            nonlocal stopping_since
            if station.stopping.is_set():
                if time.monotonic() - stopping_since < SAME_ORDER_SECONDS:
                    return  # Slurm tells every process of a job, and so does the job's own script
                log.warning("stopped at once")
                os._exit(1)
            stopping_since = time.monotonic()
            log.info("stopping", running=sorted(station.busy))
            station.stopping.set()
            ended.set()
            for worker in workers:
                worker.stop()  # type: ignore[no-untyped-call]

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        reaper = Reaper(station.engine, settings)
        side = [reap_for_ever(reaper, settings.reaper_seconds)]
        if drain:
            side.append(_stop_when_drained(station, queues, workers, reaper, ended))
        beside = [asyncio.create_task(each) for each in side]
        work = [asyncio.create_task(_run(worker, ended)) for worker in workers]
        for task in (*beside, *work):
            watch_over(task, failed)
        tidier = Tidier(station.engine, settings, station.store)
        threading.Thread(target=tidier.look_for_ever, args=[station.stopping], daemon=True).start()
        log.info("worker started", slots=counts, queues=list(queues), gpus=station.gpus is not None)
        try:
            await asyncio.gather(*work, return_exceptions=True)
        finally:
            station.stopping.set()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
    log.info("worker stopped")
    if failures:
        raise WorkerFailed(f"{type(failures[0]).__name__}: {failures[0]}") from failures[0]


async def _run(worker: SturdyWorker, ended: asyncio.Event) -> None:
    """Run the worker; at its start and its end too, the database may be away for a while.

    Not once it is to end: `run` forgets a stop that was asked for before it.
    """
    while not ended.is_set():
        try:
            await worker.run()  # type: ignore[no-untyped-call]
            return
        except exceptions.ConnectorException as error:
            if not isinstance(error.__cause__, psycopg.OperationalError):
                raise
            if ended.is_set():
                log.warning("left without saying so", error=type(error.__cause__).__name__)
                return
            log.warning("no contact with the database", error=type(error.__cause__).__name__)
            await asyncio.sleep(RETRY_SECONDS)


async def _stop_when_drained(
    station: Station,
    queues: Sequence[str],
    workers: Sequence[SturdyWorker],
    reaper: Reaper,
    ended: asyncio.Event,
) -> None:
    """Stop once no delivery is open and no run is being trained: then nothing can bring new ones.

    A run without a delivery is one whose worker died and whose lease still runs: it comes back.
    Runs that want more GPUs than this worker has for one are not waited for. The reaper looks last,
    for what ended runs leave to it: runs that wait for a parent which has ended without them.
    """

    def left() -> int:
        with station.engine.connect() as connection:
            return left_to_do(connection, queues, frozenset(station.too_large))

    while True:
        await asyncio.sleep(DRAIN_LOOK_SECONDS)
        try:
            if await asyncio.to_thread(left):
                continue
            await asyncio.to_thread(reaper.tick)
            if await asyncio.to_thread(left):
                continue
        except (DBAPIError, PoolTimeout):
            continue
        ended.set()
        for worker in workers:
            worker.stop()  # type: ignore[no-untyped-call]
        return


async def reap_for_ever(reaper: Reaper, seconds: float) -> None:
    """One pass every so many seconds, in a thread that nothing else uses."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="reaper") as thread:
        while True:
            await loop.run_in_executor(thread, reaper.tick)
            until = time.monotonic() + seconds
            while (wait := until - time.monotonic()) > 0:
                await asyncio.sleep(min(wait, reaper.look_seconds))
                reaper.awake()


def reap_only(engine: Engine, settings: Settings, stopping: threading.Event) -> None:
    """`python -m workers --reaper`: no slots, nothing but the reaper."""
    reaper = Reaper(engine, settings)
    while not stopping.is_set():
        reaper.tick()
        until = time.monotonic() + settings.reaper_seconds
        while (wait := until - time.monotonic()) > 0 and not stopping.is_set():
            stopping.wait(min(wait, reaper.look_seconds))
            reaper.awake()


def worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
