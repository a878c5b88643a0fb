"""What a training run writes while it trains, and who may write it.

A run is leased: claiming it raises its `attempt`, and everything after carries that number. One
statement is heartbeat, fence, cancel flag and exactly-once insert at once: it refreshes the lease
where id and attempt match, and inserts only where that row came back. So an old attempt that wakes
up (its machine slept, its network healed) stores nothing and learns that it has lost the run.
Writing the same lines again inserts nothing.

A large batch goes another way with the same outcome. The lease statement locks the run's row until
the transaction ends, and `runs.step` is the furthest step that any batch before named; where all of
a batch lies beyond it, none of its rows can be there, and COPY stores them at a third of the cost
(tests/benchmarks/ingest.py).
"""

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from app.storage.binary import HEADER, TRAILER, Field, copied, records
from app.storage.errors import Conflict
from app.storage.tables import runs as runs_table

BULK_ROWS = 200  # from here on COPY is cheaper than the arrays of one statement


@dataclass(frozen=True)
class EvaluationLine:
    """A loss on a validation set; `tokens` and `bytes` are the size of what was evaluated."""

    step: int
    validation_set: str
    loss: float
    train_tokens: float | None = None
    tokens: float | None = None
    bytes: float | None = None
    loss_unit: str = "nats/token"


@dataclass(frozen=True)
class CheckpointLine:
    step: int
    kind: str
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Batch:
    """Lines of one run. An empty batch is a heartbeat.

    points: (step, tokens, loss, lr); metrics: name -> (step, value). Losses and values that are
    not finite are left out: a run that diverges says so when it ends.
    """

    points: Sequence[tuple[int, float | None, float, float | None]] = ()
    metrics: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    evaluations: Sequence[EvaluationLine] = ()
    checkpoints: Sequence[CheckpointLine] = ()

    @property
    def n_rows(self) -> int:
        return len(self.points) + sum(map(len, self.metrics.values()))

    @property
    def last_step(self) -> int:
        """The furthest step of the batch, 0 if it names none."""
        steps = [point[0] for point in self.points]
        steps += [line.step for line in self.evaluations]
        steps += [line.step for line in self.checkpoints]
        steps += [step for values in self.metrics.values() for step, _ in values]
        return max(steps, default=0)


@dataclass(frozen=True)
class Recorded:
    """What came of a batch: whether the lease still holds, and how many rows were new.

    Not held: stop at once and write nothing more; another attempt has the run.
    """

    held: bool
    stop_requested: bool
    points: int
    metrics: int
    evaluations: int
    checkpoints: int


