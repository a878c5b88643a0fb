"""Real workers on a real database with a real trainer, and the means to hurt them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.settings import Settings
from app.storage import queue, runs
from app.storage.runs import NewRun, Run

HOME = Path(__file__).resolve().parents[2]
HELD = Path(__file__).resolve().parent / "held"  # its sitecustomize.py holds trainers
MARK = "LAB_OF_TESTS"  # in the environment of whatever the tests of this process start
STEPS = 400
# No promise: what does not come is to fail, not to hang. A busy machine may be ten times slower.
PATIENCE_SECONDS = 600
# Less patient than the defaults, so that a death is noticed in a few seconds; but a living worker
# of a machine that does something else for as long would be called dead.
HASTE = {
    "SCALEWRIGHT_WORKER_HEARTBEAT_SECONDS": "0.5",
    "SCALEWRIGHT_WORKER_TIMEOUT_SECONDS": "4",
    "SCALEWRIGHT_REAPER_SECONDS": "0.5",
    "SCALEWRIGHT_WORKER_MAX_FAILURES": "20",
}

RUN_WORKERS = "\nimport sys\nfrom workers.__main__ import main\nsys.exit(main())\n"


def config(corpus: Path, *, steps: int = STEPS, **changes: Any) -> dict[str, Any]:
    """A run of about 15,000 parameters: a few milliseconds a step."""
    source = {"name": "code", "path": str(corpus)}
    last = changes.get("schedule", {}).get("steps", steps)
    return {
        "model": {"d_model": 16, "n_layers": 1, "head_dim": 8, "vocab_size": 256, "seq_len": 64},
        "data": {"train": [{**source, "weight": 1.0}], "validation": [source]},
        "optimizer": {"name": "muon", "lr": 6e-3},
        "schedule": {"kind": "wsd", "steps": steps, "warmup_steps": 20, "cooldown_steps": 100},
        "batch_tokens": 256,
        "seed": 3,
        "device": "cpu",
        "threads": 1,
        "evaluate": {"at_steps": [last], "tokens": 2048},
        "checkpoint": {"every_steps": 50, "keep": 2},
        **changes,
    }


def train_alone(folder: Path, configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the trainer prints when nobody disturbs it."""
    path = folder / "config.json"
    path.write_text(json.dumps(configuration))
    done = subprocess.run(
        [sys.executable, "-m", "workers.proxy.train", str(path), "--out", str(folder / "out")],
        cwd=HOME,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def points_of(lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, float, float, float]]:
    points = [line["points"] for line in lines if line["event"] == "points"]
    return [tuple(point) for batch in points for point in batch]  # type: ignore[misc]


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a worker's log; one that is still being written, or that was torn, is none."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


