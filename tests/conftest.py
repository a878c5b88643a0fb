"""Real Postgres for every test: one server a session, one migrated template, one database a module.

Without DATABASE_URL the session starts an embedded server in a temporary folder and stops it by its
pid at the end, however the session ends short of kill -9. With DATABASE_URL it uses that server
(whose user must be allowed to create databases) and drops what it made.
"""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, pool, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from app.settings import Settings, with_driver
from app.storage import embedded, migrate
from app.storage.engine import make_engine

# A test database may be lost with the machine, so nothing waits for the disk.
IN_A_HURRY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


# The same examples every time: what fails once fails always; --hypothesis-profile=exploring looks
# for new ones. A slow example is a busy machine, not a wrong answer.
EASY = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("exploring", **EASY)
hypothesis.settings.register_profile("the same", **EASY, derandomize=True, database=None)
hypothesis.settings.load_profile("the same")


def pytest_configure(config: pytest.Config) -> None:
    # finalizers, the one that stops the server among them, run on a terminate as on Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of `-n 2`, where pytest-xdist is there."""
    from tests.lanes import Lanes

    return Lanes(config, log)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A database on the test server from which others can be created."""
    given = os.environ.get("DATABASE_URL")
    if given:
        yield with_driver(given)
        return
    # not pytest's own folders: those are closed to the system user that root's Postgres runs as
    folder = Path(tempfile.mkdtemp(prefix="scalewright-test-"))
    folder.chmod(0o755)
    try:
        yield embedded.start_server(folder / "postgres", IN_A_HURRY).url("postgres")
    finally:
        embedded.stop_server(folder / "postgres", immediately=True)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def template_database(server_url: str) -> Iterator[str]:
    """The name of a database that holds the newest schema and no rows."""
    with fresh_database(server_url) as url:
        migrate.upgrade(url)
        yield str(make_url(url).database)


@pytest.fixture(scope="module")
def database_url(server_url: str, template_database: str) -> Iterator[str]:
    """A database of this module's own, migrated and empty."""
    with fresh_database(server_url, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def settings(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of this module's own database and folders; the environment's are not looked at."""
    return Settings(data_dir=tmp_path_factory.mktemp("data"), database_url=database_url)


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    """An engine on this module's database; what is committed stays until the module ends."""
    engine = make_engine(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that is rolled back after the test."""
    with engine.connect() as connection, connection.begin() as transaction:
        yield connection
        transaction.rollback()


class fresh_database:
    """A context: a new database on the server, its URL, and the end of it."""

    def __init__(self, server_url: str, template: str | None = None) -> None:
        self.server_url = server_url
        self.name = f"scalewright_test_{secrets.token_hex(6)}"
        self.template = template

    def __enter__(self) -> str:
        template = f' template "{self.template}"' if self.template else ""
        self._run(f'create database "{self.name}"{template}')
        url = make_url(self.server_url).set(database=self.name)
        return url.render_as_string(hide_password=False)

    def __exit__(self, *exception: object) -> None:
        self._run(f'drop database if exists "{self.name}" with (force)')

    def _run(self, statement: str) -> None:
        # Postgres gives whoever is in a database five seconds to leave; a busy machine takes longer
        engine = create_engine(
            self.server_url, poolclass=pool.NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            for more in reversed(range(12)):
                try:
                    connection.execute(text(statement))
                    return
                except OperationalError as error:
                    if not more or not isinstance(error.orig, psycopg.errors.ObjectInUse):
                        raise