# A checkpoint is progress: the failures before it no longer count against the run.
# A checkpoint that is written again replaces what is known of it, since its file was replaced.
_RECORD = text(
    """
    with lease as (
        update runs set
            heartbeat_at = clock_timestamp(),
            step = greatest(step, cast(:last_step as bigint)),
            failures = case when cardinality(cast(:c_step as bigint[])) > 0 then 0 else failures end
        where id = :run_id and attempt = :attempt and status = 'running'
        returning id, stop_requested
    ), new_points as (
        insert into curve_points (run_id, step, attempt, tokens, loss, lr)
        select lease.id, given.step, :attempt, given.tokens, given.loss, given.lr
        from lease, unnest(
            cast(:p_step as bigint[]), cast(:p_tokens as float8[]),
            cast(:p_loss as float8[]), cast(:p_lr as float8[])
        ) as given (step, tokens, loss, lr)
        where given.loss > '-infinity' and given.loss < 'infinity'
        on conflict do nothing
        returning 1
    ), new_metrics as (
        insert into metrics (run_id, name, step, value)
        select lease.id, given.name, given.step, given.value
        from lease, unnest(
            cast(:m_name as text[]), cast(:m_step as bigint[]), cast(:m_value as float8[])
        ) as given (name, step, value)
        where given.value > '-infinity' and given.value < 'infinity'
        on conflict do nothing
        returning 1
    ), new_evaluations as (
        insert into evaluations
            (run_id, validation_set, step, attempt, train_tokens, loss, loss_unit, tokens, bytes)
        select lease.id, given.validation_set, given.step, :attempt, given.train_tokens,
            given.loss, given.loss_unit, given.tokens, given.bytes
        from lease, unnest(
            cast(:e_set as text[]), cast(:e_step as bigint[]), cast(:e_train_tokens as float8[]),
            cast(:e_loss as float8[]), cast(:e_unit as text[]), cast(:e_tokens as float8[]),
            cast(:e_bytes as float8[])
        ) as given (validation_set, step, train_tokens, loss, loss_unit, tokens, bytes)
        where given.loss > 0 and given.loss < 'infinity'
        on conflict do nothing
        returning 1
    ), new_checkpoints as (
        insert into checkpoints (run_id, step, kind, attempt, path, sha256, bytes)
        select distinct on (given.step, given.kind)
            lease.id, given.step, given.kind, :attempt, given.path, given.sha256, given.bytes
        from lease, unnest(
            cast(:c_step as bigint[]), cast(:c_kind as text[]), cast(:c_path as text[]),
            cast(:c_sha256 as text[]), cast(:c_bytes as bigint[])
        ) with ordinality as given (step, kind, path, sha256, bytes, line)
        order by given.step, given.kind, given.line desc
        on conflict (run_id, step, kind) do update set
            attempt = excluded.attempt, path = excluded.path,
            sha256 = excluded.sha256, bytes = excluded.bytes
        returning xmax = 0 as fresh
    )
    select stop_requested,
        (select count(*) from new_points) as points,
        (select count(*) from new_metrics) as metrics,
        (select count(*) from new_evaluations) as evaluations,
        (select count(*) from new_checkpoints where fresh) as checkpoints
    from lease
    """
)


# The lease alone, and how far the run was before. Spoken to psycopg itself, as COPY is: for a batch
# of 500 points SQLAlchemy's share of the work would be a tenth of all.
_LEASE = """
    with before as (
        select step from runs
        where id = %(run_id)s and attempt = %(attempt)s and status = 'running' for update
    )
    update runs set
        heartbeat_at = clock_timestamp(), step = greatest(runs.step, %(last_step)s::bigint)
    from before where runs.id = %(run_id)s
    returning runs.stop_requested, before.step
"""


def record(connection: Connection, run_id: int, attempt: int, batch: Batch) -> Recorded:
    """Store a batch and refresh the lease, in one transaction; twice is harmless.

    A (run, step) that is stored already keeps its first value.
    """
    if batch.n_rows < BULK_ROWS or (columns := _columns_of(batch)) is None:
        return _record(connection, run_id, attempt, batch)
    fence = {"run_id": run_id, "attempt": attempt, "last_step": columns.last_step}
    try:
        cursor: psycopg.Cursor[Any] = connection.connection.cursor()  # type: ignore[assignment]
        with cursor:
            lease = cursor.execute(_LEASE, fence).fetchone()
            if lease is None:
                return Recorded(False, False, 0, 0, 0, 0)
            stop_requested, step_before = lease
            beyond = columns.first_step > step_before
            if beyond:
                _copy(cursor, run_id, attempt, columns)
    except psycopg.Error as error:  # as from any other statement here
        raise DBAPIError.instance(_LEASE, None, error, psycopg.Error) from error
    if not beyond:  # some of it may be there
        return _record(connection, run_id, attempt, batch)
    rest = Recorded(True, stop_requested, 0, 0, 0, 0)
    if batch.evaluations or batch.checkpoints:
        small = Batch(evaluations=batch.evaluations, checkpoints=batch.checkpoints)
        rest = _record(connection, run_id, attempt, small)
    return replace(rest, points=len(columns.loss), metrics=columns.n_metrics)


