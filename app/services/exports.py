"""A project's runs and curves as files: CSV that `imports` takes again, and Parquet."""

import csv
import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from sqlalchemy import Connection

from app.services import fits, projects
from app.services.fits import FitRequest, Select
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


@dataclass(frozen=True)
class RunsFile:
    """What `write_runs` wrote; `options` are those to import it with."""

    n_runs: int
    options: dict[str, str]


def write_runs(
    connection: Connection,
    project: str | int,
    validation_set: str,
    file: Path,
    *,
    recipe: str | None = None,
    n_convention: str = "total",
) -> RunsFile:
    """The runs that a fit to `validation_set` would take, as a CSV from which an import makes the
    same points: run, every input that all of them know, loss, FLOPs and how all that was counted.

    run is what a fit resamples together: a run's name, or, of the branches of one trunk, the
    trunk's; name and run_id say which one it is. Refuses, as a fit does, runs of several recipes,
    loss units or none at all (ServiceError).
    """
    select = Select(recipe=recipe, n_convention=n_convention)
    selected = fits.select_runs(connection, None, FitRequest("", project, validation_set, select))
    runs, known = selected.runs, {run.id: run for run in runs_of(connection, project)}
    chosen = [known[run_id] for run_id in selected.run_ids]
    columns: dict[str, Sequence[Any]] = {
        "run": [_together(run, known) for run in chosen],
        "name": [run.name for run in chosen],
        "run_id": [run.id for run in chosen],
        **{name: values.tolist() for name, values in runs.inputs.items() if name != "C"},
        "loss": runs.loss.tolist(),
    }
    if all(run.steps for run in chosen):
        columns["step"] = [run.steps for run in chosen]
    if runs.flops is not None:
        columns["flops"] = runs.flops.tolist()
    for name in ("n_convention", "flops_convention", "loss_unit"):
        columns[name] = [getattr(runs, name)] * len(chosen)
    with _whole(file) as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    options = {"validation_set": validation_set, "recipe": chosen[0].recipe}
    return RunsFile(len(chosen), {name: said for name, said in options.items() if said})


def _together(run: stored_runs.Run, known: dict[int, stored_runs.Run]) -> str:
    if run.kind == "branch" and run.parent_run_id in known:
        return known[run.parent_run_id].name
    return str((run.config or {}).get("run") or run.name)


def write_curves_csv(
    connection: Connection,
    project: str | int,
    file: Path,
    *,
    report: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Every stored point of every run of the project as one CSV that an import takes: run, step,
    loss, and tokens, lr and N where every point has them. (runs, points) that were written.

    In bounded memory, so the points are read twice: first for what all of them have.
    """
    runs = list(runs_of(connection, project))
    has = {"tokens": True, "lr": True, "N": all(run.n_total for run in runs)}
    for run in runs:
        for chunk in _chunks(connection, run.id):
            has["tokens"] &= bool(np.isfinite(chunk.tokens).all())
            has["lr"] &= bool(np.isfinite(chunk.lr).all())
    n_runs = n_points = 0
    with _whole(file) as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["run", "step", "loss", *(name for name, all_have in has.items() if all_have)]
        )
        for run in reversed(runs):
            before = n_points
            for chunk in _chunks(connection, run.id):
                columns: list[Sequence[Any]] = [
                    [run.name] * len(chunk.step),
                    chunk.step.tolist(),
                    chunk.loss.tolist(),
                ]
                columns += [getattr(chunk, name).tolist() for name in ("tokens", "lr") if has[name]]
                if has["N"]:
                    columns.append([run.n_total] * len(chunk.step))
                writer.writerows(zip(*columns, strict=True))
                n_points += len(chunk.step)
            if n_points > before:
                n_runs += 1
                if report is not None:
                    report(n_runs, n_points)
    return n_runs, n_points


@contextmanager
def _whole(file: Path) -> Iterator[TextIO]:
    """A text to write that appears as `file` when it is whole; packed where its name says .gz."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    packed = file.suffix == ".gz"
    opened = gzip.open if packed else open
    with opened(part, "wt", newline="", encoding="utf-8") as stream:
        yield stream
    part.replace(file)


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
