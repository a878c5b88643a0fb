"""The revisions make the schema that the tables describe, once, whoever asks and however often."""

import hashlib
import subprocess
import sys

import pytest
from procrastinate.schema import SchemaManager
from sqlalchemy import Connection, text

from app.storage import migrate
from app.storage.tables import CURVE_PARTITIONS, metadata
from tests.conftest import fresh_database

# The queue's schema as revision 0001 released it. If an upgrade of procrastinate changes it, add a
# revision that applies procrastinate's own migrations (its sql/migrations folder) to databases
# made before, make 0001 skip what is there already, and put the new digest here.
QUEUE_SCHEMA = "c70ec4b400a60ad9592787653aae5ae77ae41bf801d56b5bd2712751a07f2009"


def test_an_empty_database_is_brought_to_the_newest_revision(server_url: str) -> None:
    with fresh_database(server_url) as url:
        before = migrate.status(url)
        assert before.current is None and not before.up_to_date
        after = migrate.upgrade(url)
        assert after.current == migrate.head() and after.up_to_date
        assert migrate.upgrade(url).current == after.current
        assert int(after.server_version.split(".")[0]) >= 14


def test_the_tables_and_the_revisions_agree(database_url: str) -> None:
    migrate.check(database_url)


def test_two_upgrades_at_once_do_no_harm(server_url: str) -> None:
    with fresh_database(server_url) as url:
        code = "import sys; from app.storage import migrate; migrate.upgrade(sys.argv[1])"
        upgrades = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(2)]
        assert [upgrade.wait() for upgrade in upgrades] == [0, 0]
        assert migrate.status(url).up_to_date


def test_every_table_is_there_and_curves_are_partitioned_by_run(connection: Connection) -> None:
    here = set(
        connection.scalars(text("select tablename from pg_tables where schemaname = 'public'"))
    )
    assert set(metadata.tables) <= here
    assert "procrastinate_jobs" in here
    for table in ("curve_points", "metrics"):
        parts = connection.scalar(
            text("select count(*) from pg_inherits where inhparent = cast(:t as regclass)"),
            {"t": table},
        )
        assert parts == CURVE_PARTITIONS


def test_the_queue_is_the_one_the_revision_was_written_for() -> None:
    digest = hashlib.sha256(SchemaManager.get_schema().encode()).hexdigest()
    assert digest == QUEUE_SCHEMA


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://h/d", "nonsense"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="only Postgres"):
        migrate.status(url)