@dataclass(frozen=True)
class _Columns:
    """A batch's points and metrics as arrays, each by rising step, finite."""

    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    tokens: NDArray[np.float64]
    lr: NDArray[np.float64]
    metrics: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    first_step: int
    last_step: int

    @property
    def n_metrics(self) -> int:
        return sum(len(steps) for steps, _ in self.metrics.values())


def _columns_of(batch: Batch) -> _Columns | None:
    """None if a step is named twice or the steps do not rise."""
    points = _table(batch.points, 4)
    tables = {name: _table(pairs, 2) for name, pairs in batch.metrics.items()}
    every = [points[:, 0], *(table[:, 0] for table in tables.values())]
    if any(np.any(np.diff(steps) <= 0) for steps in every):
        return None
    named = [int(steps[end]) for steps in every if len(steps) for end in (0, -1)]
    named += [line.step for line in batch.evaluations]
    named += [line.step for line in batch.checkpoints]
    points = points[np.isfinite(points[:, 2])]
    tokens, loss, lr = points[:, 1:].T
    metrics = {}
    for name, table in tables.items():
        finite = table[np.isfinite(table[:, 1])]
        metrics[name] = (finite[:, 0].astype(np.int64), finite[:, 1])
    first = min(named[: -len(batch.evaluations) - len(batch.checkpoints) or None])
    return _Columns(points[:, 0].astype(np.int64), loss, tokens, lr, metrics, first, max(named))


def _table(rows: Sequence[tuple[float | None, ...]], width: int) -> NDArray[np.float64]:
    """Rows of numbers as an array; None becomes NaN. struct packs them in a quarter of the time."""
    try:
        flat = struct.pack(f"{len(rows) * width}d", *itertools.chain.from_iterable(rows))
        return np.frombuffer(flat).reshape(-1, width)
    except struct.error:
        return np.array(rows, dtype=np.float64).reshape(-1, width)


def _copy(cursor: "psycopg.Cursor[Any]", run_id: int, attempt: int, columns: _Columns) -> None:
    """COPY what cannot be there yet."""
    if n := len(columns.step):
        fields = [
            Field("run_id", "bigint", run_id),
            Field("step", "bigint", columns.step),
            Field("attempt", "integer", attempt),
            Field("tokens", "float8", columns.tokens, nulls=True),
            Field("loss", "float8", columns.loss),
            Field("lr", "float8", columns.lr, nulls=True),
        ]
        with cursor.copy(_COPY_POINTS) as copy:
            copy.write(b"".join(copied(fields, n)))
    if columns.n_metrics:
        with cursor.copy(_COPY_METRICS) as copy:
            copy.write(HEADER)
            for name, (steps, values) in columns.metrics.items():
                fields = [
                    Field("run_id", "bigint", run_id),
                    Field("name", "text", name),
                    Field("step", "bigint", steps),
                    Field("value", "float8", values),
                ]
                copy.write(b"".join(records(fields, len(steps))))
            copy.write(TRAILER)


_COPY_POINTS = (
    "copy curve_points (run_id, step, attempt, tokens, loss, lr) from stdin (format binary)"
)
_COPY_METRICS = "copy metrics (run_id, name, step, value) from stdin (format binary)"


def _record(connection: Connection, run_id: int, attempt: int, batch: Batch) -> Recorded:
    """The one statement; rows that are there already are left alone."""
    metrics = [
        (name, step, value) for name, values in batch.metrics.items() for step, value in values
    ]
    evaluations, checkpoints = batch.evaluations, batch.checkpoints
    row = connection.execute(
        _RECORD,
        {
            "run_id": run_id,
            "attempt": attempt,
            "last_step": batch.last_step,
            "p_step": [point[0] for point in batch.points],
            "p_tokens": [point[1] for point in batch.points],
            "p_loss": [point[2] for point in batch.points],
            "p_lr": [point[3] for point in batch.points],
            "m_name": [name for name, _, _ in metrics],
            "m_step": [step for _, step, _ in metrics],
            "m_value": [value for _, _, value in metrics],
            "e_set": [line.validation_set for line in evaluations],
            "e_step": [line.step for line in evaluations],
            "e_train_tokens": [line.train_tokens for line in evaluations],
            "e_loss": [line.loss for line in evaluations],
            "e_unit": [line.loss_unit for line in evaluations],
            "e_tokens": [line.tokens for line in evaluations],
            "e_bytes": [line.bytes for line in evaluations],
            "c_step": [line.step for line in checkpoints],
            "c_kind": [line.kind for line in checkpoints],
            "c_path": [line.path for line in checkpoints],
            "c_sha256": [line.sha256 for line in checkpoints],
            "c_bytes": [line.bytes for line in checkpoints],
        },
    ).one_or_none()
    if row is None:
        return Recorded(False, False, 0, 0, 0, 0)
    return Recorded(
        True, row.stop_requested, row.points, row.metrics, row.evaluations, row.checkpoints
    )


