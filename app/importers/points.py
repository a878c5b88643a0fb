"""A table of (N, D, loss[, run, flops, step, ...]) with one row a run -> `Measured` points."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from app.errors import ServiceError
from app.importers import cells
from app.importers.columns import (
    BITS_PER_BYTE_NAMES,
    NAMES_THAT_SAY_THE_CONVENTION,
    find_column,
    need_column,
    plain,
)
from app.importers.measured import (
    FLOPS_CONVENTIONS,
    LOSS_UNITS,
    N_CONVENTIONS,
    Conventions,
    Measured,
    MeasuredPoint,
)
from app.importers.table import Table

# A column of FLOPs within this of 6 N D on every row was computed so.
SIX_N_D_TOLERANCE = 0.01
# Guess: nobody trains so little; parameters in millions, or tokens in billions, are below.
LEAST = {"N": (1e4, "parameters", "millions or billions"), "D": (1e5, "tokens", "billions")}
# Guess: nobody evaluates a run at so many steps and calls each one a run.
LIKE_CURVES = 20
# Guess: counting N otherwise, experts that are not active, or attention explain a factor of some
# hundreds; tera-, exa- or petaFLOP-days are off by 1e12 and more.
OTHER_UNIT = 1000.0


def read(
    table: Table,
    *,
    inputs: Sequence[str] = ("N", "D"),
    also: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    n_convention: str | None = None,
    flops_convention: str | None = None,
    loss_unit: str | None = None,
) -> Measured:
    """Every row of the table, or a refusal that names the first bad one.

    inputs   the law's inputs, each of which must have a column
    also     inputs that are read where a column of just that name has a positive number in every
             row; where `columns` names one, it must
    columns  {field: column} where the usual names do not serve; `weight` and `left_out` (a reason,
             empty where the row is fitted) are read only where they are named here
    The conventions are taken from the arguments, else from columns of that name (which must agree
    from row to row), else from what the names and numbers say, else the defaults.

    A run that is named twice with the same inputs and the same loss is kept once; with another
    loss the table contradicts itself and is refused.
    """
    chosen = dict(columns or {})
    header, header_row = table.header, table.header_row
    input_columns = {
        name: need_column(name, header, chosen, header_row=header_row) for name in inputs
    }
    input_columns |= {
        name: need_column(name, header, chosen, header_row=header_row)
        for name in also
        if name in chosen
    }
    loss_column = need_column("loss", header, chosen, header_row=header_row)
    run_column, flops_column, step_column = (
        find_column(name, header, chosen, header_row=header_row)
        for name in ("run", "flops", "step")
    )
    weight_column, left_out_column = (
        find_column(name, header, chosen, header_row=header_row) if name in chosen else None
        for name in ("weight", "left_out")
    )
    said = {
        "n_convention": _Said("n_convention", N_CONVENTIONS, table, chosen),
        "flops_convention": _Said("flops_convention", FLOPS_CONVENTIONS, table, chosen),
        "loss_unit": _Said("loss_unit", LOSS_UNITS, table, chosen),
    }
    used = {*input_columns.values(), loss_column, run_column, flops_column, step_column}
    # by their exact names: what is called s or g may be anything
    maybe = [name for name in also if name in header and name not in {*input_columns, *used}]

    points: list[MeasuredPoint] = []
    seen: dict[tuple[Any, ...], tuple[float, int]] = {}
    repeated = wrapped = 0
    for row, record in table.rows:
        values = {
            name: cells.positive(record.get(column), row, column)
            for name, column in input_columns.items()
        }
        loss = cells.positive(record.get(loss_column), row, loss_column)
        run = cells.label(record.get(run_column), row, run_column) if run_column else None
        flops = None
        if flops_column:
            flops = cells.number(record.get(flops_column), row, flops_column)
            if is_wrapped(flops, values):
                wrapped += 1
            else:
                cells.positive(record.get(flops_column), row, flops_column)
        step = cells.step(record.get(step_column), row, step_column) if step_column else None
        for convention in said.values():
            convention.hear(record, row)
        if run is not None:
            key = (run, step, *values.values())
            before = seen.setdefault(key, (loss, row))
            if before[1] != row:
                if before[0] != loss:
                    raise ServiceError(
                        "invalid",
                        f"Row {row} says that run {run!r} has loss {loss!r}, row {before[1]} says "
                        f"{before[0]!r} at the same inputs.",
                        "Keep one of the two; runs that differ by their seed need names that do.",
                        row=row,
                        column=loss_column,
                        value=loss,
                    )
                repeated += 1
                continue
        extra = {
            name: str(cell)[: cells.MAX_NAME]
            for name, cell in record.items()
            if name not in used and cell not in (None, "") and _short_text(name, cell)
        }
        weight = None
        if weight_column:
            weight = cells.not_negative(record.get(weight_column), row, weight_column)
        reason = str(record.get(left_out_column) or "").strip() if left_out_column else ""
        points.append(
            MeasuredPoint(
                row, run, values, loss, flops, step, extra, weight, reason[: cells.MAX_NAME] or None
            )
        )
    if not points:
        raise ServiceError(
            "invalid",
            "There is a header and no rows.",
            "Give one row a run.",
            row=(header_row or 0) + 1,
        )
    warnings: tuple[str, ...] = ()
    if wrapped:
        # of such a column no row is to be trusted
        points = [replace(point, flops=None) for point in points]
        warnings = (
            f"Column {flops_column!r} is 6 N D that overflowed 64-bit integers on {wrapped} of "
            f"{len(points)} rows; it was left out, and compute is 6 N D in floats.",
        )
    elif off := _far_from_six_n_d(points):
        warnings = (
            f"Column {flops_column!r} is {off:.2g} times 6 N D in the middle of the rows: are "
            "these FLOPs, and N parameters, and D tokens? They are kept as they are.",
        )
    for name, (least, unit, rather) in LEAST.items():
        largest = max(point.inputs.get(name, least) for point in points)
        if largest < least:
            warnings += (
                f"The largest {name} is {largest:g} {unit}: is column {input_columns[name]!r} in "
                f"{rather}? It is kept as it is, and so a prediction asks for {name} in that unit.",
            )
    labels = {point.run for point in points}
    if run_column and step_column and len(points) >= LIKE_CURVES * len(labels):
        warnings += (
            f"{len(points)} rows of {len(labels)} runs at {len(points) / len(labels):.0f} steps "
            "each were read as that many finished runs, for N and D have columns: if these are "
            "training curves, delete this import and say kind curves (`--kind curves`).",
        )
    points, brought = _with_inputs(points, maybe)
    conventions = Conventions(
        n_convention
        or said["n_convention"].value
        or NAMES_THAT_SAY_THE_CONVENTION.get(plain(input_columns.get("N", "")), "total"),
        flops_convention or said["flops_convention"].value or _flops_convention(points),
        loss_unit
        or said["loss_unit"].value
        or ("bits/byte" if plain(loss_column) in BITS_PER_BYTE_NAMES else "nats/token"),
    )
    found = {**input_columns, **brought, "loss": loss_column}
    optional = {"run": run_column, "flops": flops_column, "step": step_column}
    found.update({name: column for name, column in optional.items() if column})
    return Measured(
        table.format,
        table.digest(),
        conventions,
        points=tuple(points),
        columns=found,
        repeated_rows=repeated,
        warnings=warnings,
    )


def _with_inputs(
    points: list[MeasuredPoint], maybe: Sequence[str]
) -> tuple[list[MeasuredPoint], dict[str, str]]:
    """The points with the columns as inputs that hold a positive number in every row, and which."""
    brought = {}
    for name in maybe:
        try:
            values = [cells.positive(one.extra.get(name), one.row, name) for one in points]
        except ServiceError:
            continue  # it stays what it was: a column that is kept and not computed with
        brought[name] = name
        points = [
            replace(
                point,
                inputs={**point.inputs, name: value},
                extra={key: cell for key, cell in point.extra.items() if key != name},
            )
            for point, value in zip(points, values, strict=True)
        ]
    return points, brought


class _Said:
    """A convention that a column states: one value for the whole table, or a refusal."""

    def __init__(
        self, name: str, known: Sequence[str], table: Table, chosen: Mapping[str, str]
    ) -> None:
        self.name, self.known = name, known
        self.column = find_column(name, table.header, chosen, header_row=table.header_row)
        self.value: str | None = None
        self.row = 0

    def hear(self, record: Mapping[str, Any], row: int) -> None:
        if self.column is None:
            return
        said = cells.label(record.get(self.column), row, self.column)
        if said not in self.known:
            raise ServiceError(
                "invalid",
                f"Row {row}: {said!r} is no {self.name}.",
                f"Use one of {', '.join(self.known)}.",
                row=row,
                column=self.column,
                value=said,
            )
        if self.value is None:
            self.value, self.row = said, row
        elif said != self.value:
            raise ServiceError(
                "invalid",
                f"Row {row} has {self.name} {said}, row {self.row} has {self.value}.",
                "Import each convention by itself, or convert the rows to one.",
                row=row,
                column=self.column,
                value=said,
            )


def is_wrapped(flops: float, inputs: Mapping[str, float]) -> bool:
    """True where `flops` is 6 N D computed in int64 and past its end (Gadre et al.'s table)."""
    if not {"N", "D"} <= inputs.keys() or 6.0 * inputs["N"] * inputs["D"] < 2.0**63:
        return False
    exact = 6 * int(inputs["N"]) * int(inputs["D"])
    around = (exact + 2**63) % 2**64 - 2**63
    # a float holds 53 of the 63 bits
    return abs(flops - around) <= 2.0**11


def _far_from_six_n_d(points: Sequence[MeasuredPoint]) -> float | None:
    """The median of FLOPs / 6 N D where no way to count can explain it, so it is another unit."""
    ratios = [
        point.flops / (6.0 * point.inputs["N"] * point.inputs["D"])
        for point in points
        if point.flops is not None and {"N", "D"} <= point.inputs.keys()
    ]
    middle = median(ratios) if ratios else 1.0
    return None if 1 / OTHER_UNIT < middle < OTHER_UNIT else middle


def _flops_convention(points: Sequence[MeasuredPoint]) -> str:
    """6ND where there is no column of FLOPs or it says 6 N D on every row; else exact."""
    for point in points:
        if point.flops is None or not {"N", "D"} <= point.inputs.keys():
            continue
        six_n_d = 6.0 * point.inputs["N"] * point.inputs["D"]
        if abs(point.flops - six_n_d) > SIX_N_D_TOLERANCE * six_n_d:
            return "exact"
    return "6ND"


def _short_text(name: str, cell: Any) -> bool:
    return (
        cells.storable(name)
        and len(name) <= cells.MAX_NAME
        and isinstance(cell, str | int | float | bool)
        and cells.storable(str(cell))
    )
