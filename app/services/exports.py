"""A project's curves as Parquet: one file a run, in bounded memory."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import projects
from app.storage import curves
from app.storage import runs as stored_runs

CHUNK_POINTS = 100_000  # in memory at once, and of a row group


def runs_of(connection: Connection, project: str | int) -> Iterator[stored_runs.Run]:
    """Every run of a project, newest first, a page at a time."""
    project_id = projects.resolve(connection, project).id
    after: int | None = None
    while True:
        page = stored_runs.page(connection, project_id=project_id, after=after, limit=500)
        yield from page.items
        if page.next is None:
            return
        after = page.next


def write_curves(
    connection: Connection,
    project: str | int,
    folder: Path,
    *,
    report: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Every stored point of every run of the project, into folder/<id>-<name>.parquet.

    Columns: run_id, step, tokens, loss, lr; the run's name, and what it is, in the file's metadata.
    A file appears when it is whole, and one that is there already is written anew. Runs without
    points have none. Needs pyarrow. (runs, points) that were written; `report` hears them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_runs = n_points = 0
    for run in runs_of(connection, project):
        final = folder / f"{run.id}-{re.sub(r'[^A-Za-z0-9._-]+', '_', run.name)[:100]}.parquet"
        part = final.with_suffix(".part")
        schema = pa.schema(
            [("run_id", pa.int64()), ("step", pa.int64()), ("tokens", pa.float64()),
             ("loss", pa.float64()), ("lr", pa.float64())],
            metadata=_facts(run),
        )  # fmt: skip
        writer = None
        for chunk in _chunks(connection, run.id):
            if writer is None:
                folder.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(part, schema, compression="zstd")
            columns = [np.full(len(chunk.step), run.id), chunk.step.astype(np.int64)]
            arrays = [pa.array(column) for column in columns]
            arrays += [
                pa.array(column, from_pandas=True)  # NaN, not known, is null
                for column in (chunk.tokens, chunk.loss, chunk.lr)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            n_points += len(chunk.step)
        if writer is not None:
            writer.close()
            part.replace(final)
            n_runs += 1
            if report is not None:
                report(n_runs, n_points)
    return n_runs, n_points


def _chunks(connection: Connection, run_id: int) -> Iterator[curves.Curve]:
    """A run's points by step, in pieces that the primary key finds at once."""
    after: int | None = None
    while True:
        chunk = curves.read_points(connection, run_id, after_step=after, limit=CHUNK_POINTS)
        if len(chunk.step):
            yield chunk
        if len(chunk.step) < CHUNK_POINTS:
            return
        after = int(chunk.step[-1])


def _facts(run: stored_runs.Run) -> dict[str, str]:
    known: dict[str, Any] = {
        "name": run.name, "status": run.status, "kind": run.kind, "recipe": run.recipe,
        "N": run.n_total, "D": run.tokens, "steps": run.steps, "flops_exact": run.flops_exact,
        "flops_6nd": run.flops_6nd,
    }  # fmt: skip
    return {key: str(value) for key, value in known.items() if value is not None}
