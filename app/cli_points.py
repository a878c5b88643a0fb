"""Runs, points and fits from the files that commands read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli_output import Refused, read_json, warn

if TYPE_CHECKING:
    from fitting import Fit, Law, Runs


def runs_of(
    law: "Law | Sequence[str]",
    file: Path,
    columns: Mapping[str, str],
    options: Mapping[str, str | None],
    drop_highest: int = 0,
    *,
    quiet: bool = False,
) -> "Runs":
    """The points of a file for a law, or with the inputs that are named; `drop_highest` masks
    that many of the largest losses. A C without a column is taken from N and D (and the FLOPs, if
    the file has them), or from the FLOPs alone. What is strange about the file is said, or not
    (`quiet`)."""
    from app.importers import read, to_runs

    names = list(law if isinstance(law, Sequence) else law.input_names)
    columns = dict(columns)
    if derived := "C" in names and column_in(file, "C", columns) is None:
        flops = column_in(file, "flops", columns)
        if all(column_in(file, name, columns) for name in ("N", "D")):
            names = list(dict.fromkeys(["N", "D", *(name for name in names if name != "C")]))
        elif flops is not None:
            columns["C"] = flops
    measured = read(
        file,
        kind="points",
        inputs=names,
        columns=columns,
        **{name: value for name, value in options.items() if value is not None},
    )
    for sentence in () if quiet else measured.warnings:
        warn("file", sentence)
    runs = to_runs(measured)
    if derived:
        runs = runs.with_compute()
    if not drop_highest:
        return runs
    if drop_highest >= runs.n_used:
        raise Refused(
            f"--drop-highest {drop_highest} leaves none of the {runs.n_used} points.", "Drop fewer."
        )
    import numpy as np

    from fitting import Runs

    left = np.flatnonzero(runs.used)
    highest = left[np.argsort(runs.loss[left], kind="stable")[-drop_highest:]]
    return Runs(
        runs.inputs,
        runs.loss,
        run=runs.group,
        weights=runs.weights,
        masked=runs.masked
        | {int(row): f"one of the {drop_highest} highest losses" for row in highest},
        n_convention=runs.n_convention,
        flops_convention=runs.flops_convention,
        loss_unit=runs.loss_unit,
        flops=runs.flops,
    )


def inputs_in(file: Path, columns: Mapping[str, str]) -> list[str]:
    """The inputs, of all laws, that the file has a column for."""
    from fitting import LAWS

    every = dict.fromkeys(name for law in LAWS.values() for name in law.input_names)
    return [name for name in every if column_in(file, name, columns) is not None]


def column_in(file: Path, field: str, columns: Mapping[str, str]) -> str | None:
    """The column of the file that holds a field, if there is one."""
    from app.importers import opened_table
    from app.importers.columns import find_column

    with opened_table(file) as table:
        return find_column(field, table.header, columns, header_row=table.header_row)


def read_fit(path: Path) -> "Fit":
    """A fit from the file that `fit --out` wrote."""
    import fitting

    return fitting.Fit.from_dict(read_json(path, "a fit"))


def read_points(path: Path, law: "Law", columns: Mapping[str, str]) -> dict[str, list[float]]:
    """The law's inputs from a CSV or JSONL; the loss need not be there."""
    from app.importers import cells, opened_table
    from app.importers.columns import need_column

    with opened_table(path) as table:
        names = {
            name: need_column(name, table.header, columns, header_row=table.header_row)
            for name in law.input_names
        }
        points: dict[str, list[float]] = {name: [] for name in names}
        for row, record in table.rows:
            for one in law.inputs:
                read = cells.positive if one.positive else cells.number
                points[one.name].append(read(record.get(names[one.name]), row, names[one.name]))
    if not points[law.input_names[0]]:
        raise Refused(f"{path} has no points.", f"Give a row a point: {','.join(names)}.")
    return points


def read_columns(
    file: Path, fields: Sequence[str], chosen: Mapping[str, str], label: str | None = None
) -> dict[str, list[Any]]:
    """{field: values} of a CSV or JSONL: numbers, and words for the one called `label`."""
    from app.importers import cells, opened_table
    from app.importers.columns import need_column

    with opened_table(file) as table:
        wanted = [*fields, *([label] if label else [])]
        names = {
            field: need_column(field, table.header, chosen, header_row=table.header_row)
            for field in wanted
        }
        found: dict[str, list[Any]] = {field: [] for field in wanted}
        for row, record in table.rows:
            for field, name in names.items():
                cell = record.get(name)
                found[field].append(str(cell) if field == label else cells.number(cell, row, name))
    return found
