"""Named numbers along a run: gradient norm, step time. Written by recording.py while it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, text

from app.storage.curves import LAST_IF_LONG, MAX_ROWS, SAMPLE, SLICES, in_short_ranges, slices_of


@dataclass(frozen=True)
class Series:
    """One metric: `value` at `step`; where it is long, means over points of one bucket of steps."""

    name: str
    step: NDArray[np.float64]
    value: NDArray[np.float64]


def names(connection: Connection, run_id: int) -> list[str]:
    """Found by going from one to the next in the index: a run has few names and many values."""
    return list(connection.scalars(_NAMES, {"run_id": run_id}))


def read(connection: Connection, run_id: int, name: str, *, max_rows: int = MAX_ROWS) -> Series:
    """A metric in at most about `max_rows` rows: all of it, or a sample as in `curves.read`."""
    known: dict[str, object] = {"run_id": run_id, "name": name}
    last = connection.scalar(_LAST_IF_LONG, {**known, "max_rows": max_rows})
    if last is None:
        rows: Sequence[Row[Any]] = connection.execute(_ALL, known).all()
    else:
        known |= slices_of(last, max_rows)
        rows = in_short_ranges(connection, _SAMPLED, known)
    columns = np.array([tuple(row) for row in rows], dtype=np.float64).reshape(len(rows), 2)
    return Series(name, columns[:, 0], columns[:, 1])


_ONE = "run_id = :run_id and name = :name"
_NAMES = text(
    """
    with recursive found as (
        (select name from metrics where run_id = :run_id order by name limit 1)
        union all
        select (select name from metrics where run_id = :run_id and name > found.name
                order by name limit 1)
        from found where found.name is not null
    )
    select name from found where name is not null order by name
    """
)
_LAST_IF_LONG = text(LAST_IF_LONG.format(table="metrics", where=_ONE))
_ALL = text(f"select step, value from metrics where {_ONE} order by step")
_SAMPLED = text(
    f"""
    select avg(step)::float8, avg(value)
    from {SLICES.format(table="metrics", where=_ONE, sample=SAMPLE)} group by bucket order by 1
    """
)
