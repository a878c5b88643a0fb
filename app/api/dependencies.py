"""What routes ask for: the database, a page, and who is calling."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from sqlalchemy import Connection, Engine

from app.services import paging
from app.settings import Settings


@dataclass(frozen=True)
class Database:
    """Transactions for a route: one `with database.begin() as connection:` a request.

    The route opens it, not a dependency: a dependency would hold a connection while its request
    waits for a thread, and enough of those stop the service.
    """

    engine: Engine
    open: Connection | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Commits on leaving; joins the transaction of the idempotency key where there is one."""
        if self.open is not None:
            yield self.open
        else:
            with self.engine.begin() as connection:
                yield connection


async def _database(request: Request) -> Database:
    return Database(request.app.state.engine, getattr(request.state, "connection", None))


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


DatabaseDep = Annotated[Database, Depends(_database)]
SettingsDep = Annotated[Settings, Depends(_settings)]
Id = Annotated[int, Path(ge=1, le=2**63 - 1, examples=[1])]
IdQuery = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=paging.MAX_LIMIT, description="How many at most.")]
Cursor = Annotated[
    str | None,
    Query(max_length=100, description="next_cursor of the page before; none for the first page."),
]
