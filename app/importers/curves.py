"""A long table of (run, step, loss[, lr, tokens, N]) with one row a step -> `Measured` curves."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from app.errors import ServiceError
from app.importers import cells
from app.importers.columns import BITS_PER_BYTE_NAMES, find_column, need_column, plain
from app.importers.measured import LOSS_UNITS, Conventions, Measured, MeasuredCurve
from app.importers.points import _Said
from app.importers.table import Table

ONLY_RUN = "run"


@dataclass
class _Growing:
    row: int
    at: dict[int, tuple[tuple[float, ...], int]] = field(default_factory=dict)
    n: float | None = None


def read(
    table: Table,
    *,
    columns: Mapping[str, str] | None = None,
    n_convention: str | None = None,
    loss_unit: str | None = None,
) -> Measured:
    """Every curve of the table, by increasing step, or a refusal that names the first bad row.

    A table without a run column is one run. (run, step) may come twice with the same values (it
    is kept once), not with others. N, where there is such a column, is one number a run.
    """
    chosen = dict(columns or {})
    header, header_row = table.header, table.header_row
    step_column = need_column("step", header, chosen, header_row=header_row)
    loss_column = need_column("loss", header, chosen, header_row=header_row)
    run_column, lr_column, tokens_column, n_column = (
        find_column(name, header, chosen, header_row=header_row)
        for name in ("run", "lr", "tokens", "N")
    )
    unit = _Said("loss_unit", LOSS_UNITS, table, chosen)

    runs: dict[str, _Growing] = {}
    repeated = 0
    for row, record in table.rows:
        name = cells.label(record.get(run_column), row, run_column) if run_column else ONLY_RUN
        step = cells.step(record.get(step_column), row, step_column)
        values = [cells.positive(record.get(loss_column), row, loss_column)]
        if lr_column:
            values.append(cells.not_negative(record.get(lr_column), row, lr_column))
        if tokens_column:
            values.append(cells.not_negative(record.get(tokens_column), row, tokens_column))
        unit.hear(record, row)
        run = runs.setdefault(name, _Growing(row))
        before = run.at.setdefault(step, (tuple(values), row))
        if before[1] != row:
            if before[0] != tuple(values):
                raise ServiceError(
                    "invalid",
                    f"Row {row} gives step {step} of run {name!r} loss {values[0]!r}, row "
                    f"{before[1]} gives it {before[0][0]!r} (or another lr or tokens).",
                    "Keep one row a step; runs that were restarted need the later rows dropped.",
                    row=row,
                    column=loss_column,
                    value=values[0],
                )
            repeated += 1
        if n_column:
            n = cells.positive(record.get(n_column), row, n_column)
            if run.n is not None and n != run.n:
                raise ServiceError(
                    "invalid",
                    f"Row {row} gives run {name!r} N = {n!r}, an earlier row gives {run.n!r}.",
                    "A run has one size: give the other size a run of its own.",
                    row=row,
                    column=n_column,
                    value=n,
                )
            run.n = n
    if not runs:
        raise ServiceError(
            "invalid",
            "There is a header and no rows.",
            "Give one row a step of a run.",
            row=(header_row or 0) + 1,
        )
    found = {"run": run_column, "step": step_column, "loss": loss_column}
    found |= {"lr": lr_column, "tokens": tokens_column, "N": n_column}
    return Measured(
        table.format,
        table.digest(),
        Conventions(
            n_convention or "total",
            "6ND",
            loss_unit
            or unit.value
            or ("bits/byte" if plain(loss_column) in BITS_PER_BYTE_NAMES else "nats/token"),
        ),
        curves=tuple(
            _curve(name, run, bool(lr_column), bool(tokens_column)) for name, run in runs.items()
        ),
        columns={name: column for name, column in found.items() if column},
        repeated_rows=repeated,
    )


def _curve(name: str, run: _Growing, has_lr: bool, has_tokens: bool) -> MeasuredCurve:
    steps = np.array(sorted(run.at), dtype=np.int64)
    values = np.array([run.at[int(step)][0] for step in steps], dtype=np.float64)
    return MeasuredCurve(
        row=run.row,
        run=name,
        step=steps,
        loss=values[:, 0],
        lr=values[:, 1] if has_lr else None,
        tokens=values[:, 1 + has_lr] if has_tokens else None,
        inputs={} if run.n is None else {"N": run.n},
    )
