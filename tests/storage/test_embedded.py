"""The embedded server: one for all who come, back after kill -9 with everything acknowledged."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.settings import Settings
from app.storage import curves, embedded, migrate, recording
from app.storage.embedded import EmbeddedServerError
from app.storage.engine import make_engine
from tests.storage.conftest import make_run

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server has a user of its own")


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder outside pytest's, which are closed to root's system user."""
    folder = Path(tempfile.mkdtemp(prefix="scalewright-test-"))
    folder.chmod(0o755)
    yield folder
    for pid_file in folder.rglob("postmaster.pid"):
        embedded.stop_server(pid_file.parent, immediately=True)
    shutil.rmtree(folder)


@pytest.fixture
def own(folder: Path) -> Settings:
    # told explicitly, or DATABASE_URL would be taken from the environment
    return Settings(data_dir=folder, database_url=None)


def test_it_is_started_once_found_again_and_stopped(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")  # what is meant for another server changes nothing
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    assert embedded.running(own) is None and not embedded.stop(own)
    url = embedded.start(own)
    server = embedded.running(own)
    assert server is not None and server.url() == url == embedded.start(own)
    assert migrate.status(own).current is None
    assert migrate.upgrade(own).up_to_date
    # nobody else can come in: no TCP, and the socket lies in a folder of its owner's
    assert not psutil.Process(server.pid).net_connections(kind="tcp")
    assert server.socket_dir.stat().st_mode & 0o077 == 0
    assert embedded.stop(own)
    assert embedded.running(own) is None and not psutil.pid_exists(server.pid)
    assert migrate.status(own).up_to_date  # starts it again, with what it had


def test_many_processes_that_start_it_at_once_share_one_server(own: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from app.settings import Settings;"
        "from app.storage import embedded; s = Settings(data_dir=Path(sys.argv[1]));"
        "embedded.start(s); print(embedded.running(s).pid)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.endswith("DATABASE_URL")}
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(own.data_dir)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )
        for _ in range(3)
    ]  # fmt: skip
    assert len({starter.communicate()[0] for starter in starters}) == 1
    assert all(starter.returncode == 0 for starter in starters)


@pytest.mark.faults
def test_nothing_acknowledged_is_lost_by_kill_9(own: Settings) -> None:
    migrate.upgrade(own)
    engine = make_engine(own)
    with engine.begin() as connection:
        run = make_run(connection)
        attempt = recording.claim_run(connection, run.id, "one")
        assert attempt is not None
    acknowledged: list[int] = []

    def train() -> None:
        step = 0
        while True:
            step += 1
            try:
                with engine.begin() as connection:
                    line = recording.Batch(points=[(step, None, 1.0 / step, None)])
                    recording.record(connection, run.id, attempt, line)
            except OperationalError:
                return
            acknowledged.append(step)

    trainer = threading.Thread(target=train)
    trainer.start()
    while len(acknowledged) < 50:
        assert trainer.is_alive()
        time.sleep(0.01)
    server = embedded.running(own)
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    trainer.join()

    embedded.start(own)
    with engine.begin() as connection:  # the same engine: its pool finds the new server
        stored = curves.read_points(connection, run.id).step.tolist()
        # one more may have been committed whose answer was lost; sending it again is harmless
        assert stored[: len(acknowledged)] == acknowledged
        assert len(stored) - len(acknowledged) in (0, 1)
        again = recording.Batch(points=[(len(acknowledged) + 1, None, 9.0, None)])
        recorded = recording.record(connection, run.id, attempt, again)
        assert recorded.held and recorded.points == len(acknowledged) + 1 - len(stored)
    engine.dispose()


def test_a_pid_file_that_names_another_program_is_forgotten(own: Settings) -> None:
    embedded.start(own)
    embedded.stop(own)
    lines = [str(os.getpid()), str(own.postgres_dir), "0", "5432", str(own.postgres_dir), "", "1 1"]
    (own.postgres_dir / "postmaster.pid").write_text("\n".join([*lines, "ready", ""]))
    assert embedded.running(own) is None and not embedded.stop(own)
    embedded.start(own)
    assert embedded.running(own) is not None


def test_a_first_start_that_was_killed_is_begun_again(folder: Path) -> None:
    half_made = folder / "postgres.new"
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    assert embedded.start_server(folder / "postgres").port == embedded.PORT
    assert not half_made.exists()


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "thesis.tex").touch()
    with pytest.raises(EmbeddedServerError, match="move it away"):
        embedded.start_server(folder / "postgres")
    assert (folder / "postgres" / "thesis.tex").exists()


def test_a_folder_spelled_differently_is_the_same_folder(folder: Path) -> None:
    server = embedded.start_server(folder / "postgres")
    (folder / "other").symlink_to(folder)
    assert embedded.start_server(folder / "other" / "postgres").pid == server.pid


def test_a_long_path_gets_a_short_private_socket(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("it's a folder" * 4) / "postgres"
    server = embedded.start_server(deep)
    try:
        assert not server.socket_dir.is_relative_to(folder)
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
        with server.connect() as connection:
            shown = connection.execute("show data_directory").fetchone()
            assert shown == (str(deep),)
    finally:
        embedded.stop_server(deep)
        shutil.rmtree(server.socket_dir)


def test_a_server_that_cannot_start_says_what_postgres_said(folder: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        embedded.start_server(folder / "postgres", {"no_such_setting": "1"})


@AS_ROOT
def test_root_is_told_that_its_home_is_closed(folder: Path) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match="SCALEWRIGHT_DATA_DIR") as error:
        embedded.start_server(closed / "data" / "postgres")
    assert str(closed) in str(error.value)
    assert closed.stat().st_mode & 0o777 == 0o700  # and nothing was opened in silence


@AS_ROOT
def test_programs_that_the_system_user_cannot_reach_are_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = str(folder)
    monkeypatch.setattr(
        embedded,
        "_first_closed",
        lambda path: None if str(path).startswith(beside) else Path("/root"),
    )
    server = embedded.start_server(folder / "postgres")
    program = Path(psutil.Process(server.pid).cmdline()[0])
    assert program.is_relative_to(folder)


def test_an_engine_uses_the_database_it_is_given(settings: Settings) -> None:
    engine = make_engine(settings, application_name="who")
    with engine.connect() as connection:
        name = connection.scalar(text("select current_setting('application_name')"))
        assert name == "who"
    engine.dispose()
    assert not settings.postgres_dir.exists()