def claim_run(
    connection: Connection, run_id: int, worker: str, *, lease_seconds: float | None = None
) -> int | None:
    """Take the run: status running, the attempt one higher. The attempt, or None if not to be had.

    None when the run has ended, was asked to stop or still waits for its parent. A running run is
    taken over from its worker, whose attempt is dead from then on; with `lease_seconds`, only if
    nothing was heard from that worker for so long.
    """
    statement = """
        update runs set
            status = 'running', attempt = attempt + 1, worker = :worker, message = '',
            heartbeat_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp())
        where id = :run_id and not stop_requested and (
            status = 'queued'
            or status = 'running' and (
                cast(:lease_seconds as float8) is null or heartbeat_at is null
                or heartbeat_at < clock_timestamp()
                    - cast(:lease_seconds as float8) * interval '1 second'
            )
        )
        returning attempt
    """
    return connection.execute(
        text(statement), {"run_id": run_id, "worker": worker, "lease_seconds": lease_seconds}
    ).scalar_one_or_none()


FACTS = (
    "recipe", "seed", "steps", "tokens", "unique_tokens", "corpus_digest", "fingerprint",
    "n_total", "n_non_embedding", "n_blocks", "n_blocks_and_head",
    "flops_exact", "flops_6nd", "flops_palm",
)  # fmt: skip


def describe_run(
    connection: Connection, run_id: int, attempt: int, facts: Mapping[str, Any]
) -> bool:
    """Store what the trainer found out at its start (FACTS: columns of `runs`), fenced.

    False if the lease is lost. ValueError for anything that is not among FACTS.
    """
    unknown = sorted(set(facts) - set(FACTS))
    if unknown:
        raise ValueError(f"not facts of a run: {', '.join(unknown)}; known are {', '.join(FACTS)}")
    statement = (
        runs_table.update()
        .where(
            runs_table.c.id == run_id,
            runs_table.c.attempt == attempt,
            runs_table.c.status == "running",
        )
        .values(heartbeat_at=text("clock_timestamp()"), **facts)
    )
    return bool(connection.execute(statement).rowcount)


def finish_run(
    connection: Connection,
    run_id: int,
    attempt: int,
    *,
    status: str = "finished",
    message: str = "",
) -> bool:
    """The run came to its end: `finished` or `diverged`. False if the lease is lost.

    Saying it twice, as after a commit whose answer was lost, is True twice.
    """
    if status not in ("finished", "diverged"):
        raise ValueError(f"a run finishes as finished or diverged, not as {status!r}")
    ended = _end(connection, run_id, attempt, f"'{status}'", message, failures=0)
    if ended is None:
        ended = connection.execute(
            select(runs_table.c.status).where(
                runs_table.c.id == run_id, runs_table.c.attempt == attempt
            )
        ).scalar_one_or_none()
    return ended == status


def fail_run(
    connection: Connection, run_id: int, attempt: int, message: str, *, retry: bool
) -> str | None:
    """The attempt failed. With `retry` the run is queued again (defer it), else it is failed.

    Returns its new status (cancelled if it was asked to stop), or None if the lease is lost.
    """
    status = _stopped_or("queued") if retry else "'failed'"
    return _end(connection, run_id, attempt, status, message, failures=1)


