"""Remove what a finished run needs no longer: resume checkpoints, wherever an attempt left them.

Whoever finishes a run tidies up after it. A worker that is killed before it could, or that was
frozen in an upload past the run's end, leaves that to `Tidier`, which looks at the start of every
worker and from then on every ten minutes. Branch and final checkpoints stay; so does everything of
a run that may be tried again. All of it may be done twice, and by several at once.
"""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.settings import Settings
from app.storage import checkpoints, runs
from workers.store import Store, is_url
from workers.upload import discard

log = structlog.get_logger()

LOOK_SECONDS = 600.0  # what is left only takes space
MOST_AT_ONCE = 100  # runs of one look


def run_folder(settings: Settings, run_id: int) -> Path:
    """Each attempt has a folder of its own in it, so that a zombie cannot touch its successor's."""
    return settings.checkpoint_dir / f"run-{run_id}"


class Tidier:
    """What one worker tidies: its checkpoint folder, its store, and the rows of `checkpoints`."""

    def __init__(self, engine: Engine, settings: Settings, store: Store | None) -> None:
        self._engine, self._settings, self._store = engine, settings, store
        self._elsewhere: set[int] = set()  # for another worker to tidy up

    def tidy(self, run_id: int) -> bool:
        """Whether the run is finished and nothing is left to resume it from, rows included.

        The rows stay while a file that they name may be left: on a machine that does not share
        this folder, or in a store that does not answer. Never raises for database, store or disk.
        """
        try:
            with self._engine.connect() as connection:
                if not runs.finished_among(connection, [run_id]):
                    return False
                rows = checkpoints.of_run(connection, run_id)
            folder = run_folder(self._settings, run_id)
            drop_resume_files(folder)
            listed = self._store is not None and drop_resume_objects(self._store, run_id)
            if self._store is not None and not listed:
                return False
            if not all(self._gone(row.path) for row in rows if row.kind == "resume"):
                self._elsewhere.add(run_id)
                return False
            with self._engine.begin() as connection:
                checkpoints.forget_resume(connection, run_id)
            return True
        except (DBAPIError, PoolTimeout, OSError) as error:
            log.warning("not tidied yet", run_id=run_id, error=type(error).__name__)
            return False

    def _gone(self, path: str) -> bool:
        """Whether it lay in this folder or store, out of which all was removed."""
        if is_url(path):
            return self._store is not None and self._store.holds(path)
        return Path(path).parent.is_dir() and not Path(path).exists()

    def look(self) -> list[int]:
        """Tidy up after finished runs that nobody has tidied up after; those that it did.

        Found by their rows, and in a folder that is this machine's own by their files: a run that
        went on elsewhere left its copies here.
        """
        try:
            with self._engine.connect() as connection:
                left = checkpoints.finished_with_resume(connection, self._elsewhere, MOST_AT_ONCE)
                if self._store is not None:
                    here = set(self._here()) - self._elsewhere
                    left = sorted({*left, *runs.finished_among(connection, here)})
        except (DBAPIError, PoolTimeout, OSError) as error:
            log.warning("nothing was tidied", error=type(error).__name__)
            return []
        done = [run_id for run_id in left if self.tidy(run_id)]
        if done:
            log.info("tidied", runs=done)
        return done

    def look_for_ever(self, stopping: threading.Event) -> None:
        """To be run in a thread that nobody waits for: a store may take its time."""
        while not stopping.is_set():
            try:
                self.look()
            except Exception:  # nothing depends on it
                log.exception("the tidier failed")
            stopping.wait(LOOK_SECONDS)

    def _here(self) -> Iterator[int]:
        """The runs of which this machine has resume checkpoints."""
        for path in self._settings.checkpoint_dir.glob("run-*/attempt-*/*.resume.safetensors"):
            number = path.parent.parent.name.removeprefix("run-")
            if number.isdecimal():
                yield int(number)


def drop_resume_files(folder: Path) -> None:
    """A run's resume checkpoints, what a killed trainer began to write, and what was fetched."""
    for name in ("*.resume.safetensors", ".step-*.tmp"):
        for path in folder.glob(f"attempt-*/{name}"):
            path.unlink(missing_ok=True)
    for fetched in folder.glob("attempt-*/fetched"):
        shutil.rmtree(fetched, ignore_errors=True)


def drop_resume_objects(store: Store, run_id: int) -> bool:
    """As `drop_resume_files`, for what every attempt left in the store; False without an answer.

    Listed, not looked up: a worker that died after an upload and before its record left an
    object that no row names, and one that died while it wrote, a `.part`.
    """
    try:
        left = store.under(f"run-{run_id}")
    except OSError as error:
        log.warning("not tidied in the store", run_id=run_id, error=str(error))
        return False
    spent = [url for url in left if ".resume.safetensors" in url.rpartition("/")[2]]
    return all([discard(store, url) for url in spent])
