"""Imports: which file brought which runs."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, value_of
from app.storage.tables import imports


@dataclass(frozen=True)
class Import:
    """`digest` is of the file's bytes, to recognise a file that was imported before."""

    id: int
    project_id: int
    format: str
    filename: str
    digest: str
    n_runs: int
    n_points: int
    created_at: datetime


def create(
    connection: Connection,
    project_id: int,
    *,
    format: str,
    digest: str,
    n_runs: int,
    n_points: int,
    filename: str = "",
) -> Import:
    row = connection.execute(
        insert(imports)
        .values(
            project_id=project_id,
            format=format,
            filename=filename,
            digest=digest,
            n_runs=n_runs,
            n_points=n_points,
        )
        .returning(*columns_of(Import, imports))
    ).one()
    return value_of(Import, row)


def get(connection: Connection, import_id: int) -> Import:
    found = find_row(connection, Import, imports, id=import_id)
    if found is None:
        raise NotFound("import", import_id)
    return found


def find_by_digest(connection: Connection, project_id: int, digest: str) -> Import | None:
    """The latest import of the same bytes into the project."""
    row = connection.execute(
        select(*columns_of(Import, imports))
        .where(imports.c.project_id == project_id, imports.c.digest == digest)
        .order_by(imports.c.id.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else value_of(Import, row)


def page(
    connection: Connection,
    *,
    project_id: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[Import]:
    where: dict[str, object] = {"project_id": project_id}
    return page_of(connection, Import, imports, where=where, after=after, limit=limit)


def remove(connection: Connection, import_id: int) -> None:
    """Undo an import: delete it with its runs and their curves."""
    if not connection.execute(delete(imports).where(imports.c.id == import_id)).rowcount:
        raise NotFound("import", import_id)