def explain_wait(connection: Connection, run_id: int, message: str) -> None:
    """Say beside a queued run why nobody trains it; whoever claims it clears that."""
    statement = "update runs set message = :message where id = :run_id and status = 'queued'"
    connection.execute(text(statement), {"run_id": run_id, "message": message})


def release_run(connection: Connection, run_id: int, attempt: int, message: str = "") -> str | None:
    """The attempt stopped in good order, because it was asked to or its worker shuts down.

    The run is cancelled if that was asked for, else queued again (defer it); no failure is
    counted. Returns its new status, or None if the lease is lost.
    """
    return _end(connection, run_id, attempt, _stopped_or("queued"), message, failures=0)


_STOP = """
    update runs set
        stop_requested = true,
        status = case when status = 'running' then 'running' else 'cancelled' end,
        finished_at = case when status = 'running' then null else clock_timestamp() end
    where status in ('planned', 'queued', 'running')
"""


def request_stop(connection: Connection, run_id: int) -> str:
    """Cancel a run. One that is not training is cancelled at once; one that is, is told to stop.

    Returns the status it has now (`running` until its worker has heard). Conflict if it has ended.
    """
    status = connection.execute(
        text(f"{_STOP} and id = :run_id returning status"), {"run_id": run_id}
    ).scalar_one_or_none()
    if status is None:
        raise Conflict("run", f"run {run_id} has ended, or there is no such run")
    return str(status)


def request_stop_of_sweep(connection: Connection, sweep_id: int) -> None:
    """`request_stop` of every run of the sweep that has not ended."""
    connection.execute(
        # locked in one order, whoever else locks several
        text(
            f"""{_STOP} and id in (
                select id from runs
                where sweep_id = :sweep_id and status in ('planned', 'queued', 'running')
                order by id for update
            )"""
        ),
        {"sweep_id": sweep_id},
    )


@dataclass(frozen=True)
class Expired:
    run_id: int
    status: str


def expire(
    connection: Connection, lease_seconds: float, *, max_failures: int | None = None
) -> list[Expired]:
    """Take back the runs whose worker was not heard from for `lease_seconds`.

    Each becomes queued (defer it in this transaction), cancelled if it was asked to stop, or
    failed at more than `max_failures` failures: a run that kills its machine must not do so for
    ever. Safe to call from several places at once.
    """
    statement = """
    with late as (
        select id from runs
        where status = 'running' and heartbeat_at < clock_timestamp()
            - cast(:lease_seconds as float8) * interval '1 second'
        for update skip locked
    )
        update runs set
            failures = failures + 1,
            message = 'no word from worker ' || coalesce(worker, '?'),
            status = case
                when stop_requested then 'cancelled'
                when failures + 1 > cast(:max_failures as integer) then 'failed'
                else 'queued' end,
            finished_at = case
                when stop_requested or failures + 1 > cast(:max_failures as integer)
                then clock_timestamp() end
        from late where runs.id = late.id
        returning runs.id, status
    """
    rows = connection.execute(
        text(statement), {"lease_seconds": lease_seconds, "max_failures": max_failures}
    )
    return [Expired(row.id, row.status) for row in rows]


def _stopped_or(status: str) -> str:
    return f"case when stop_requested then 'cancelled' else '{status}' end"


def _end(
    connection: Connection, run_id: int, attempt: int, status: str, message: str, failures: int
) -> str | None:
    statement = f"""
        update runs set
            status = {status}, message = :message, failures = failures + :failures,
            heartbeat_at = clock_timestamp(),
            finished_at = case when {status} = 'queued' then null else clock_timestamp() end
        where id = :run_id and attempt = :attempt and status = 'running'
        returning status
    """
    return connection.execute(
        text(statement),
        {"run_id": run_id, "attempt": attempt, "message": message, "failures": failures},
    ).scalar_one_or_none()
