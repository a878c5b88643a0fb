"""What there is, counted: for summaries, gauges and time estimates."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text


def of_project(connection: Connection, project_id: int) -> dict[str, int]:
    """runs, finished_runs, fits, sweeps and forecasts of a project."""
    row = connection.execute(
        text(
            """
            select
                (select count(*) from runs where project_id = :id) as runs,
                (select count(*) from runs where project_id = :id and status = 'finished')
                    as finished_runs,
                (select count(*) from fits where project_id = :id) as fits,
                (select count(*) from sweeps where project_id = :id) as sweeps,
                (select count(*) from forecasts where project_id = :id) as forecasts
            """
        ),
        {"id": project_id},
    ).one()
    return {name: int(count) for name, count in row._mapping.items()}


def finals_of_sweep(connection: Connection, sweep_id: int) -> dict[str, int]:
    """The cooled runs of a sweep by status: what a law is fitted to."""
    rows = connection.execute(
        text("select status, count(*) from runs where sweep_id = :id and cooled group by status"),
        {"id": sweep_id},
    )
    return {status: int(count) for status, count in rows}


def training_rates(
    connection: Connection, *, sweep_id: int | None = None, limit: int = 200
) -> list[tuple[float, float]]:
    """(N of the blocks, exact FLOP/s) of the runs that finished last, in one attempt each.

    A branch is counted from the step at which it leaves its trunk.
    """
    rows = connection.execute(
        text(
            """
            select n_blocks, flops_exact
                * (1 - case kind when 'branch' then coalesce(parent_step, 0) else 0 end
                    / steps::float8)
                / extract(epoch from finished_at - started_at)::float8
            from runs
            where status = 'finished' and attempt = 1 and finished_at > started_at
                and steps > 0 and flops_exact > 0 and n_blocks > 0
                and (cast(:sweep_id as bigint) is null or sweep_id = cast(:sweep_id as bigint))
            order by finished_at desc limit :limit
            """
        ),
        {"sweep_id": sweep_id, "limit": limit},
    )
    return [(float(n), float(rate)) for n, rate in rows]


@dataclass(frozen=True)
class Spread:
    """Of the last losses of runs that differ in their seed alone, pooled over `groups` of them."""

    validation_set: str
    sd: float
    degrees_of_freedom: int
    runs: int
    groups: int


def seed_spread(connection: Connection, sweep_id: int) -> list[Spread]:
    """By validation set; none where no group of finished, cooled runs has two seeds."""
    rows = connection.execute(
        text(
            """
            with alike as (
                select e.validation_set, count(*) as runs, var_samp(e.loss) as variance
                from runs r join evaluations e on e.run_id = r.id and e.step = r.steps
                where r.sweep_id = :sweep_id and r.cooled and r.status = 'finished'
                group by e.validation_set, e.loss_unit, r.recipe, r.n_total, r.n_blocks, r.steps
                having count(*) > 1 and count(distinct r.seed) = count(*)
            )
            select validation_set, sqrt(sum((runs - 1) * variance) / sum(runs - 1)) as sd,
                sum(runs - 1) as degrees_of_freedom, sum(runs) as runs, count(*) as groups
            from alike group by validation_set order by validation_set
            """
        ),
        {"sweep_id": sweep_id},
    )
    return [Spread(row[0], float(row[1]), int(row[2]), int(row[3]), int(row[4])) for row in rows]


@dataclass(frozen=True)
class AtRate:
    """The end of a run at peak rate `lr`; loss None where it, or the trunk it needs, diverged.

    first_loss   of its first training batch, None where no curve is stored
    """

    validation_set: str
    n_total: float
    steps: int
    seed: int
    lr: float
    loss: float | None
    first_loss: float | None


def at_rates(connection: Connection, sweep_id: int) -> list[AtRate]:
    """Of the sweep's cooled runs that came to an end, on each of its validation sets."""
    rows = connection.execute(
        text(
            """
            with ended as (
                select r.id, r.n_total, r.steps, r.seed, coalesce(t.id, r.id) as began,
                    cast(r.config -> 'optimizer' ->> 'lr' as float8) as lr,
                    r.status = 'finished' as ok
                from runs r left join runs t on t.id = r.parent_run_id and t.sweep_id = r.sweep_id
                where r.sweep_id = :sweep_id and r.cooled
                    and (r.status in ('finished', 'diverged') or t.status = 'diverged')
            ), sets as (
                select distinct e.validation_set
                from evaluations e join ended on ended.id = e.run_id and ended.ok
            )
            select s.validation_set, r.n_total, r.steps, r.seed, r.lr, e.loss,
                coalesce(
                    (select p.loss from curve_points p where p.run_id = r.began and p.step = 1),
                    (select p.loss from curve_rollups p where p.run_id = r.began and p.step = 1)
                )
            from ended r cross join sets s left join evaluations e
                on e.run_id = r.id and e.step = r.steps and e.validation_set = s.validation_set
                    and r.ok
            where r.lr is not null and (e.loss is not null or not r.ok)
            order by 1, 2, 3, 4, 5
            """
        ),
        {"sweep_id": sweep_id},
    )
    return [AtRate(*row) for row in rows]


@dataclass(frozen=True)
class WorkerSeen:
    """A worker by what it holds: `runs` in training, last heard of at `heartbeat_at`."""

    name: str
    runs: int
    heartbeat_at: datetime | None


def workers(connection: Connection) -> list[WorkerSeen]:
    """The workers that hold a run now."""
    rows = connection.execute(
        text(
            "select worker, count(*) as runs, max(heartbeat_at) as heartbeat_at from runs"
            " where status = 'running' and worker is not null group by worker order by worker"
        )
    )
    return [WorkerSeen(row.worker, row.runs, row.heartbeat_at) for row in rows]


def living_workers(connection: Connection, within_seconds: float = 30.0) -> int:
    """Workers that the queue has heard of lately, whether they hold a run or not: a process is one
    for each queue that it serves."""
    return int(
        connection.execute(
            text(
                "select count(*) from procrastinate_workers where last_heartbeat"
                " > clock_timestamp() - cast(:seconds as float8) * interval '1 second'"
            ),
            {"seconds": within_seconds},
        ).scalar_one()
    )


def by_status(connection: Connection, table: str) -> dict[str, int]:
    """Rows of runs, jobs or fits by their status."""
    if table not in ("runs", "jobs", "fits"):
        raise ValueError(f"{table!r} has no status")
    rows = connection.execute(text(f"select status, count(*) from {table} group by status"))
    return {status: int(count) for status, count in rows}


def table_rows_estimated(connection: Connection, table: str) -> int:
    """How many rows a (partitioned) table has, by the planner's statistics: instant, not exact."""
    return int(
        connection.execute(
            text(
                "select coalesce(sum(greatest(c.reltuples, 0)), 0) from pg_class c"
                " left join pg_inherits i on i.inhrelid = c.oid"
                " where c.relkind = 'r' and (c.oid = to_regclass(:name)"
                " or i.inhparent = to_regclass(:name))"
            ),
            {"name": table},
        ).scalar_one()
    )


def forecasts_scored(connection: Connection) -> tuple[int, int]:
    """(scored forecasts, those whose interval held)."""
    row = connection.execute(
        text(
            "select count(*), count(*) filter (where actual between lower and upper)"
            " from forecasts where actual is not null"
        )
    ).one()
    return int(row[0]), int(row[1])
