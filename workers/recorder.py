"""What a trainer prints -> the database, in batches, fenced, in order, and again after an outage.

One thread per run writes; the thread that watches the trainer only hands lines over, so a slow or
absent database never stops training. A batch whose commit was not confirmed is written again:
twice is harmless (app/storage/recording.py). Order matters: a checkpoint is recorded after the
points before it, so a run that resumes from a recorded checkpoint has no gap in its curve.
"""

import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.services import scheduling
from app.storage import curves, queue, recording
from app.storage.recording import Batch, CheckpointLine, EvaluationLine
from app.storage.runs import STARTS
from workers.lifecycle import (
    Close,
    Closed,
    ContactLost,
    Event,
    LeaseLost,
    LinesRefused,
    Recorded,
)
from workers.shelf import Shelf

log = structlog.get_logger()

MAX_BATCH_LINES = 200
RETRY_SECONDS = 1.0
SPOOL_BYTES = 16 * 1024 * 1024  # kept in memory; about an hour of a fast proxy run
REQUEUED_PRIORITY = 100  # what was begun is finished before something new is begun

Line = dict[str, Any]


class Spool:
    """Lines in order, first in memory, beyond `memory_bytes` in an unnamed temporary file."""

    def __init__(self, memory_bytes: int = SPOOL_BYTES, folder: Path | None = None) -> None:
        self._memory: deque[bytes] = deque()
        self._bytes = 0
        self._memory_bytes = memory_bytes
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._read_at = 0
        self._in_file = 0

    def __len__(self) -> int:
        return len(self._memory) + self._in_file

    def put(self, line: bytes) -> None:
        """`line` holds no line end. Raises OSError when the disk is full."""
        if self._in_file == 0 and self._bytes + len(line) <= self._memory_bytes:
            self._memory.append(line)
            self._bytes += len(line)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self._file.seek(0, 2)
        self._file.write(line + b"\n")
        self._in_file += 1

    def take(self, limit: int) -> list[bytes]:
        """Up to `limit` of the oldest lines; they are gone from here."""
        taken: list[bytes] = []
        while self._memory and len(taken) < limit:
            taken.append(self._memory.popleft())
            self._bytes -= len(taken[-1])
        if self._file is not None and not self._memory and len(taken) < limit:
            self._file.seek(self._read_at)
            while self._in_file and len(taken) < limit:
                taken.append(self._file.readline()[:-1])
                self._in_file -= 1
            self._read_at = self._file.tell()
            if not self._in_file:
                self._file.close()
                self._file, self._read_at = None, 0
        return taken


@dataclass(frozen=True)
class Parsed:
    """A batch, and what the lines say beside it."""

    batch: Batch
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def children_may_start(self) -> bool:
        return any(line.kind in STARTS for line in self.batch.checkpoints)


def parse(lines: Iterable[Line], config: Mapping[str, Any]) -> Parsed:
    """Lines of the trainer's protocol -> rows. ValueError, KeyError or TypeError if they are not.

    Lines of an unknown kind are left out: a newer trainer may say more.
    """
    points: list[tuple[int, float | None, float, float | None]] = []
    metrics: dict[str, list[tuple[int, float]]] = {}
    evaluations: list[EvaluationLine] = []
    checkpoints: list[CheckpointLine] = []
    facts: dict[str, Any] = {}
    for line in lines:
        match line["event"]:
            case "start":
                facts = facts_of(line, config)
            case "points":
                points += [
                    (int(step), _number(tokens), float(loss), _number(lr))
                    for step, tokens, loss, lr in line["points"]
                ]
                for name, values in line.get("metrics", {}).items():
                    metrics.setdefault(name, []).extend(
                        (int(step), float(value)) for step, value in values
                    )
            case "evaluation":
                evaluations.append(
                    EvaluationLine(
                        step=int(line["step"]),
                        validation_set=str(line["validation_set"]),
                        loss=float(line["loss"]),
                        train_tokens=_number(line.get("train_tokens")),
                        tokens=_number(line.get("tokens")),
                        bytes=_number(line.get("bytes")),
                    )
                )
            case "checkpoint":
                checkpoints.append(
                    CheckpointLine(
                        step=int(line["step"]),
                        kind=str(line["kind"]),
                        path=str(line["path"]),
                        sha256=str(line["sha256"]),
                        bytes=int(line["bytes"]),
                    )
                )
    return Parsed(Batch(points, metrics, evaluations, checkpoints), facts)


