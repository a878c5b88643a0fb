"""Fits that are not laws of (N, D): links, tasks, curves, continual pre-training, calibrations.

Each kind has a table of its own with the same columns; none of them ever changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Table
from sqlalchemy.dialects.postgresql import insert

from app.storage import tables
from app.storage.errors import NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, stored_array, value_of

Resource = Literal["link", "task", "curve_fit", "cpt_fit", "calibration"]

TABLES: dict[Resource, Table] = {
    "link": tables.links,
    "task": tables.task_fits,
    "curve_fit": tables.curve_fits,
    "cpt_fit": tables.cpt_fits,
    "calibration": tables.calibrations,
}


@dataclass(frozen=True)
class Stored:
    """`kind` is the form fitted, `document` the fit as JSON, `request` what was asked for."""

    id: int
    project_id: int | None
    kind: str
    status: str
    digest: str
    request: dict[str, Any]
    document: dict[str, Any]
    run_ids: list[int]
    created_at: datetime


def create(
    connection: Connection,
    resource: Resource,
    *,
    kind: str,
    status: str,
    digest: str,
    request: Mapping[str, Any],
    document: Mapping[str, Any],
    project_id: int | None = None,
    run_ids: Sequence[int] = (),
) -> Stored:
    table = TABLES[resource]
    row = connection.execute(
        insert(table)
        .values(
            project_id=project_id,
            kind=kind,
            status=status,
            digest=digest,
            request=dict(request),
            document=dict(document),
            run_ids=stored_array(run_ids),
        )
        .returning(*columns_of(Stored, table))
    ).one()
    return value_of(Stored, row)


def get(connection: Connection, resource: Resource, fitted_id: int) -> Stored:
    """NotFound where there is none."""
    found = find_row(connection, Stored, TABLES[resource], id=fitted_id)
    if found is None:
        raise NotFound(resource.replace("_", " "), fitted_id)
    return found


def page(
    connection: Connection,
    resource: Resource,
    *,
    project_id: int | None = None,
    kind: str | None = None,
    status: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[Stored]:
    where: dict[str, object] = {"project_id": project_id, "kind": kind, "status": status}
    return page_of(connection, Stored, TABLES[resource], where=where, after=after, limit=limit)
