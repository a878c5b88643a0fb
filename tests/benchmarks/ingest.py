"""How fast curves go in, against what Postgres itself does with the same rows in the same run.

    python -m tests.benchmarks.ingest [--points 100000] [--repeats 5]

Raw COPY sends text that was made beforehand: its cost is the server's alone. Each way stores the
same points into runs of its own. Reported are CPU seconds of this process and of its server
process together (other work on the machine does not count), the best of the repeats, and for the
ratio the rate over that of raw COPY. Needs a server that is local: the embedded one.

The last rows are 16 writers at once, each with runs and a connection of its own, committing every
batch as a worker does: CPU of this process and of the whole server.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from sqlalchemy import Connection, Engine, text

from app.settings import Settings
from app.storage import curves, embedded, migrate, projects, recording, runs
from app.storage.engine import make_engine

RECORDER_BATCHES = (500, 1000)
WRITERS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalewright-ingest-") as name:
        Path(name).chmod(0o755)
        settings = Settings(data_dir=Path(name), database_url=None)
        try:
            migrate.upgrade(settings)
            measure(make_engine(settings), given.points, given.repeats)
        finally:
            embedded.stop(settings)


def measure(engine: Engine, n: int, repeats: int) -> None:
    generator = np.random.default_rng(0)
    step = np.arange(1, n + 1)
    tokens, loss = 1024.0 * step, 2 + step**-0.3 + 0.01 * generator.normal(size=n)
    lr = np.full(n, 1e-3)
    columns = (step.tolist(), tokens.tolist(), loss.tolist(), lr.tolist())

    def raw_copy(connection: Connection, run_id: int) -> Callable[[], None]:
        rows = (f"{run_id}\t" + "\t".join(map(repr, row)) for row in zip(*columns, strict=True))
        lines = ("\n".join(rows) + "\n").encode()

        def run() -> None:
            cursor = connection.connection.cursor()
            statement = "copy curve_points (run_id, step, tokens, loss, lr) from stdin"
            with cursor.copy(statement) as copy:  # type: ignore[attr-defined]
                copy.write(lines)

        return run

    def copy_points(connection: Connection, run_id: int, **how: bool) -> Callable[[], None]:
        points = curves.Points(np.full(n, run_id), step, loss, tokens, lr)
        return lambda: None if curves.copy_points(connection, points, **how) == n else missing()

    def keep_first(connection: Connection, run_id: int) -> Callable[[], None]:
        return copy_points(connection, run_id, keep_first=True)

    points = list(zip(*columns, strict=True))

    def recorder(size: int) -> Callable[[Connection, int], Callable[[], None]]:
        def prepare(connection: Connection, run_id: int) -> Callable[[], None]:
            attempt = recording.claim_run(connection, run_id, "benchmark")
            assert attempt is not None

            def run() -> None:
                for first in range(0, n, size):
                    batch = recording.Batch(points=points[first : first + size])
                    recording.record(connection, run_id, attempt, batch)

            return run

        return prepare

    ways = {
        "raw COPY, text made before": raw_copy,
        "curves.copy_points": copy_points,
        "  keep_first": keep_first,
    }
    for size in RECORDER_BATCHES:
        ways[f"recording.record, {size} at a time"] = recorder(size)
    print(f"{n:,} points, best of {repeats}, CPU of client and server")
    best: dict[str, float] = {}
    for _ in range(repeats):  # in turn, so that a slow spell hits every way
        for name, way in ways.items():
            seconds = cpu_seconds(engine, way)
            best[name] = min(seconds, best.get(name, seconds))
        for size in RECORDER_BATCHES:
            name = f"{WRITERS} writers, {size} at a time, committed"
            seconds = together(engine, points, size)
            best[name] = min(seconds, best.get(name, seconds))
    raw = best["raw COPY, text made before"]
    for name, seconds in best.items():
        print(
            f"{name:40} {seconds:6.3f} s {n / seconds:11,.0f} points/s  ratio {raw / seconds:.2f}"
        )
    read(engine, n)


def cpu_seconds(engine: Engine, way: Callable[[Connection, int], Callable[[], None]]) -> float:
    with engine.begin() as connection:
        project = projects.ensure(connection, "benchmark")
        count = connection.scalar(text("select count(*) from runs"))
        new = runs.NewRun(project.id, f"run {count}", status="queued")
        run = runs.create(connection, new)
    with engine.begin() as connection:
        work = way(connection, run.id)
        server = psutil.Process(connection.scalar(text("select pg_backend_pid()")))
        before = time.process_time() + sum(server.cpu_times()[:2])
        work()
        return time.process_time() + sum(server.cpu_times()[:2]) - before


def together(engine: Engine, points: list[tuple[int, float, float, float]], size: int) -> float:
    """CPU seconds of 16 threads that record the points between them, and of the server."""
    share = len(points) // WRITERS
    with engine.begin() as connection:
        project = projects.ensure(connection, "benchmark")
        count = connection.scalar(text("select count(*) from runs"))
        new = [runs.NewRun(project.id, f"run {count} {i}", status="queued") for i in range(WRITERS)]
        ids = runs.create_many(connection, new)
        attempts = [recording.claim_run(connection, run_id, "benchmark") for run_id in ids]
        backend = psutil.Process(connection.scalar(text("select pg_backend_pid()")))
    postmaster = backend.parent()
    assert postmaster is not None

    def write(run_id: int, attempt: int, barrier: threading.Barrier) -> None:
        with engine.connect() as connection:
            connection.execute(text("select 1"))
            connection.commit()
            barrier.wait()
            barrier.wait()
            for first in range(0, share, size):
                batch = recording.Batch(points=points[first : min(first + size, share)])
                with connection.begin():
                    stored = recording.record(connection, run_id, attempt, batch)
                    assert stored.points == len(batch.points)
            barrier.wait()  # a connection that closes takes its backend's clock with it
            barrier.wait()

    barrier = threading.Barrier(WRITERS + 1)
    writers = [
        threading.Thread(target=write, args=(run_id, attempt, barrier))
        for run_id, attempt in zip(ids, attempts, strict=True)
    ]
    for writer in writers:
        writer.start()
    barrier.wait()
    before = time.process_time() + server_seconds(postmaster)
    barrier.wait()
    barrier.wait()
    used = time.process_time() + server_seconds(postmaster) - before
    barrier.wait()
    for writer in writers:
        writer.join()
    return used * len(points) / (share * WRITERS)


def server_seconds(postmaster: psutil.Process) -> float:
    return sum(sum(child.cpu_times()[:2]) for child in postmaster.children())


def read(engine: Engine, n: int) -> None:
    with engine.begin() as connection:
        run_id = connection.scalar(text("select min(run_id) from curve_points"))
        server = psutil.Process(connection.scalar(text("select pg_backend_pid()")))
        before = time.process_time() + sum(server.cpu_times()[:2])
        rows = len(curves.read(connection, run_id).step)
        after = time.process_time() + sum(server.cpu_times()[:2])
    print(f"curves.read: {n:,} points reduced to {rows} rows in {after - before:.3f} s CPU")


def missing() -> None:
    raise AssertionError("not every point was stored")


if __name__ == "__main__":
    main()
