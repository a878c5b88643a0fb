"""Sweeps: a plan for many runs; the runs themselves are in runs.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import Conflict, NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, value_of
from app.storage.tables import sweeps


@dataclass(frozen=True)
class Sweep:
    id: int
    project_id: int
    name: str
    spec: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Progress:
    """How far a sweep is. FLOPs weigh a run at half its steps as half its FLOPs."""

    runs: dict[str, int]
    flops_planned: float
    flops_done: float


def create(connection: Connection, project_id: int, name: str, spec: Mapping[str, Any]) -> Sweep:
    """A new sweep; Conflict if its project has one of that name."""
    row = connection.execute(
        insert(sweeps)
        .values(project_id=project_id, name=name, spec=dict(spec))
        .on_conflict_do_nothing()
        .returning(*columns_of(Sweep, sweeps))
    ).one_or_none()
    if row is None:
        raise Conflict("sweep", f"the project has a sweep named {name!r} already")
    return value_of(Sweep, row)


def get(connection: Connection, sweep_id: int) -> Sweep:
    found = find_row(connection, Sweep, sweeps, id=sweep_id)
    if found is None:
        raise NotFound("sweep", sweep_id)
    return found


def find_by_name(connection: Connection, project_id: int, name: str) -> Sweep | None:
    return find_row(connection, Sweep, sweeps, project_id=project_id, name=name)


def page(
    connection: Connection,
    *,
    project_id: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[Sweep]:
    where: dict[str, object] = {"project_id": project_id}
    return page_of(connection, Sweep, sweeps, where=where, after=after, limit=limit)


def validation_corpora(connection: Connection, project_id: int) -> list[str]:
    """The corpora that the project's sweeps validate on, in the order of their first use."""
    rows = connection.execute(
        text(
            """
            select value as name
            from sweeps, jsonb_array_elements_text(spec -> 'corpora' -> 'validation')
                with ordinality as listed (value, place)
            where project_id = :project_id
            group by value order by min(sweeps.id), min(place)
            """
        ),
        {"project_id": project_id},
    )
    return list(rows.scalars())


def progress(connection: Connection, sweep_id: int) -> Progress:
    """Runs by status, and the FLOPs that are planned and done.

    A branch is counted from the step at which it leaves its trunk. Runs that ended short count
    with what they did, in the plan too: nothing more will come of them.
    """
    rows = connection.execute(
        text(
            """
            select status, count(*) as runs,
                coalesce(sum(flops * case
                    when status in ('failed', 'cancelled', 'diverged') then done else 1 - start
                    end), 0) as planned,
                coalesce(sum(flops * done), 0) as done
            from (
                select status, coalesce(flops_exact, flops_6nd, 0) as flops, start,
                    case status when 'finished' then 1 - start
                        else greatest(step / nullif(steps, 0)::float8 - start, 0) end as done
                from runs, lateral (
                    select case kind when 'branch'
                        then coalesce(parent_step / nullif(steps, 0)::float8, 0) else 0 end as start
                ) as begun
                where sweep_id = :sweep_id
            ) as weighed
            group by status
            """
        ),
        {"sweep_id": sweep_id},
    ).all()
    return Progress(
        runs={row.status: row.runs for row in rows},
        flops_planned=sum(row.planned for row in rows),
        flops_done=sum(row.done for row in rows),
    )
