"""Hear of changes as they are committed: Postgres NOTIFY, for server-sent events.

Triggers announce every change of a run or job on one channel, as JSON:
{"event": "run", "run_id", "project_id", "sweep_id", "status", "step", "steps"} and
{"event": "job", "job_id", "project_id", "kind", "status", "progress", "message"}.
An announcement says that something is new, not what; whoever needs it reads it. One connection
serves every listener of a process. LISTEN needs a session: a pooler in transaction mode, such as
PgBouncer's, drops it in silence.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import make_url

CHANNEL = "scalewright"
BACKLOG = 1000  # announcements that a slow listener may be behind; then it misses some

Event = dict[str, Any]


class Listener:
    """`async with Listener(url) as listener`, then `listener.events(...)` as often as wanted.

    After the connection is lost it is made again, every second if need be, and each listener gets
    {"event": "reconnected"}: what was announced meanwhile is gone, so look afresh.
    """

    def __init__(self, url: str) -> None:
        self._dsn = dsn(url)
        self._queues: set[asyncio.Queue[Event]] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        connected = asyncio.Event()
        self._task = asyncio.create_task(self._listen(connected))
        waiting = asyncio.create_task(connected.wait())
        # a first connection that cannot be made is an error of the caller's, not a thing to retry
        await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            waiting.cancel()
            self._task.result()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def events(
        self, wanted: Callable[[Event], bool] = lambda event: True, *, idle_seconds: float = 15.0
    ) -> AsyncIterator[Event]:
        """Announcements that are `wanted`, from now on, until the caller stops asking.

        {"event": "idle"} comes after `idle_seconds` of silence, to keep a stream alive.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue(BACKLOG)
        self._queues.add(queue)
        try:
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), idle_seconds)
                except TimeoutError:
                    yield {"event": "idle"}
                    continue
                if event["event"] == "reconnected" or wanted(event):
                    yield event
        finally:
            self._queues.discard(queue)

    async def _listen(self, connected: asyncio.Event) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True
                ) as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    if connected.is_set():
                        self._tell({"event": "reconnected"})
                    connected.set()
                    async for notice in connection.notifies():
                        self._tell(json.loads(notice.payload))
            except psycopg.OperationalError:
                if not connected.is_set():
                    raise
                await asyncio.sleep(1.0)

    def _tell(self, event: Event) -> None:
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)


def dsn(url: str) -> str:
    """The URL's parts as psycopg and libpq read them.

    Not as a URL: SQLAlchemy writes a blank as it is, and libpq refuses such a URL with a message
    that shows the password.
    """
    parsed = make_url(url)
    _, parts = parsed.get_dialect()().create_connect_args(parsed)
    return make_conninfo(**parts)
