"""Take back what dead workers held, and deliver what got lost on the way.

Every worker process has one, in a thread of its own, so that no run starves it; an advisory lock
lets one at a time through (docs/decisions/). All of it may be done twice.
"""

import threading
from dataclasses import dataclass
from time import monotonic

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.settings import Settings
from app.storage import curves, queue, reaping, recording
from workers.recorder import REQUEUED_PRIORITY

log = structlog.get_logger()


@dataclass(frozen=True)
class Reaped:
    """What one pass did: ids of runs, and how many deliveries were repeated."""

    expired: tuple[int, ...] = ()
    given_up: tuple[int, ...] = ()
    redelivered: int = 0
    orphans: tuple[int, ...] = ()
    revived: tuple[int, ...] = ()
    branches: tuple[int, ...] = ()
    hopeless: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self != Reaped()


class Reaper:
    """One pass after another over one database.

    A lease is judged only after the database has been reachable, and this process awake, for a
    whole timeout: else an outage of the database or a suspended laptop would look like the death
    of every worker. Between passes `awake` is called every `look_seconds`; half a timeout without
    that means that this process slept, and so, perhaps, did whatever else runs on the machine.
    Living workers are heard from several times in the other half.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._one_pass = threading.Lock()  # a draining worker looks last from another thread
        self._awake_at: float | None = None
        self._patient_until = 0.0

    @property
    def look_seconds(self) -> float:
        """How often `awake` wants to be called."""
        return min(self._settings.reaper_seconds, self._settings.worker_timeout_seconds / 8)

    def awake(self) -> None:
        """Whoever runs this is awake; if that was long ago, nobody is called dead for a while."""
        now, timeout = monotonic(), self._settings.worker_timeout_seconds
        if self._awake_at is not None and now - self._awake_at > timeout / 2:
            self._patient_until = now + timeout
        self._awake_at = now

    def tick(self) -> Reaped:
        """One pass; without contact to the database, nothing. Never raises for the database."""
        with self._one_pass:
            return self._tick()

    def _tick(self) -> Reaped:
        self.awake()
        try:
            done = self._pass()
        except (DBAPIError, PoolTimeout) as error:
            self._patient_until = monotonic() + self._settings.worker_timeout_seconds
            log.warning("the reaper has no contact with the database", error=type(error).__name__)
            return Reaped()
        finally:
            self._awake_at = monotonic()
        if done:
            log.info("reaped", **{name: value for name, value in vars(done).items() if value})
        return done

    def _pass(self) -> Reaped:
        timeout = self._settings.worker_timeout_seconds
        with self._engine.begin() as connection:
            up_long = reaping.server_age_seconds(connection) >= timeout
            self.awake()  # a database that took long to answer took as long to hear of the living
            judge = up_long and monotonic() >= self._patient_until
            if judge:
                ended = reaping.end_stalled_transactions(connection, timeout)
                if ended:
                    log.warning("ended transactions of frozen workers", count=ended)
            if not reaping.alone(connection):
                return Reaped()
            expired = []
            if judge:
                expired = recording.expire(
                    connection, timeout, max_failures=self._settings.worker_max_failures
                )
            redelivered = reaping.redeliver(connection, timeout) if judge else 0
            revived = reaping.revive_children(connection)
            branches = reaping.queue_ready_children(connection)
            for run_id in (*(e.run_id for e in expired if e.status == "queued"), *branches):
                queue.defer_train(connection, run_id, REQUEUED_PRIORITY)
            for run_id in (e.run_id for e in expired if e.status != "queued"):
                curves.roll_up(connection, run_id)
            orphans = reaping.undelivered(connection)
            for run_id in orphans:
                queue.defer_train(connection, run_id)
            return Reaped(
                expired=tuple(e.run_id for e in expired if e.status == "queued"),
                given_up=tuple(e.run_id for e in expired if e.status != "queued"),
                redelivered=redelivered,
                orphans=tuple(orphans),
                revived=tuple(revived),
                branches=tuple(branches),
                hopeless=tuple(reaping.cancel_hopeless_children(connection)),
            )