class WorkerProcess:
    """`python -m workers`, its log, and its trainers; `first` is run in it before anything else."""

    def __init__(self, lab: "Lab", *arguments: str, first: str | None = None) -> None:
        self._log_path = lab.folder / f"worker-{time.monotonic_ns()}.log"
        program = ["-m", "workers"] if first is None else ["-c", first + RUN_WORKERS]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=HOME,
                env=lab.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def log(self) -> list[dict[str, Any]]:
        return log_lines(self._log_path)

    @property
    def said(self) -> str:
        return self._log_path.read_text()

    @property
    def trainers(self) -> list[psutil.Process]:
        """What it has started and still lives."""
        living = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        living.append(child)
        return living

    def ready(self) -> "WorkerProcess":
        """Once it has started; so that what follows is not measured with it."""
        self.wait_said(lambda line: line["event"] == "worker started")
        return self

    def wait_said(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Until a line of its log is as wanted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(map(wanted, self.log)):
            assert time.monotonic() < deadline and self.alive, self.said[-3000:]
            time.sleep(0.05)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE_SECONDS)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Leave nothing behind."""
        for trainer in self.trainers:
            with contextlib.suppress(psutil.NoSuchProcess):
                trainer.kill()
        if self.alive:
            self._process.kill()
        self._process.wait()


class ApiProcess:
    """`scalewright serve` of its own process; its log is the lab's `api.log`."""

    def __init__(self, lab: "Lab", port: int) -> None:
        with (lab.folder / "api.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve", "--port", str(port)],
                cwd=HOME,
                env={**lab.env, "SCALEWRIGHT_CORPUS_DIR": str(lab.corpus.parent)},
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> None:
        self._process.wait(PATIENCE_SECONDS)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Lab:
    """One database, one folder, one corpus; workers that end with the test."""

    def __init__(self, engine: Engine, settings: Settings, corpus: Path, folder: Path) -> None:
        self.engine, self.settings, self.corpus, self.folder = engine, settings, corpus, folder
        url = engine.url.render_as_string(hide_password=False)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SCALEWRIGHT_")},
            **HASTE,
            "DATABASE_URL": url,
            "SCALEWRIGHT_DATA_DIR": str(settings.data_dir),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HELD), os.environ.get("PYTHONPATH", "")]),
            "LAB_HOLD": str(folder / "hold"),
            MARK: str(os.getpid()),
        }
        self.project_id = self._project()

    def _project(self) -> int:
        with self.engine.begin() as connection:
            return int(
                connection.scalar(
                    text(
                        "insert into projects (name) values ('lab') on conflict (name)"
                        " do update set name = excluded.name returning id"
                    )
                )
            )

    def no_worker_dies(self) -> None:
        """No lease runs out, however long this machine does something else.

        To be said first: deliveries that workers of earlier tests died with would never come back.
        """
        self.env["SCALEWRIGHT_WORKER_TIMEOUT_SECONDS"] = str(PATIENCE_SECONDS)
        with self.engine.begin() as connection:
            for table in ("procrastinate_jobs", "procrastinate_workers"):
                connection.execute(text(f"delete from {table}"))

    def hold(self, step: int) -> None:
        """Have every trainer wait once it has printed the points of this step, or of a later one.

        That it trains still when something is done to it; a trainer that is asked to stop goes on.
        """
        fresh = self.folder / "hold.new"
        fresh.write_text(str(step))
        fresh.replace(self.folder / "hold")

    def release(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def submit(self, name: str, configuration: Mapping[str, Any], **columns: Any) -> int:
        """A queued run and its delivery."""
        columns = {"status": "queued", "steps": configuration["schedule"]["steps"], **columns}
        new = NewRun(project_id=self.project_id, name=name, config=configuration, **columns)
        with self.engine.begin() as connection:
            run = runs.create(connection, new)
            if run.status == "queued":
                queue.defer_train(connection, run.id)
            return run.id

    @contextmanager
    def worker(self, *arguments: str, first: str | None = None) -> Iterator[WorkerProcess]:
        worker = WorkerProcess(self, *arguments, first=first)
        try:
            yield worker
        except BaseException:
            print(worker.said[-6000:])
            raise
        finally:
            worker.end()

    def run(self, run_id: int) -> Run:
        with self.engine.connect() as connection:
            return runs.get(connection, run_id)

    def wait(self, run_id: int, until: Callable[[Run], bool]) -> Run:
        """The run once it is as wanted; it fails the test if that does not come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                run = self.run(run_id)
                if until(run):
                    return run
            except DBAPIError:
                run = None
            assert time.monotonic() < deadline, f"waited in vain: {run}"
            time.sleep(0.05)

    def wait_ended(self, run_id: int) -> Run:
        return self.wait(run_id, lambda run: run.ended)

    def curve(self, run_id: int) -> list[tuple[int, float, float, float]]:
        statement = (
            "select step, tokens, loss, lr from curve_points where run_id = :id order by step"
        )
        return [tuple(row) for row in self.rows(statement, id=run_id)]

    def rows(self, statement: str, **parameters: Any) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement), parameters))


def freeze(*processes: psutil.Process | WorkerProcess) -> None:
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)


def thaw(*processes: psutil.Process | WorkerProcess) -> None:
    for process in processes:
        os.kill(process.pid, signal.SIGCONT)
