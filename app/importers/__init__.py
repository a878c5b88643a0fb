"""The formats that people keep their runs in. Pure parsing: no database, no network.

    runs = read_runs("runs.csv")                       # fitting.Runs, ready to fit
    measured = read(stream, format="jsonl")            # what the service stores

A source is read whole or refused whole, with the row, the value and the remedy.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from app.errors import ServiceError
from app.importers import csv, curves, jsonl, points
from app.importers.columns import find_column
from app.importers.lines import unpacked
from app.importers.measured import (
    FLOPS_CONVENTIONS,
    LOSS_UNITS,
    N_CONVENTIONS,
    Conventions,
    Measured,
    MeasuredCurve,
    MeasuredPoint,
)
from app.importers.table import Table
from fitting import Runs

FORMATS = ("csv", "jsonl")
Kind = Literal["auto", "points", "curves"]

__all__ = [
    "FORMATS",
    "Conventions",
    "Measured",
    "MeasuredCurve",
    "MeasuredPoint",
    "format_of",
    "opened",
    "opened_table",
    "read",
    "read_rows",
    "read_runs",
    "to_runs",
]


def format_of(filename: str) -> str:
    """csv or jsonl, by the name's ending; csv where the ending says nothing."""
    endings = [ending.lower() for ending in Path(filename).suffixes]
    return "jsonl" if {".jsonl", ".ndjson", ".json"} & set(endings) else "csv"


def read(
    source: str | Path | BinaryIO,
    *,
    format: str | None = None,
    kind: Kind = "auto",
    inputs: Sequence[str] = ("N", "D"),
    also: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    n_convention: str | None = None,
    flops_convention: str | None = None,
    loss_unit: str | None = None,
) -> Measured:
    """A path or a binary stream -> checked points or curves.

    kind "auto" reads points where N and D both have a column, else curves where step has one.
    also: further inputs of laws, read where every row has them (`points.read`).
    Raises ServiceError (kind "invalid" or "too_large") on the first thing that is wrong.
    """
    with opened_table(source, format) as table:
        return _read_table(
            table, kind, inputs, also, columns, n_convention, flops_convention, loss_unit
        )


def read_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    kind: Kind = "auto",
    inputs: Sequence[str] = ("N", "D"),
    also: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    n_convention: str | None = None,
    flops_convention: str | None = None,
    loss_unit: str | None = None,
) -> Measured:
    """The same from rows that are already objects (a request's body); they are numbered from 1."""
    table = jsonl.read_rows(rows)
    return _read_table(
        table, kind, inputs, also, columns, n_convention, flops_convention, loss_unit
    )


def read_runs(source: str | Path | BinaryIO, **options: Any) -> Runs:
    """Points of a file as `fitting.Runs`; the options are those of `read`."""
    return to_runs(read(source, **{"kind": "points", **options}))


def to_runs(measured: Measured) -> Runs:
    """Points -> `fitting.Runs`. Rows without a run label are runs of their own."""
    if not measured.points:
        raise ServiceError(
            "invalid",
            "These are curves (run, step, loss), and a law of N and D is fitted to points.",
            "Give one row a run with its N, D and final loss.",
        )
    names = measured.points[0].inputs.keys()
    labels = [point.run for point in measured.points]
    flops = [point.flops for point in measured.points]
    weights = [point.weight for point in measured.points]
    return Runs(
        inputs={
            name: np.array([point.inputs[name] for point in measured.points], dtype=np.float64)
            for name in names
        },
        loss=np.array([point.loss for point in measured.points], dtype=np.float64),
        run=None if labels[0] is None else np.array(labels),
        flops=None if flops[0] is None else np.array(flops, dtype=np.float64),
        weights=None if weights[0] is None else np.array(weights, dtype=np.float64),
        masked={i: point.left_out for i, point in enumerate(measured.points) if point.left_out},
        n_convention=measured.conventions.n_convention,
        flops_convention=measured.conventions.flops_convention,
        loss_unit=measured.conventions.loss_unit,
    )


def _read_table(
    table: Table,
    kind: Kind,
    inputs: Sequence[str],
    also: Sequence[str],
    columns: Mapping[str, str] | None,
    n_convention: str | None,
    flops_convention: str | None,
    loss_unit: str | None,
) -> Measured:
    for name, given, known in (
        ("n_convention", n_convention, N_CONVENTIONS),
        ("flops_convention", flops_convention, FLOPS_CONVENTIONS),
        ("loss_unit", loss_unit, LOSS_UNITS),
    ):
        if given is not None and given not in known:
            raise ServiceError(
                "invalid",
                f"{given!r} is no {name}.",
                f"Use one of {', '.join(known)}.",
                column=name,
                value=given,
            )
    if kind == "auto":
        kind = _kind_of(table, inputs, columns or {})
    if kind == "curves":
        return curves.read(table, columns=columns, n_convention=n_convention, loss_unit=loss_unit)
    return points.read(
        table,
        inputs=inputs,
        also=also,
        columns=columns,
        n_convention=n_convention,
        flops_convention=flops_convention,
        loss_unit=loss_unit,
    )


def _kind_of(table: Table, inputs: Sequence[str], columns: Mapping[str, str]) -> Kind:
    def has(name: str) -> bool:
        found = find_column(name, table.header, columns, header_row=table.header_row)
        return found is not None

    if all(has(name) for name in inputs):
        return "points"
    return "curves" if has("step") else "points"


@contextmanager
def opened_table(source: str | Path | BinaryIO, format: str | None = None) -> Iterator[Table]:
    """The table in a file or a stream; without a format, the one that a path's name says, or csv.

    Its rows are read as they are asked for, so inside the `with`.
    """
    if format is None:
        format = format_of(str(source)) if isinstance(source, str | Path) else "csv"
    if format not in FORMATS:
        raise ServiceError(
            "invalid",
            f"{format!r} is no format.",
            f"Use one of {', '.join(FORMATS)}.",
            value=format,
        )
    with opened(source) as stream:
        yield csv.read(stream) if format == "csv" else jsonl.read(stream)


@contextmanager
def opened(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """The text of a file or a stream, unpacked where it begins as gzip does."""
    if not isinstance(source, str | Path):
        with _refusing_half_a_gzip("The file"):
            yield unpacked(source)
        return
    path = Path(source)
    try:
        with path.open("rb") as stream, _refusing_half_a_gzip(str(path)):
            yield unpacked(stream)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ServiceError(
            "not_found", f"{path} cannot be read: {error.strerror}.", "Check the path."
        ) from None


@contextmanager
def _refusing_half_a_gzip(name: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ServiceError(
            "invalid", f"{name} is not a whole gzip file: {error}.", "Compress it again."
        ) from None
