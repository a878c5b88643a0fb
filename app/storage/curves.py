"""Loss curves: in by COPY, out reduced to what a plot or a fit can use.

While a run trains its points are written by recording.py; here are the curves that come from
elsewhere, the roll-up that a finished run gets, and every way to read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import ArrayLike, NDArray
from psycopg import sql
from sqlalchemy import Connection, Row, TextClause, text

from app.storage.binary import Field, copied
from app.storage.errors import Conflict

MAX_ROWS = 1000

# Buckets of equal width in log(step): a curve looks as good early as late, and about three
# quarters of them are filled (the first steps are further apart than a bucket is wide).
BUCKETED = "floor(ln(greatest(step, 0) + 1) * cast(:scale as float8))"


def bucket_scale(last_step: int, max_rows: int) -> float:
    """Buckets per unit of log(step), so that `last_step` falls into bucket `max_rows - 1`."""
    return (max_rows - 1) / float(np.log(max(last_step, 1) + 1))


# Of a bucket no more points than these are read while a run trains: a thousand short stretches of
# the primary key, whatever the run's length. The last step is a bucket by itself, wherever rounding
# puts its edge.
SAMPLE = 64
_EDGE = "least(ceil(exp(({}) / cast(:scale as float8)))::bigint - 1, cast(:last as bigint))"
SLICES = f"""
    generate_series(0, cast(:rows as int) - 1) as bucket cross join lateral (
        select * from {{table}}
        where {{where}} and step >= {_EDGE.format("bucket")}
            and step < {_EDGE.format("bucket + 1")} + (bucket + 1) / cast(:rows as int)
        order by step limit {{sample}}
    ) as point
"""

# The last step of what has more than `max_rows` rows; null if it has no more.
LAST_IF_LONG = """
    select case when exists (select 1 from {table} where {where} offset :max_rows)
        then (select max(step) from {table} where {where}) end
