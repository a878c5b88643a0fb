"""Commands of whoever runs the server, on a real database."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage import keys as stored_keys
from app.storage import projects
from app.storage.engine import make_engine

from .conftest import Run


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data folder with an embedded server of its own, stopped at the end."""
    # not pytest's folder: it is closed to the system user that root's Postgres runs as
    folder = Path(tempfile.mkdtemp(prefix="scalewright-cli-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        from app.storage import embedded

        embedded.stop_server(folder / "postgres", immediately=True)
        shutil.rmtree(folder)


def test_the_embedded_database_is_upgraded_shown_and_stopped(
    run_program: Run, data_dir: Path
) -> None:
    here = {"SCALEWRIGHT_DATA_DIR": str(data_dir), "DATABASE_URL": ""}
    behind = run_program("db", "status", "--json", **here)
    assert behind.code == 1 and behind.document["current"] is None
    assert "db upgrade" in behind.err

    done = run_program("db", "upgrade", "--json", **here)
    assert done.code == 0, done.err
    assert done.document["up_to_date"] is True
    again = run_program("db", "upgrade", "--json", **here)
    assert again.document == done.document

    now = run_program("db", "status", **here)
    assert now.code == 0 and done.document["head"] in now.out
    pid = int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    assert run_program("db", "stop", **here).code == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert "No server runs" in run_program("db", "stop", **here).err


def test_a_database_that_does_not_answer_is_a_refusal(run_program: Run) -> None:
    done = run_program("db", "status")
    assert done.code == 1
    assert "DATABASE_URL" in done.err and "Traceback" not in done.err


def test_unsafe_settings_are_refused_with_the_remedy(run_program: Run) -> None:
    done = run_program("db", "status", SCALEWRIGHT_HOST="0.0.0.0")
    assert done.code == 1
    assert "SCALEWRIGHT_AUTH=keys" in done.err and "Traceback" not in done.err


def test_a_port_that_is_taken_is_a_refusal(run_program: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_program("serve", "--port", str(port))
    assert done.code == 1
    assert f"127.0.0.1 port {port}" in done.err and "--port" in done.err


def test_a_key_has_a_name(run_program: Run, database_url: str) -> None:
    done = run_program("keys", "create", " ", DATABASE_URL=database_url)
    assert done.code == 1 and "name" in done.err and "sw_" not in done.out


def test_a_key_is_shown_once_listed_without_its_text_and_revoked(
    run_program: Run, database_url: str, settings: Settings
) -> None:
    pytest.importorskip("app.services.keys", exc_type=ImportError)
    made = run_program(
        "keys", "create", "ci", "--scope", "submit", "--json", DATABASE_URL=database_url
    )
    assert made.code == 0, made.err
    key = made.document["key"]
    listed = run_program("keys", "list", "--json", DATABASE_URL=database_url)
    assert listed.code == 0 and key not in listed.out
    (one,) = listed.document
    assert one["name"] == "ci" and one["scopes"] == ["submit"] and key.startswith(one["prefix"])
    assert run_program("keys", "revoke", one["id"], DATABASE_URL=database_url).code == 0
    engine = make_engine(settings)
    with engine.connect() as connection:
        assert stored_keys.page(connection).items[0].revoked_at is not None
    engine.dispose()
    gone = run_program("keys", "revoke", 999, DATABASE_URL=database_url)
    assert gone.code == 1 and "999" in gone.err
    wrong = run_program("keys", "create", "x", "--scope", "all", DATABASE_URL=database_url)
    assert wrong.code == 1 and "read, submit, admin" in wrong.err


def test_a_corpus_is_built_from_files_and_listed(run_program: Run, tmp_path: Path) -> None:
    pytest.importorskip("app.services.corpora", exc_type=ImportError)
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number}.txt").write_text(f"Text number {number}. " * 20)
    (texts / "twice.txt").write_text("Text number 7. " * 20)
    folder = tmp_path / "corpora"
    built = run_program("corpus", "build", "mine", texts, "--corpus-dir", folder, "--json")
    assert built.code == 0, built.err
    (one,) = built.document
    assert one["name"] == "mine" and one["documents"]["duplicates"] == 1
    listed = run_program("corpus", "list", "--corpus-dir", folder, "--json")
    assert [each["digest"] for each in listed.document] == [one["digest"]]
    assert run_program("corpus", "build", "mine", "--corpus-dir", folder).code == 2
    refused = run_program("corpus", "build", "mine", tmp_path / "none", "--corpus-dir", folder)
    assert refused.code == 1 and "Traceback" not in refused.err


@pytest.mark.parametrize("command", ["runs list", "runs show 1", "runs cancel 1", "sweep watch 1"])
def test_without_a_server_the_refusal_says_how_to_start_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("SCALEWRIGHT_SERVER", "http://127.0.0.1:1")
    done = run(*command.split())
    assert done.code == 1 and "scalewright serve" in done.err


def test_curves_are_exported_or_refused_with_the_remedy(
    run_program: Run, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app import cli_operate
    from app.cli_output import Refused

    here = {"SCALEWRIGHT_DATA_DIR": str(data_dir), "DATABASE_URL": ""}
    other = run_program("export", "curves", "big", "--out", tmp_path, "--format", "xml", **here)
    assert other.code == 1 and "--format parquet" in other.err
    folder = run_program("export", "curves", "big", "--out", tmp_path, "--format", "csv", **here)
    assert folder.code == 1 and "--out curves.csv.gz" in folder.err
    nobody = run_program("export", "curves", "nobody", "--out", tmp_path, **here)
    assert nobody.code == 1 and "nobody" in nobody.err
    engine = make_engine(Settings(data_dir=data_dir, database_url=None))
    with engine.begin() as connection:
        projects.create(connection, "2024")  # a name first, and only then an id
    engine.dispose()
    named = run_program("export", "curves", "2024", "--out", tmp_path, "--json", **here)
    assert named.document == {"folder": str(tmp_path), "runs": 0, "points": 0}
    with pytest.raises(Refused, match=r"pip install 'scalewright\[parquet\]'"):
        cli_operate.need("pyarrow_that_is_not_there", "parquet")
