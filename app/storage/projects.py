"""Projects: what runs, sweeps and fits belong to. Named by the user, once."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import Conflict, NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, value_of
from app.storage.tables import projects


@dataclass(frozen=True)
class Project:
    id: int
    name: str
    description: str
    created_at: datetime


def create(connection: Connection, name: str, description: str = "") -> Project:
    """A new project; Conflict if the name is taken."""
    row = connection.execute(
        insert(projects)
        .values(name=name, description=description)
        .on_conflict_do_nothing()
        .returning(*columns_of(Project, projects))
    ).one_or_none()
    if row is None:
        raise Conflict("project", f"there is a project named {name!r} already")
    return value_of(Project, row)


def ensure(connection: Connection, name: str) -> Project:
    """The project of that name, made if missing."""
    connection.execute(insert(projects).values(name=name).on_conflict_do_nothing())
    return get_by_name(connection, name)


def get(connection: Connection, project_id: int) -> Project:
    found = find_row(connection, Project, projects, id=project_id)
    if found is None:
        raise NotFound("project", project_id)
    return found


def find_by_name(connection: Connection, name: str) -> Project | None:
    return find_row(connection, Project, projects, name=name)


def get_by_name(connection: Connection, name: str) -> Project:
    found = find_by_name(connection, name)
    if found is None:
        raise NotFound("project", name)
    return found


def page(connection: Connection, *, after: int | None = None, limit: int = 50) -> Page[Project]:
    return page_of(connection, Project, projects, after=after, limit=limit)


def remove(connection: Connection, project_id: int) -> None:
    """Delete the project and everything in it, curves included."""
    if not connection.execute(delete(projects).where(projects.c.id == project_id)).rowcount:
        raise NotFound("project", project_id)
