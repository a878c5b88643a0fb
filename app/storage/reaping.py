"""What dead workers leave behind, seen from the database.

The lease in `runs` is the truth about a run; a row of procrastinate's queue is only its delivery.
So a lost delivery is repeated whenever a queued run has none, and a repeated one does no harm.
"""

from collections.abc import Collection

from sqlalchemy import Connection, text

from app.storage.queue import TRAIN_TASK

REAPER_LOCK = 7_305_808_868_946_310_514  # any constant: "reaper" to Postgres


def alone(connection: Connection) -> bool:
    """Whether no other transaction is reaping; if so, this one does until it ends."""
    return bool(
        connection.scalar(text("select pg_try_advisory_xact_lock(:key)"), {"key": REAPER_LOCK})
    )


def server_age_seconds(connection: Connection) -> float:
    """How long the server has been up: while it was down nobody could send a sign of life."""
    age = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())"
    return float(connection.scalar(text(age)) or 0.0)


def redeliver(connection: Connection, timeout_seconds: float) -> int:
    """Take deliveries back from workers that were not heard from, and deliver again.

    As new rows of the queue: procrastinate does not fence a delivery, so a worker that wakes up
    would otherwise end its successor's.
    """
    statement = """
        with stalled as materialized (
            select job.id, job.queue_name, job.task_name, job.priority, job.args
            from procrastinate_jobs job
            where job.status = 'doing' and not exists (
                select from procrastinate_workers worker
                where worker.id = job.worker_id and worker.last_heartbeat
                    >= clock_timestamp() - cast(:timeout as float8) * interval '1 second'
            )
            for update skip locked
        ), dropped as materialized (
            select stalled.*, procrastinate_finish_job_v1(stalled.id, 'failed', true) from stalled
        )
        select count(procrastinate_defer_jobs_v1(array[row(
            queue_name, task_name, priority, null::text, null::text, args, null::timestamptz
        )::procrastinate_job_to_defer_v1])) from dropped
    """
    return int(connection.scalar(text(statement), {"timeout": timeout_seconds}) or 0)


def running(connection: Connection) -> int:
    """How many runs are held by a worker, dead or alive."""
    return int(connection.scalar(text("select count(*) from runs where status = 'running'")) or 0)


def open_among(connection: Connection, run_ids: Collection[int]) -> int:
    """How many of these runs are held by a worker, and how many open deliveries name them."""
    statement = """
        select (select count(*) from runs where id = any(:ids) and status = 'running')
            + (select count(*) from procrastinate_jobs where task_name = :task
                and status in ('todo', 'doing') and cast(args ->> 'run_id' as bigint) = any(:ids))
    """
    parameters = {"ids": sorted(run_ids), "task": TRAIN_TASK}
    return int(connection.scalar(text(statement), parameters) or 0)


def undelivered(connection: Connection) -> list[int]:
    """Queued runs that no open delivery names; each is to be deferred."""
    statement = """
        select id from runs where status = 'queued' and not exists (
            select from procrastinate_jobs job
            where job.task_name = :task and job.status in ('todo', 'doing')
                and cast(job.args ->> 'run_id' as bigint) = runs.id
        ) order by id
    """
    return list(connection.scalars(text(statement), {"task": TRAIN_TASK}))


def queue_ready_children(connection: Connection) -> list[int]:
    """planned -> queued for every run whose parent has stored its checkpoint; to be deferred.

    The recorder does this when the checkpoint lands; here is what was planned, or put back, later.
    """
    statement = """
        update runs set status = 'queued' from checkpoints
        where runs.status = 'planned' and runs.kind in ('branch', 'continual')
            and checkpoints.run_id = runs.parent_run_id
            and checkpoints.step = runs.parent_step and checkpoints.kind in ('branch', 'final')
        returning runs.id
    """
    return sorted(connection.scalars(text(statement)))


def cancel_hopeless_children(connection: Connection) -> list[int]:
    """Runs that wait for a checkpoint which will not come: their parent ended without it.

    They are cancelled without a request to stop, which tells them from those a user cancelled.
    """
    statement = """
        update runs set status = 'cancelled', finished_at = clock_timestamp(),
            message = case when parent.id is null then 'its parent was deleted'
                else 'its ' || case runs.kind when 'branch' then 'trunk' else 'parent' end
                    || ', run ' || parent.id || ', ' || parent.status
                    || ' before step ' || runs.parent_step end
        from runs waiting left join runs parent on parent.id = waiting.parent_run_id
        where runs.id = waiting.id and runs.status = 'planned'
            and runs.kind in ('branch', 'continual')
            and (parent.id is null
                or parent.status in ('finished', 'failed', 'cancelled', 'diverged'))
            and not exists (
                select from checkpoints where checkpoints.run_id = parent.id
                    and checkpoints.step = runs.parent_step
                    and checkpoints.kind in ('branch', 'final')
            )
        returning runs.id
    """
    return sorted(connection.scalars(text(statement)))


def revive_children(connection: Connection) -> list[int]:
    """Runs that lost their parent, and whose parent is being trained again: planned once more."""
    statement = """
        update runs set status = 'planned', finished_at = null, message = ''
        from runs parent
        where parent.id = runs.parent_run_id and runs.kind in ('branch', 'continual')
            and runs.status = 'cancelled' and not runs.stop_requested
            and parent.status in ('planned', 'queued', 'running')
        returning runs.id
    """
    return sorted(connection.scalars(text(statement)))
