"""What the overview shows: counts, progress and the latest results, each in one query.

Everything here reads and nothing writes. Rows are plain dicts, newest first.
"""

from typing import Any

from sqlalchemy import Connection, text

Row = dict[str, Any]

_COUNTS = text("""
select
  (select count(*) from projects) as projects,
  (select count(*) from runs) as runs,
  (select count(*) from runs where status = 'finished') as finished,
  (select count(*) from runs where status = 'running') as running,
  (select count(*) from runs where status in ('planned', 'queued')) as waiting,
  (select count(*) from fits) as fits,
  (select count(*) from forecasts) as forecasts,
  (select count(*) from forecasts where actual is not null) as scored,
  (select count(*) from forecasts where actual between lower and upper) as hits
""")

_PROJECTS = text("""
select p.id, p.name, p.description,
  (select count(*) from runs r where r.project_id = p.id) as runs,
  (select count(*) from fits f where f.project_id = p.id) as fits,
  (select count(*) from forecasts o where o.project_id = p.id) as forecasts
from projects p order by p.id desc limit :limit
""")

_SWEEPS = text("""
select s.id, s.name, p.name as project, s.created_at,
  count(r.id) as runs,
  count(r.id) filter (where r.status = 'finished') as finished,
  count(r.id) filter (where r.status = 'running') as running,
  count(r.id) filter (where r.status in ('failed', 'diverged')) as failed
from sweeps s
join projects p on p.id = s.project_id
left join runs r on r.sweep_id = s.id
where (cast(:sweep_id as bigint) is null or s.id = :sweep_id)
group by s.id, p.name order by s.id desc limit :limit
""")

# The final loss of a run: its evaluation at the last step that was evaluated, per validation set.
_RUNS = text("""
select r.*, p.name as project,
  coalesce((
    select jsonb_agg(jsonb_build_object('validation_set', e.validation_set, 'loss', e.loss,
                                        'loss_unit', e.loss_unit, 'step', e.step)
                     order by e.validation_set)
    from (select distinct on (validation_set) * from evaluations
          where run_id = r.id order by validation_set, step desc) e
  ), '[]'::jsonb) as losses
from runs r join projects p on p.id = r.project_id
where (cast(:project as text) is null or p.name = :project)
  and (cast(:status as text) is null or r.status = :status)
  and (cast(:sweep_id as bigint) is null or r.sweep_id = :sweep_id)
  and (cast(:run_id as bigint) is null or r.id = :run_id)
  and (cast(:ids as bigint[]) is null or r.id = any(:ids))
  and (cast(:before as bigint) is null or r.id < :before)
order by r.id desc limit :limit
""")

_FITS = text("""
select f.id, f.law, f.status, f.created_at, p.name as project,
  coalesce((f.document->>'n_points')::int, 0) as n_points,
  coalesce(jsonb_array_length(f.document->'warnings'), 0) as warnings
from fits f left join projects p on p.id = f.project_id
order by f.id desc limit :limit
""")

_LINKS = text("""
select k.id, k.kind, k.status, k.created_at, p.name as project,
  k.document->>'source' as source, k.document->>'target' as target,
  k.document->>'method' as method, k.document->>'loss_unit' as loss_unit,
  (k.document->>'kappa')::float as kappa, (k.document->>'r2_log')::float as r2_log,
  (k.document->>'n_pairs')::int as n_pairs,
  jsonb_array_length(k.document->'warnings') as warnings
from links k left join projects p on p.id = k.project_id
order by k.id desc limit :limit
""")

_LINK = text("""
select k.*, p.name as project
from links k left join projects p on p.id = k.project_id
where k.id = :link_id
""")

_TASKS = text("""
select k.id, k.kind, k.status, k.created_at, p.name as project,
  k.document->>'name' as name, k.document->>'grade' as grade,
  (k.document->>'r2')::float as r2, (k.document->>'n_points')::int as n_points,
  k.document->'link'->>'source' as source,
  jsonb_array_length(k.document->'warnings') as warnings
from task_fits k left join projects p on p.id = k.project_id
order by k.id desc limit :limit
""")

_TASK = text("""
select k.*, p.name as project
from task_fits k left join projects p on p.id = k.project_id
where k.id = :task_id
""")

_FIT = text("""
select f.*, p.name as project
from fits f left join projects p on p.id = f.project_id
where f.id = :fit_id
""")


def counts(connection: Connection) -> Row:
    """How many projects, runs (by state), fits and forecasts (scored, inside) there are."""
    return dict(connection.execute(_COUNTS).mappings().one())


def projects(connection: Connection, limit: int = 50) -> list[Row]:
    """id, name, description, and how many runs, fits and forecasts each has."""
    return _rows(connection, _PROJECTS, limit=limit)


def sweeps(connection: Connection, limit: int = 20, sweep_id: int | None = None) -> list[Row]:
    """id, name, project, and how many runs there are in all and by state."""
    return _rows(connection, _SWEEPS, limit=limit, sweep_id=sweep_id)


def runs(
    connection: Connection,
    *,
    project: str | None = None,
    status: str | None = None,
    sweep_id: int | None = None,
    run_id: int | None = None,
    ids: list[int] | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Row]:
    """Every column of `runs`, with `project` and `losses`: the last evaluation of each set."""
    return _rows(
        connection,
        _RUNS,
        project=project,
        status=status,
        sweep_id=sweep_id,
        run_id=run_id,
        ids=ids,
        before=before,
        limit=limit,
    )


def fits(connection: Connection, limit: int = 100) -> list[Row]:
    """id, law, status, project, created_at, n_points and the number of warnings."""
    return _rows(connection, _FITS, limit=limit)


def fit(connection: Connection, fit_id: int) -> Row | None:
    """Every column of one fit, with `project`; None where there is none of that id."""
    row = connection.execute(_FIT, {"fit_id": fit_id}).mappings().one_or_none()
    return None if row is None else dict(row)


def links(connection: Connection, limit: int = 100) -> list[Row]:
    """id, kind, status, project, source, target, kappa, r2_log, n_pairs, number of warnings."""
    return _rows(connection, _LINKS, limit=limit)


def link(connection: Connection, link_id: int) -> Row | None:
    """Every column of one link, with `project`; None where there is none of that id."""
    row = connection.execute(_LINK, {"link_id": link_id}).mappings().one_or_none()
    return None if row is None else dict(row)


def tasks(connection: Connection, limit: int = 100) -> list[Row]:
    """id, kind, status, project, name, grade, r2, n_points, source of the link, warnings."""
    return _rows(connection, _TASKS, limit=limit)


def task(connection: Connection, task_id: int) -> Row | None:
    """Every column of one task law, with `project`; None where there is none of that id."""
    row = connection.execute(_TASK, {"task_id": task_id}).mappings().one_or_none()
    return None if row is None else dict(row)


def _rows(connection: Connection, query: Any, **values: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(query, values).mappings()]