def facts_of(line: Line, config: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of `runs` that the trainer knows at its start.

    D and C are those of the whole run: `steps` of the schedule, at the FLOPs per token that the
    trainer counted for this very model.
    """
    steps = int(config["schedule"]["steps"])
    tokens = float(steps) * float(config["batch_tokens"])
    params, flops = line["params"], line["flops_per_token"]
    return {
        "recipe": str(line["recipe"]),
        "fingerprint": dict(line["fingerprint"]),
        "corpus_digest": str(line["corpus_digest"]),
        "unique_tokens": _number(line.get("unique_tokens")),
        "steps": steps,
        "tokens": tokens,
        "n_total": float(params["total"]),
        "n_non_embedding": float(params["non_embedding"]),
        "n_blocks": float(params["blocks"]),
        "n_blocks_and_head": float(params["blocks_and_head"]),
        "flops_exact": float(flops["exact"]) * tokens,
        "flops_6nd": float(flops["6nd"]) * tokens,
        "flops_palm": float(flops["palm"]) * tokens,
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


class Recorder(threading.Thread):
    """Writes for one attempt at one run until its close is stored, or the run is not ours.

    `put`, `close` and `abandon` are called by the thread that watches the trainer; `post` is called
    from this one with what came of it.
    """

    def __init__(
        self,
        engine: Engine,
        run_id: int,
        attempt: int,
        config: Mapping[str, Any],
        post: Callable[[Event], None],
        *,
        flush_seconds: float = 1.0,
        spool: Spool | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        super().__init__(name=f"record-run-{run_id}", daemon=True)
        self._engine = engine
        self._run_id, self._attempt, self._config = run_id, attempt, config
        self._post = post
        self._flush_seconds = flush_seconds
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._spool = Spool() if spool is None else spool
        self._shelf = shelf
        self._close: Close | None = None
        self._abandoned = False
        self._log = log.bind(run_id=run_id, attempt=attempt)

    def put(self, line: bytes) -> None:
        with self._lock:
            self._spool.put(line)
        if self._shelf is not None:
            self._shelf.written(line)

    def close(self, close: Close) -> None:
        """Store what waits, then `close`. Said again, the later one counts."""
        with self._lock:
            self._close = close
        self._wake.set()

    def abandon(self) -> None:
        """Store nothing more."""
        with self._lock:
            self._abandoned = True
        self._wake.set()

    def run(self) -> None:
        waiting: list[bytes] = []  # a batch whose commit is not confirmed
        while True:
            with self._lock:
                if self._abandoned:
                    return
                waiting = waiting or self._spool.take(MAX_BATCH_LINES)
                more = len(self._spool) > 0
                close = self._close if not waiting and not more else None
            outcome = self._try(waiting, close)
            if outcome is None:  # no contact: the same again in a while
                retry_seconds = min(RETRY_SECONDS, 2 * self._flush_seconds)
                self._wait(retry_seconds, wake_for_close=False)
                continue
            if self._shelf is not None and isinstance(outcome, Recorded):
                self._shelf.recorded(waiting)
            waiting = []
            self._post(outcome)
            if isinstance(outcome, LeaseLost | Closed):
                return
            with self._lock:
                ready = more or (self._close is not None and close is None)
            if not ready:
                self._wait(self._flush_seconds, wake_for_close=True)

    def _wait(self, seconds: float, *, wake_for_close: bool) -> None:
        if wake_for_close:
            self._wake.wait(seconds)
            self._wake.clear()
            return
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._abandoned:
            time.sleep(min(left, 0.1))

    def _try(self, waiting: Sequence[bytes], close: Close | None) -> Event | None:
        """Write a batch or the close in one transaction; None when there is no contact."""
        try:
            with self._engine.begin() as connection:
                if close is not None:
                    return self._write_close(connection, close)
                return self._write(connection, waiting)
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            self._lost_contact(error)
            return None
        except DBAPIError as error:
            if error.connection_invalidated:
                self._lost_contact(error)
                return None
            return self._refused(close, str(error.orig))
        except (ValueError, KeyError, TypeError) as error:
            return self._refused(close, f"{type(error).__name__}: {error}")

    def _lost_contact(self, error: Exception) -> None:
        # the message may carry an address; the type says enough
        self._log.warning("no contact with the database", error=type(error).__name__)
        self._post(ContactLost(time.monotonic(), type(error).__name__))

    def _refused(self, close: Close | None, why: str) -> Event:
        why = why.strip().splitlines()[0] if why.strip() else "no reason given"
        if close is not None:
            self._log.error("the end of the run could not be stored", why=why)
            if close.status == "failed":  # nothing else to try: its lease will run out
                return LeaseLost(time.monotonic())
            return LinesRefused(time.monotonic(), f"the end of the run could not be stored: {why}")
        self._log.error("lines of the trainer could not be stored", why=why)
        return LinesRefused(time.monotonic(), f"what the trainer printed cannot be stored: {why}")

    def _write(self, connection: Connection, lines: Sequence[bytes]) -> Event:
        parsed = parse(map(json.loads, lines), self._config)
        run_id, attempt = self._run_id, self._attempt
        # The fence comes first and locks the row: what follows belongs to the same transaction.
        recorded = recording.record(connection, run_id, attempt, parsed.batch)
        if not recorded.held:
            return LeaseLost(time.monotonic())
        if parsed.facts:
            recording.describe_run(connection, run_id, attempt, parsed.facts)
        if parsed.children_may_start:
            scheduling.checkpoint_landed(connection, run_id)
        return Recorded(time.monotonic(), stop_requested=recorded.stop_requested)

    def _write_close(self, connection: Connection, close: Close) -> Event:
        status = store_close(connection, self._run_id, self._attempt, close)
        if status is None:
            return LeaseLost(time.monotonic())
        self._log.info("run closed", status=status, message=close.message.split("\n", 1)[0])
        return Closed(time.monotonic())


def store_close(connection: Connection, run_id: int, attempt: int, close: Close) -> str | None:
    """The end of an attempt and what follows from it; the run's new status, None if not ours.

    A run that was asked to stop is cancelled rather than queued again.
    """
    if close.status in ("finished", "diverged"):
        held = recording.finish_run(
            connection, run_id, attempt, status=close.status, message=close.message
        )
        status = close.status if held else None
    elif close.failed:
        retry = close.status == "queued"
        status = recording.fail_run(connection, run_id, attempt, close.message, retry=retry)
    else:
        status = recording.release_run(connection, run_id, attempt, close.message)
    if status == "queued":
        queue.defer_train(connection, run_id, REQUEUED_PRIORITY, close.delay_seconds)
    elif status is not None:
        curves.roll_up(connection, run_id)
        scheduling.ended(connection, run_id)
    return status
