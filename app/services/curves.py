"""Loss curves and the other numbers along a run, reduced to what a plot can show."""

from sqlalchemy import Connection

from app.services import runs
from app.services.errors import not_found
from app.storage import curves as storage
from app.storage import metrics as stored_metrics
from app.storage.curves import Curve
from app.storage.metrics import Series

MAX_ROWS = 10_000
EVERY_POINT = 50_000


def read(connection: Connection, run_id: int, *, max_rows: int = storage.MAX_ROWS) -> Curve:
    """A run's curve in at most about `max_rows` rows, spaced evenly in log(step); a row is the
    mean of the `n_points` steps around it."""
    runs.get(connection, run_id)
    return storage.read(connection, run_id, max_rows=max_rows)


def read_points(
    connection: Connection, run_id: int, *, after_step: int | None = None, limit: int = EVERY_POINT
) -> Curve:
    """The stored points themselves, by step, after `after_step`."""
    runs.get(connection, run_id)
    return storage.read_points(connection, run_id, after_step=after_step, limit=limit)


def metric_names(connection: Connection, run_id: int) -> list[str]:
    runs.get(connection, run_id)
    return stored_metrics.names(connection, run_id)


def metric(
    connection: Connection, run_id: int, name: str, *, max_rows: int = storage.MAX_ROWS
) -> Series:
    """One named number along the run: gradient norm, step time, ..."""
    known = metric_names(connection, run_id)
    if name not in known:
        error = not_found("metric", repr(name))
        error.hint = f"Run {run_id} has: {', '.join(known) or 'none yet'}."
        raise error
    return stored_metrics.read(connection, run_id, name, max_rows=max_rows)
