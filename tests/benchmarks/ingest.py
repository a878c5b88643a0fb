"""How fast curves go in, against what Postgres itself does with the same rows in the same run.

    python -m tests.benchmarks.ingest [--points 160000] [--repeats 5]

The peer is raw COPY into the same table, with its partitions, key and check, of text that was
made beforehand: its cost is the server's alone. It is measured as the largest it can be (one COPY
of everything), and as what a recorder has to do: 16 writers, a batch a COPY, a commit a batch. Each
way stores the same points into runs of its own. Reported are CPU seconds of this process and of the
server together (other work on the machine does not count), the best of the repeats, and for the
ratio the rate over that of raw COPY. Needs a server that is local: the embedded one.

Last, by the clock: points a second that 16 writers in 4 processes store between them, every batch
committed, with the machine as it is.
"""

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
from sqlalchemy import Connection, Engine, create_engine, text

from app.settings import Settings
from app.storage import curves, embedded, migrate, projects, recording, runs
from app.storage.engine import make_engine

RECORDER_BATCHES = (500, 1000, 2000)
WRITERS, PROCESSES = 16, 4
ASKED, SHARE = 100_000, 0.40  # points/s of 16 writers; of raw COPY's rate

Point = tuple[int, float, float, float]
Write = Callable[[Connection], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=160_000)
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
    points = points_of(n)
    share = n // WRITERS
    step, tokens, loss, lr = (np.array(column) for column in zip(*points, strict=True))

    def raw_copy(run_id: int) -> list[Write]:
        return raw(run_id, points, len(points))

    def copy_points(run_id: int, **how: bool) -> list[Write]:
        given = curves.Points(np.full(n, run_id), step, loss, tokens, lr)
        return [lambda c: None if curves.copy_points(c, given, **how) == n else missing()]

    def keep_first(run_id: int) -> list[Write]:
        return copy_points(run_id, keep_first=True)

    alone = {"raw COPY": raw_copy, "curves.copy_points": copy_points, "  keep_first": keep_first}
    ways: dict[str, Callable[[], float]] = {
        name: lambda way=way: together(engine, 1, way) for name, way in alone.items()
    }
    for size in RECORDER_BATCHES:
        ways[f"16 writers, {size:>4} at a time: raw COPY"] = lambda size=size: together(
            engine, WRITERS, lambda run_id: raw(run_id, points[:share], size)
        )
        ways[f"16 writers, {size:>4} at a time: recorder"] = lambda size=size: together(
            engine, WRITERS, lambda run_id: recorded(run_id, points[:share], size)
        )
    print(f"{n:,} points, best of {repeats}, CPU of client and server")
    best: dict[str, float] = {}
    for _ in range(repeats):  # in turn, so that a slow spell hits every way
        for name, way in ways.items():
            best[name] = min(way(), best.get(name, np.inf))
    for name, seconds in best.items():
        print(
            f"{name:40} {seconds:6.3f} s {n / seconds:11,.0f} points/s  of one raw COPY "
            f"{best['raw COPY'] / seconds:.2f}"
        )
    for size in RECORDER_BATCHES:
        theirs, ours = (
            best[f"16 writers, {size:>4} at a time: {who}"] for who in ("raw COPY", "recorder")
        )
        judge(f"the recorder, {size} at a time, of raw COPY of the same batches", theirs / ours,
              SHARE)  # fmt: skip
        judge(f"the recorder, {size} at a time, of one raw COPY", best["raw COPY"] / ours, SHARE)
    for size in RECORDER_BATCHES:
        rate = max(by_the_clock(engine, 4 * n, size) for _ in range(2))
        judge(f"{WRITERS} writers, {size} at a time, points/s by the clock", rate, ASKED)


def judge(what: str, value: float, asked: float) -> None:
    print(f"{what:68} {value:12,.2f}  asked {asked:,}  {'ok' if value >= asked else 'MISSED'}")


def points_of(n: int) -> list[Point]:
    generator = np.random.default_rng(0)
    step = np.arange(1, n + 1)
    loss = 2 + step**-0.3 + 0.01 * generator.normal(size=n)
    return list(
        zip(step.tolist(), (1024.0 * step).tolist(), loss.tolist(), [1e-3] * n, strict=True)
    )


