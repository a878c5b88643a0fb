"""A database of every released schema, with rows in it, comes through every later revision."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from app.storage import curves, fits, forecasts, migrate, projects, queue, recording, runs
from app.storage.listen import dsn
from app.storage.tables import metadata
from tests.conftest import fresh_database
from tests.migrations.keep import RELEASED, revision_digest

KEPT = sorted(RELEASED.glob("*.sql"))

Rows = dict[str, list[dict[str, Any]]]


def rows_of(url: str) -> Rows:
    """Every row of every table of ours, as JSON, in the order of its text."""
    engine = create_engine(url)
    with engine.connect() as connection:
        here = connection.scalars(
            text("select tablename from pg_tables where schemaname = 'public'")
        ).all()
        found = {
            table: sorted(
                connection.scalars(text(f'select to_jsonb(t) from "{table}" t')).all(), key=str
            )
            for table in sorted(set(here) & set(metadata.tables))
        }
    engine.dispose()
    return found


def test_the_newest_schema_has_its_data_kept() -> None:
    assert (RELEASED / f"{migrate.head()}.sql").exists(), "run python -m tests.migrations.keep"


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_a_released_revision_is_not_edited(file: Path) -> None:
    first_line = file.read_text().split("\n", 1)[0]
    assert first_line.endswith(revision_digest(file.stem)), (
        f"revision {file.stem} has changed since its data was kept. If it was released, put it "
        "back and write a new revision; if not, run python -m tests.migrations.keep"
    )


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_data_survives_the_upgrade_and_works(server_url: str, file: Path) -> None:
    with fresh_database(server_url) as url:
        migrate.upgrade(url, file.stem)
        with psycopg.connect(dsn(url)) as loader:
            loader.execute(file.read_text())  # type: ignore[call-overload]
        before = rows_of(url)
        assert all(before[table] for table in before), "a table has no row to test with"
        assert migrate.upgrade(url).up_to_date
        after = rows_of(url)
        for table, rows in before.items():
            common = set(rows[0]) & set(after[table][0])
            assert [{key: row[key] for key in common} for row in rows] == [
                {key: row[key] for key in common} for row in after[table]
            ]

        engine = create_engine(url)
        with engine.begin() as connection:
            project = projects.get_by_name(connection, "proxies")
            trunk = runs.find_by_name(connection, project.id, "trunk")
            branch = runs.find_by_name(connection, project.id, "branch")
            assert trunk is not None and branch is not None
            assert len(curves.read_points(connection, trunk.id).step) == 40
            points = fits.select_points(connection, project.id, "code").points
            assert (points.N.tolist(), points.loss.tolist()) == ([5e6], [2.25])
            assert queue.depth(connection) == {("train", "todo"): 1, ("jobs", "todo"): 1}
            # work goes on where it was, the forecast about it included
            attempt = recording.claim_run(connection, branch.id, "worker")
            assert attempt == 1
            line = recording.EvaluationLine(40, "code", 2.42)
            recording.record(connection, branch.id, attempt, recording.Batch(evaluations=[line]))
            recording.finish_run(connection, branch.id, attempt)
            (scored,) = forecasts.score_run(connection, branch.id)
            assert scored.inside
            runs.create(connection, runs.NewRun(project.id, "another"))
        engine.dispose()