"""
_LAST_IF_LONG = text(LAST_IF_LONG.format(table="curve_points", where="run_id = :run_id"))


def slices_of(last_step: int, max_rows: int) -> dict[str, object]:
    """What `SLICES` is asked with."""
    return {"rows": max_rows, "last": last_step, "scale": bucket_scale(last_step, max_rows)}


_SAMPLED = text(
    f"""
    select avg(step)::float8 as step, avg(tokens) as tokens, avg(loss) as loss, avg(lr) as lr,
        count(*) as n_points
    from {SLICES.format(table="curve_points", where="run_id = :run_id", sample=SAMPLE)}
    group by bucket order by 1
    """
)
_ALL = text(
    "select step, tokens, loss, lr, 1 as n_points from curve_points"
    " where run_id = :run_id order by step"
)


@dataclass(frozen=True)
class Curve:
    """A curve as arrays of one length, by increasing step.

    step, tokens, loss, lr  float64; NaN where tokens or lr are not known
    n_points   how many stored points each row is the mean of; all 1 where nothing was reduced
    """

    run_id: int
    step: NDArray[np.float64]
    tokens: NDArray[np.float64]
    loss: NDArray[np.float64]
    lr: NDArray[np.float64]
    n_points: NDArray[np.int64]

    @property
    def reduced(self) -> bool:
        return bool(np.any(self.n_points > 1))


@dataclass(frozen=True)
class Points:
    """Points for `copy_points`: one row each, arrays of one length.

    run_id, step  integers; loss  finite; tokens, lr  NaN or None where not known
    """

    run_id: ArrayLike
    step: ArrayLike
    loss: ArrayLike
    tokens: ArrayLike | None = None
    lr: ArrayLike | None = None


def copy_points(connection: Connection, points: Points, *, keep_first: bool = False) -> int:
    """Store many points by COPY; how many were new.

    A (run, step) that is stored already, or given twice, is a Conflict and nothing is stored; with
    `keep_first` it keeps the value that it has, more slowly. ValueError for a loss that is not
    finite. The columns are sent in COPY's binary format, made by numpy: see
    tests/benchmarks/ingest.py for what that saves.
    """
    loss = _floats(points.loss)
    fields = [
        Field("run_id", "bigint", np.asarray(points.run_id, np.int64)),
        Field("step", "bigint", np.asarray(points.step, np.int64)),
        Field("loss", "float8", loss),
    ]
    for name, given in (("tokens", points.tokens), ("lr", points.lr)):
        if given is not None and not np.all(np.isnan(column := _floats(given))):
            fields.append(Field(name, "float8", column, nulls=True))
    if len({np.shape(field.values) for field in fields}) != 1 or loss.ndim != 1:
        raise ValueError("the columns of points differ in length")
    if not len(loss):
        return 0
    if not np.all(np.isfinite(loss)):
        raise ValueError(f"row {int(np.argmin(np.isfinite(loss)))}: the loss is not finite")
    table = "curve_points"
    cursor: psycopg.Cursor[Any] = connection.connection.cursor()  # type: ignore[assignment]
    with cursor, connection.begin_nested():
        if keep_first:
            table = "given_points"
            cursor.execute(
                "create temporary table given_points (like curve_points including defaults)"
            )
        try:
            with cursor.copy(
                sql.SQL("copy {} ({}) from stdin (format binary)").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(sql.Identifier(field.name) for field in fields),
                )
            ) as copy:
                for block in copied(fields, len(loss)):
                    copy.write(block)
        except psycopg.errors.UniqueViolation as error:
            raise Conflict(
                "curve point",
                f"a point is stored already, or given twice: {error.diag.message_detail}",
            ) from error
        if not keep_first:
            return len(loss)
        cursor.execute("insert into curve_points select * from given_points on conflict do nothing")
        stored = cursor.rowcount
        cursor.execute("drop table given_points")
        return stored


def read(connection: Connection, run_id: int, *, max_rows: int = MAX_ROWS) -> Curve:
    """A run's curve in at most about `max_rows` rows.

    The roll-up where there is one, made coarser if it is longer than asked for; all points where
    they are few; else, while a long run trains, a sample: log-spaced buckets of steps, each row the
    mean of the first `SAMPLE` points of its bucket. That costs the same for any length.
    """
    rolled = connection.execute(
        text(
            "select step, tokens, loss, lr, n_points from curve_rollups"
            " where run_id = :run_id order by step"
        ),
        {"run_id": run_id},
    ).all()
    if rolled:
        return _coarser(_curve(run_id, rolled), max_rows)
    last = _last_step_if_long(connection, run_id, max_rows)
    if last is None:
        return _curve(run_id, connection.execute(_ALL, {"run_id": run_id}).all())
    known = {"run_id": run_id, **slices_of(last, max_rows)}
    return _curve(run_id, in_short_ranges(connection, _SAMPLED, known))


def in_short_ranges(
    connection: Connection, statement: TextClause, known: Mapping[str, object]
) -> Sequence[Row[Any]]:
    """Rows of a sample. Where a young table has no statistics yet the planner would fetch each
    stretch whole and sort it: ten times the work for a million points."""
    connection.execute(text("set local enable_bitmapscan = off"))
    rows = connection.execute(statement, known).all()
    connection.execute(text("set local enable_bitmapscan = on"))
    return rows


def read_points(
    connection: Connection, run_id: int, *, after_step: int | None = None, limit: int = 10_000
) -> Curve:
    """The stored points themselves, by step, after `after_step`: to export, or to follow live."""
    rows = connection.execute(
        text(
            """
            select step, tokens, loss, lr, 1 as n_points from curve_points
            where run_id = :run_id
                and (cast(:after as bigint) is null or step > cast(:after as bigint))
            order by step limit :limit
            """
        ),
        {"run_id": run_id, "after": after_step, "limit": limit},
    ).all()
    return _curve(run_id, rows)


def roll_up(connection: Connection, run_id: int, *, max_rows: int = MAX_ROWS) -> int:
    """Make, or make again, the reduced curve of a run that has ended; how many rows it has.

    Each row is the mean of all points in its bucket, and lies at the mean of their steps.
    """
    connection.execute(text("delete from curve_rollups where run_id = :run_id"), {"run_id": run_id})
    last = _last_step_if_long(connection, run_id, max_rows)
    bucket = "step" if last is None else BUCKETED
    known = {} if last is None else {"scale": bucket_scale(last, max_rows)}
    return connection.execute(
        text(
            f"""
            insert into curve_rollups (run_id, step, tokens, loss, lr, n_points)
            select :run_id, round(avg(step)), avg(tokens), avg(loss), avg(lr), count(*)
            from curve_points where run_id = :run_id group by {bucket}
            """
        ),
        {"run_id": run_id, **known},
    ).rowcount


def _last_step_if_long(connection: Connection, run_id: int, max_rows: int) -> int | None:
    """The last step of a run of more than `max_rows` points; None if it has no more."""
    known = {"run_id": run_id, "max_rows": max_rows}
    last: int | None = connection.scalar(_LAST_IF_LONG, known)
    return last


def _coarser(curve: Curve, max_rows: int) -> Curve:
    """Rows put together, by the same kind of bucket, until there are at most `max_rows`."""
    if len(curve.step) <= max_rows:
        return curve
    scale = bucket_scale(int(curve.step[-1]), max_rows)
    bucket = np.floor(np.log(np.maximum(curve.step, 0) + 1) * scale)
    first = np.flatnonzero(np.diff(bucket, prepend=-1.0))
    count = np.add.reduceat(curve.n_points, first)

    def mean(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(column * curve.n_points, first) / count)

    step, tokens, loss, lr = map(mean, (curve.step, curve.tokens, curve.loss, curve.lr))
    return Curve(curve.run_id, step, tokens, loss, lr, count)


def _curve(run_id: int, rows: Sequence[Row[Any]]) -> Curve:
    columns = np.array([tuple(row) for row in rows], dtype=np.float64).reshape(len(rows), 5)
    step, tokens, loss, lr, n_points = columns.T
    return Curve(run_id, step, tokens, loss, lr, n_points.astype(np.int64))


def _floats(column: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(column, dtype=np.float64)