def raw(run_id: int, points: Sequence[Point], size: int) -> list[Write]:
    """A COPY for each batch, of text made now."""

    def copying(lines: bytes) -> Write:
        def write(connection: Connection) -> None:
            cursor = connection.connection.cursor()
            statement = "copy curve_points (run_id, step, tokens, loss, lr) from stdin"
            with cursor.copy(statement) as copy:  # type: ignore[attr-defined]
                copy.write(lines)

        return write

    batches = (points[first : first + size] for first in range(0, len(points), size))
    return [
        copying("".join(f"{run_id}\t" + "\t".join(map(repr, row)) + "\n" for row in batch).encode())
        for batch in batches
    ]


def recorded(run_id: int, points: Sequence[Point], size: int) -> list[Write]:
    """What a worker does for each batch."""

    def recording_of(batch: recording.Batch) -> Write:
        def write(connection: Connection) -> None:
            stored = recording.record(connection, run_id, 1, batch)
            assert stored.points == len(batch.points)

        return write

    return [
        recording_of(recording.Batch(points=points[first : first + size]))
        for first in range(0, len(points), size)
    ]


def new_runs(engine: Engine, count: int) -> list[int]:
    """Runs that this benchmark holds, at attempt 1."""
    with engine.begin() as connection:
        project = projects.ensure(connection, "benchmark")
        there = connection.scalar(text("select count(*) from runs"))
        new = [runs.NewRun(project.id, f"run {there} {i}", status="queued") for i in range(count)]
        ids = runs.create_many(connection, new)
        assert [recording.claim_run(connection, one, "benchmark") for one in ids] == [1] * count
    return ids


def together(engine: Engine, writers: int, way: Callable[[int], list[Write]]) -> float:
    """CPU seconds of threads that write, each to a run of its own, and of the whole server."""
    ids = new_runs(engine, writers)
    with engine.connect() as connection:
        backend = psutil.Process(connection.scalar(text("select pg_backend_pid()")))
    postmaster = backend.parent()
    assert postmaster is not None
    barrier = threading.Barrier(writers + 1)

    def work(writes: list[Write]) -> None:
        with engine.connect() as connection:
            connection.execute(text("select 1"))
            connection.commit()
            barrier.wait()
            barrier.wait()
            for write in writes:
                with connection.begin():
                    write(connection)
            barrier.wait()  # a connection that closes takes its backend's clock with it
            barrier.wait()

    threads = [threading.Thread(target=work, args=(way(run_id),)) for run_id in ids]
    for thread in threads:
        thread.start()
    barrier.wait()
    before = time.process_time() + server_seconds(postmaster)
    barrier.wait()
    barrier.wait()
    used = time.process_time() + server_seconds(postmaster) - before
    barrier.wait()
    for thread in threads:
        thread.join()
    return used


def server_seconds(postmaster: psutil.Process) -> float:
    return sum(sum(child.cpu_times()[:2]) for child in postmaster.children())


def by_the_clock(engine: Engine, n: int, size: int) -> float:
    """Points a second of 16 threads in processes of their own, as workers are."""
    ids = new_runs(engine, WRITERS)
    url = engine.url.render_as_string(hide_password=False)
    fork = multiprocessing.get_context("spawn")
    ready, go = fork.Barrier(PROCESSES + 1), fork.Barrier(PROCESSES + 1)
    each = WRITERS // PROCESSES
    workers = [
        fork.Process(
            target=write_in_process,
            args=(url, ids[i * each : (i + 1) * each], n // WRITERS, size, ready, go),
        )
        for i in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    before = time.monotonic()
    go.wait()
    for worker in workers:
        worker.join()
    took = time.monotonic() - before
    with engine.connect() as connection:
        stored = connection.scalar(
            text("select count(*) from curve_points where run_id = any(:ids)"), {"ids": ids}
        )
    assert stored == n // WRITERS * WRITERS, "a point is missing, or there twice"
    return stored / took


def write_in_process(
    url: str, ids: list[int], n: int, size: int, ready: threading.Barrier, go: threading.Barrier
) -> None:
    engine = create_engine(url, pool_size=len(ids))
    ways = [recorded(run_id, points_of(n), size) for run_id in ids]

    def work(writes: list[Write]) -> None:
        for write in writes:
            with engine.begin() as connection:
                write(connection)

    threads = [threading.Thread(target=work, args=(writes,)) for writes in ways]
    ready.wait()
    go.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()


def missing() -> None:
    raise AssertionError("not every point was stored")


if __name__ == "__main__":
    main()
