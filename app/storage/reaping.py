"""What dead workers leave behind, seen from the database.

The lease in `runs` is the truth about a run; a row of procrastinate's queue is only its delivery.
So a lost delivery is repeated whenever a queued run has none, and a repeated one does no harm.
"""

from collections.abc import Collection

from sqlalchemy import Connection, text

from app.storage.queue import TRAIN_QUEUE, TRAIN_TASK

REAPER_LOCK = 7_305_808_868_946_310_514  # any constant: "reaper" to Postgres


def alone(connection: Connection) -> bool:
    """Whether no other transaction is reaping; if so, this one does until it ends."""
    return bool(
        connection.scalar(text("select pg_try_advisory_xact_lock(:key)"), {"key": REAPER_LOCK})
    )


def end_stalled_transactions(connection: Connection, timeout_seconds: float) -> int:
    """End the sessions of workers that froze inside a transaction; how many there were.

    A worker that is stopped, or whose machine is gone, between two statements keeps its locks: the
    row of a run whose lease ran out, which `expire` then passes over, or the right to reap, which
    nobody else has meanwhile. Postgres itself would wait for it for hours. Ended are sessions of
    our own user that hold one of these two and have not been heard from for `timeout_seconds`,
    also in the middle of a COPY, where `idle_in_transaction_session_timeout` does not look. What
    they had written is rolled back; a worker that wakes up writes it again, fenced.
    """
    statement = """
        with stalled as materialized (
            select pid, backend_xid from pg_stat_activity
            where datname = current_database() and usename = current_user
                and wait_event = 'ClientRead' and pid <> pg_backend_pid()
                and xact_start < clock_timestamp()
                    - cast(:timeout as float8) * interval '1 second'
                and state_change < clock_timestamp()
                    - cast(:timeout as float8) * interval '1 second'
        )
        select count(pg_terminate_backend(pid)) from stalled
        where exists (
            select from runs where runs.status = 'running' and runs.xmax = stalled.backend_xid
                and runs.heartbeat_at < clock_timestamp()
                    - cast(:timeout as float8) * interval '1 second'
        ) or exists (
            select from pg_locks held where held.pid = stalled.pid and held.granted
                and held.locktype = 'advisory' and held.objsubid = 1
                and held.classid = cast(:key >> 32 as oid)
                and held.objid = cast(:key & 4294967295 as oid)
        )
    """
    parameters = {"timeout": timeout_seconds, "key": REAPER_LOCK}
    return int(connection.scalar(text(statement), parameters) or 0)


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


def left_to_do(
    connection: Connection, queues: Collection[str], besides: Collection[int] = ()
) -> int:
    """Open deliveries in these queues, and runs that a worker holds, dead or alive.

    Without the runs `besides`, and their deliveries. In one statement, hence one snapshot: of a run
    that a dead worker held and that is delivered again meanwhile, one of the two is seen.
    """
    statement = """
        select (
            select count(*) from procrastinate_jobs
            where queue_name = any(:queues) and status in ('todo', 'doing') and not (
                task_name = :task and cast(args ->> 'run_id' as bigint) = any(:besides)
            )
        ) + (
            select count(*) from runs where status = 'running' and id <> all(:besides)
                and cast(:train as text) = any(:queues)
        )
    """
    parameters = {
        "queues": list(queues),
        "besides": sorted(besides),
        "task": TRAIN_TASK,
        "train": TRAIN_QUEUE,
    }
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
