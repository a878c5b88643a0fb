"""Projects: what runs, sweeps and fits belong to."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from app.services import paging
from app.services.errors import ServiceError, not_found
from app.storage import projects as storage
from app.storage import stats as counts
from app.storage.errors import NotFound
from app.storage.projects import Project


@dataclass(frozen=True)
class ProjectSummary:
    """A project and how much is in it."""

    id: int
    name: str
    description: str
    created_at: datetime
    runs: int
    finished_runs: int
    fits: int
    sweeps: int
    forecasts: int


def create(connection: Connection, name: str, description: str = "") -> ProjectSummary:
    """A new project; ServiceError (conflict) if the name is taken."""
    if storage.find_by_name(connection, name) is not None:
        raise ServiceError(
            "conflict",
            f"There is a project {name!r} already.",
            "Use it, or choose another name.",
            column="name",
            value=name,
        )
    return _summary(connection, storage.create(connection, name, description))


def get(connection: Connection, project: str | int) -> ProjectSummary:
    """By id or by name."""
    return _summary(connection, resolve(connection, project))


def resolve(connection: Connection, project: str | int) -> Project:
    """The project of that id (a number) or name (a text; a text of digits is tried as both)."""
    if isinstance(project, str):
        found = storage.find_by_name(connection, project)
        if found is not None:
            return found
        if not (project.isascii() and project.isdecimal()):
            raise not_found("project", repr(project))
        project = int(project)
    if not 0 < project < 2**63:
        raise not_found("project", project)
    try:
        return storage.get(connection, project)
    except NotFound:
        raise not_found("project", project) from None


def resolve_or_create(connection: Connection, project: str | int) -> Project:
    """Like `resolve`, but a name that is new makes a project."""
    try:
        return resolve(connection, project)
    except ServiceError:
        if isinstance(project, int) or project.isdecimal():
            raise
        return storage.ensure(connection, project)


def page(
    connection: Connection, *, cursor: str | None = None, limit: int = paging.DEFAULT_LIMIT
) -> paging.Page[ProjectSummary]:
    """Newest first."""
    stored = storage.page(connection, after=paging.after_of(cursor), limit=limit)
    return paging.page_of(stored, lambda project: _summary(connection, project))


def delete(connection: Connection, project: str | int) -> None:
    """The project and everything in it, for good."""
    storage.remove(connection, resolve(connection, project).id)


def _summary(connection: Connection, project: Project) -> ProjectSummary:
    counted = counts.of_project(connection, project.id)
    return ProjectSummary(
        id=project.id,
        name=project.name,
        description=project.description,
        created_at=project.created_at,
        **counted,
    )
