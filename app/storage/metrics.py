"""Named numbers along a run: gradient norm, step time. Written by recording.py while it trains."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select, text

from app.storage.curves import BUCKETED, MAX_ROWS, bucket_scale
from app.storage.tables import metrics


@dataclass(frozen=True)
class Series:
    """One metric: `value` at `step`, the mean over a bucket of steps where it was long."""

    name: str
    step: NDArray[np.float64]
    value: NDArray[np.float64]


def names(connection: Connection, run_id: int) -> list[str]:
    statement = select(metrics.c.name).where(metrics.c.run_id == run_id).distinct()
    return sorted(connection.scalars(statement))


def read(connection: Connection, run_id: int, name: str, *, max_rows: int = MAX_ROWS) -> Series:
    """A metric in at most about `max_rows` rows: all of it, or means of log-spaced buckets."""
    known = {"run_id": run_id, "name": name}
    count, last = connection.execute(
        text("select count(*), max(step) from metrics where run_id = :run_id and name = :name"),
        known,
    ).one()
    bucket = "step" if count <= max_rows else BUCKETED
    rows = connection.execute(
        text(
            f"""
            select avg(step)::float8, avg(value) from metrics
            where run_id = :run_id and name = :name group by {bucket} order by 1
            """
        ),
        {**known, "scale": bucket_scale(last, max_rows)} if count > max_rows else known,
    ).all()
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 2)
    return Series(name, columns[:, 0], columns[:, 1])
