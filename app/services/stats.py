"""Gauges of what the database holds, for Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.storage import queue
from app.storage import stats as storage


@dataclass(frozen=True)
class Gauge:
    """values: (label values, number), one for each series."""

    name: str
    about: str
    labels: tuple[str, ...]
    values: Sequence[tuple[tuple[str, ...], float]]


def gauges(connection: Connection) -> list[Gauge]:
    """Counted now."""
    scored, inside = storage.forecasts_scored(connection)
    depth = queue.depth(connection)
    return [
        _by_status(connection, "runs", "scalewright_runs", "Runs by status."),
        _by_status(connection, "jobs", "scalewright_jobs", "Jobs by status."),
        _by_status(connection, "fits", "scalewright_fits", "Fits by status."),
        Gauge(
            "scalewright_queue_depth",
            "Deferrals by queue and status; todo and doing are open.",
            ("queue", "status"),
            [((name, status), float(count)) for (name, status), count in sorted(depth.items())],
        ),
        Gauge(
            "scalewright_curve_points",
            "Points of loss curves, as estimated by the database.",
            (),
            [((), float(storage.table_rows_estimated(connection, "curve_points")))],
        ),
        Gauge(
            "scalewright_forecasts_scored",
            "Forecasts whose run has landed, by whether the interval held.",
            ("inside",),
            [(("true",), float(inside)), (("false",), float(scored - inside))],
        ),
    ]


def _by_status(connection: Connection, table: str, name: str, about: str) -> Gauge:
    counted = storage.by_status(connection, table)
    return Gauge(
        name, about, ("status",), [((status,), float(n)) for status, n in sorted(counted.items())]
    )
