"""Fits of other kinds as they are kept: found by id, or listed newest first."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from app.services import paging, projects
from app.services.errors import not_found
from app.storage import fitted as storage
from app.storage.errors import NotFound
from app.storage.fitted import Resource, Stored

Shown = TypeVar("Shown")


def get(connection: Connection, resource: Resource, fitted_id: int) -> Stored:
    """ServiceError (not_found) where there is none."""
    try:
        return storage.get(connection, resource, fitted_id)
    except NotFound:
        raise not_found(resource.replace("_", " "), fitted_id) from None


def page(
    connection: Connection,
    resource: Resource,
    *,
    project: str | int | None = None,
    kind: str | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[Stored]:
    """Newest first; of one project, or of all."""
    return page_as(
        connection,
        resource,
        lambda one: one,
        project=project,
        kind=kind,
        cursor=cursor,
        limit=limit,
    )


def page_as(
    connection: Connection,
    resource: Resource,
    shown: Callable[[Stored], Shown],
    *,
    project: str | int | None = None,
    kind: str | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[Shown]:
    """`page`, each item as its service shows it."""
    stored = storage.page(
        connection,
        resource,
        project_id=None if project is None else projects.resolve(connection, project).id,
        kind=kind,
        after=paging.after_of(cursor),
        limit=limit,
    )
    return paging.page_of(stored, shown)
