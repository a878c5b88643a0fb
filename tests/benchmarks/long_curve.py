"""A curve of a million points, plotted from cold, against 1 s.

    python -m tests.benchmarks.long_curve [--points 1000000]

One run that has finished and one that still trains, each with a gradient norm at every step. For
each request Postgres and the API are started anew, so that neither has anything in memory (the
system's own cache of files stays). Printed are seconds by the clock and CPU seconds of both;
judged is the CPU, because other work on the machine does not count in it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from sqlalchemy import Connection

from app.settings import Settings
from app.storage import curves, embedded, migrate, projects, recording, runs
from app.storage.engine import make_engine
from tests.benchmarks.big_project import served

LIMIT_SECONDS = 1.0
PIECE = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalewright-curve-") as name:
        Path(name).chmod(0o755)
        settings = Settings(data_dir=Path(name), database_url=None)
        try:
            migrate.upgrade(settings)
            engine = make_engine(settings)
            with engine.begin() as connection:
                ids = {ended: make(connection, ended, given.points) for ended in (True, False)}
            engine.dispose()
            for ended, run_id in ids.items():
                for path in (
                    f"/v1/runs/{run_id}/curve",
                    f"/runs/{run_id}/figure.json",
                    f"/runs/{run_id}",
                ):
                    embedded.stop(settings)
                    with served(settings) as (client, clock):
                        before, began = clock(), time.monotonic()
                        answer = client.get(path)
                        took, used = time.monotonic() - began, clock() - before
                    answer.raise_for_status()
                    print(
                        f"{'finished' if ended else 'training'}: {path:24} {took:6.2f} s "
                        f"{used:6.2f} CPU s  {'ok' if used <= LIMIT_SECONDS else 'MISSED'}",
                        flush=True,
                    )
        finally:
            embedded.stop(settings)


def make(connection: Connection, ended: bool, n: int) -> int:
    """A run of n points, recorded as a worker does."""
    project = projects.ensure(connection, "long")
    new = runs.NewRun(project.id, f"ended {ended}", status="queued", steps=n)
    run_id = runs.create(connection, new).id
    attempt = recording.claim_run(connection, run_id, "benchmark")
    assert attempt is not None
    rng = np.random.default_rng(0)
    for first in range(1, n + 1, PIECE):
        step = np.arange(first, min(first + PIECE, n + 1))
        loss = 2 + 8 * step**-0.3 * np.exp(0.02 * rng.standard_normal(len(step)))
        points = list(zip(step.tolist(), (1e3 * step).tolist(), loss.tolist(),
                          [1e-3] * len(step), strict=True))  # fmt: skip
        norms = {"grad_norm": list(zip(step.tolist(), loss.tolist(), strict=True))}
        recording.record(connection, run_id, attempt, recording.Batch(points, norms))
    if ended:
        recording.finish_run(connection, run_id, attempt)
        curves.roll_up(connection, run_id)
    return run_id


if __name__ == "__main__":
    main()
