"""The schema's version: bring it up to date, say where it is. Alembic underneath, no ini file.

The revisions are the package `migrations`, found the same way in a checkout and when installed.
"""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, pool, text

import migrations
from app.settings import Settings, with_driver
from app.storage.engine import resolve_url


@dataclass(frozen=True)
class DatabaseStatus:
    """What a database is and which revision it holds; `current` is None before any upgrade."""

    current: str | None
    head: str
    server_version: str
    database: str
    address: str
    size_bytes: int

    @property
    def up_to_date(self) -> bool:
        return self.current == self.head


def upgrade(target: Settings | str, revision: str = "head") -> DatabaseStatus:
    """Apply every missing revision in one transaction; harmless twice, or from two processes.

    `target` is the settings or a URL.
    """
    engine = _engine(target)
    try:
        with engine.begin() as connection:
            command.upgrade(_config(connection), revision)
        with engine.connect() as connection:
            return _status(connection)
    finally:
        engine.dispose()


def status(target: Settings | str) -> DatabaseStatus:
    """The current and the newest revision, and what the server is. Changes nothing.

    With the embedded database this starts its server, since only the server can tell.
    """
    engine = _engine(target)
    try:
        with engine.connect() as connection:
            return _status(connection)
    finally:
        engine.dispose()


def check(target: Settings | str) -> None:
    """Raise alembic.util.CommandError if app/storage/tables.py is not what the revisions make."""
    engine = _engine(target)
    try:
        with engine.begin() as connection:
            command.check(_config(connection))
    finally:
        engine.dispose()


def head() -> str:
    """The newest revision that this version of the product knows."""
    (revision,) = ScriptDirectory.from_config(_config()).get_heads()
    return revision


def _status(connection: Connection) -> DatabaseStatus:
    row = connection.execute(
        text(
            "select current_setting('server_version') as server_version,"
            " current_database() as database, pg_database_size(current_database()) as size_bytes"
        )
    ).one()
    url = connection.engine.url
    return DatabaseStatus(
        current=MigrationContext.configure(connection).get_current_revision(),
        head=head(),
        server_version=row.server_version,
        database=row.database,
        address=str(url.host or url.query.get("host") or "local"),
        size_bytes=row.size_bytes,
    )


def _engine(target: Settings | str) -> Engine:
    url = with_driver(target) if isinstance(target, str) else resolve_url(target)
    return create_engine(url, poolclass=pool.NullPool)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option(
        "script_location", str(Path(migrations.__file__).parent).replace("%", "%%")
    )
    config.attributes["connection"] = connection
    return config
