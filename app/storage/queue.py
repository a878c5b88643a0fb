"""Hand work to the workers: one row in procrastinate's queue, in the caller's transaction.

Work is deferred by task name with procrastinate's own SQL function, so nothing here imports it.
A task may be delivered twice; the lease in recording.py makes twice harmless.
"""

from typing import Any

from sqlalchemy import Connection, text

TRAIN_QUEUE, TRAIN_TASK = "train", "train_run"
JOBS_QUEUE, JOBS_TASK = "jobs", "run_job"

_DEFER = text(
    """
    select unnest(procrastinate_defer_jobs_v1(array[row(
        cast(:queue as varchar), cast(:task as varchar), cast(:priority as integer),
        null::text, null::text,
        jsonb_build_object(cast(:argument as text), cast(:value as bigint)),
        clock_timestamp() + cast(:schedule_in as double precision) * interval '1 second'
    )::procrastinate_job_to_defer_v1]))
    """
)


def defer_train(
    connection: Connection, run_id: int, priority: int = 0, schedule_in: float | None = None
) -> int:
    """Have a worker train the run, in `schedule_in` seconds or as soon as one is free.

    A higher priority goes first. Returns the queue's id. Nothing is queued unless the caller
    commits.
    """
    return _defer(connection, TRAIN_QUEUE, TRAIN_TASK, "run_id", run_id, priority, schedule_in)


def defer_job(connection: Connection, job_id: int) -> int:
    """Have a worker do the row of `jobs` (a long fit), as `defer_train` does."""
    return _defer(connection, JOBS_QUEUE, JOBS_TASK, "job_id", job_id)


def depth(connection: Connection) -> dict[tuple[str, str], int]:
    """How many deferrals there are, by (queue, status); todo and doing are the open ones."""
    counted = connection.execute(
        text("select queue_name, status::text, count(*) from procrastinate_jobs group by 1, 2")
    )
    return {(queue, status): count for queue, status, count in counted}


def _defer(
    connection: Connection,
    queue: str,
    task: str,
    argument: str,
    value: int,
    priority: int = 0,
    schedule_in: float | None = None,
) -> int:
    parameters: dict[str, Any] = {
        "queue": queue,
        "task": task,
        "priority": priority,
        "argument": argument,
        "value": value,
        "schedule_in": schedule_in,
    }
    return int(connection.execute(_DEFER, parameters).scalar_one())
