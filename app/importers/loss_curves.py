"""Whole loss curves from files, for the laws of `fitting.curves`.

Either one CSV a run, or one long table with a column `run`; gzipped or not. Columns: step, loss,
and lr where there is no schedule file. A schedule file (JSON) is {run: SCHEDULE}; a run without an
entry gets straight lines between its logged rates.

Continual pre-training: more columns, kind (pretrain | continual), parent, parent_step,
replay_ratio, domain (the validation set), role (fit | held_out | repeat).
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.importers import opened
from fitting.curves import ContinualCurve, Curve, Schedule, as_schedule
from fitting.errors import FittingError


def _refuse(message: str, hint: str, **details: Any) -> FittingError:
    return FittingError("bad_value", message, hint, **details)


def read_schedules(path: Path) -> dict[str, Any]:
    """{run: schedule} and whatever else stands at the top (roles, notes) of a JSON file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refuse(f"{path} is not a JSON file: {error}.", "Give {run: schedule}.") from None
    if not isinstance(found, dict):
        raise _refuse(f"{path} holds a {type(found).__name__}.", "Give {run: schedule}.")
    return found


def read_rows(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Rows of all files; one without a column `run` is a run named after its file."""
    rows = []
    for path in paths:
        try:
            with (
                opened(path) as stream,
                io.TextIOWrapper(stream, newline="", encoding="utf-8-sig") as file,
            ):
                head = file.readline()
                file.seek(0)
                mark = max(",;\t", key=head.count)  # of a spreadsheet in another country too
                reader = csv.DictReader(file, delimiter=mark)
                header = [name.strip() for name in reader.fieldnames or ()]
                missing = [name for name in ("step", "loss") if name not in header]
                if missing:
                    raise _refuse(
                        f"{path} has no column {' or '.join(missing)}; it has "
                        f"{', '.join(header) or 'none'}.",
                        "Name the columns step, loss, lr and, for several runs in a file, run.",
                    )
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise _refuse(
                        f"The header of {path} names {', '.join(twice)} more than once.",
                        "Give every column a name of its own.",
                    )
                for number, row in enumerate(reader, start=2):
                    if None in row:
                        raise _refuse(
                            f"{path}, line {number} has more cells than the header.",
                            "Give every row one cell a column; a decimal comma is none.",
                        )
                    if any("\0" in (v or "") for v in row.values()):
                        raise _refuse(f"{path}, line {number} has a NUL.", "Save it as UTF-8 text.")
                    clean = {k.strip(): (v or "").strip() for k, v in row.items()}
                    rows.append({"run": path.stem, **clean, "_at": f"{path}, line {number}"})
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise _refuse(f"{path} cannot be read: {error}.", "Give a CSV file.") from None
    if not rows:
        raise FittingError("too_few_points", "The files have no rows.", "Give curves.")
    return rows


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        number = float(row[name])
        if not math.isfinite(number):
            raise ValueError
        return number
    except (KeyError, ValueError):
        raise _refuse(
            f"{row['_at']}: {name} is {row.get(name, 'missing')!r}.", "Correct the row or drop it."
        ) from None


def _points(rows: Sequence[Mapping[str, str]]) -> tuple[list[float], list[float]]:
    """Steps and losses of one run; a step with two different losses is refused."""
    found: dict[float, float] = {}
    for row in rows:
        step, loss = _number(row, "step"), _number(row, "loss")
        if step < 0 or step != int(step):
            raise _refuse(f"{row['_at']}: step is {step:g}.", "Steps are whole, and count from 1.")
        if found.setdefault(step, loss) != loss:
            raise _refuse(
                f"{row['_at']}: run {row['run']} has the losses {found[step]:g} and {loss:g} at "
                f"step {step:g}.",
                "One loss a step: drop one row, or tell the runs apart by a column run.",
            )
    return list(found), list(found.values())


def _schedule(
    run: str, rows: Sequence[Mapping[str, str]], schedules: Mapping[str, Any]
) -> tuple[Schedule, bool]:
    """The run's schedule, and whether it was given (else: straight lines between logged rates)."""
    if run in schedules:
        try:
            return as_schedule(schedules[run]), True
        except FittingError as error:
            raise FittingError(
                error.kind, f"Run {run}: {error.message}", error.hint, **error.details
            ) from None
    logged = [row for row in rows if row.get("lr") and _number(row, "step") >= 1]
    if not logged:
        raise _refuse(
            f"Run {run} has neither a column lr nor a schedule.",
            "Add lr to the CSV, or give --schedules FILE.json with an entry for it.",
        )
    steps = [_number(row, "step") for row in logged]
    return Schedule.from_points(steps, [_number(row, "lr") for row in logged]), False


def read_curves(
    paths: Sequence[Path], schedules: Mapping[str, Any] | None = None, domain: str | None = None
) -> tuple[list[Curve], list[str]]:
    """The curves, and the runs whose schedule was drawn through logged rates.

    A column N gives the model's size; with a column `domain`, only its rows of `domain` count.
    """
    by_run: dict[str, list[dict[str, str]]] = {}
    all_rows = read_rows(paths)
    domains = sorted({row["domain"] for row in all_rows if row.get("domain")})
    if domain is None and len(domains) > 1:
        raise _refuse(
            f"The losses are of {len(domains)} validation sets: {', '.join(domains)}.",
            "Say which one: --domain NAME.",
        )
    for row in all_rows:
        if domain is None or row.get("domain") == domain:
            by_run.setdefault(row["run"], []).append(row)
    if not by_run:
        raise FittingError(
            "too_few_points", f"No row has the domain {domain!r}.",
            f"There are {', '.join(domains) or 'none'}.",
        )  # fmt: skip
    curves, drawn = [], []
    for run, rows in by_run.items():
        schedule, given = _schedule(run, rows, schedules or {})
        if not given:
            drawn.append(run)
        sizes = {row["N"] for row in rows if row.get("N")}
        size = _number(rows[0], "N") if len(sizes) == 1 else None
        step, loss = _points(rows)
        curves.append(Curve.of(run, step, loss, schedule, size))
    return curves, drawn


@dataclass(frozen=True)
class ContinualData:
    """curves: {domain: [one a run]}, with pre-training runs; roles: {run: fit | held_out | repeat};
    starts: {(run, domain): loss at step 0}."""

    curves: Mapping[str, list[ContinualCurve]]
    roles: Mapping[str, str]
    starts: Mapping[tuple[str, str], float]

    def of(self, domain: str, role: str = "fit") -> list[ContinualCurve]:
        """The curves of one domain in one role."""
        if domain not in self.curves:
            raise _refuse(
                f"There is no domain {domain!r}; there are {', '.join(self.curves)}.", "Name one."
            )
        return [c for c in self.curves[domain] if self.roles.get(c.name, "fit") == role]


def read_continual(path: Path, schedules: Mapping[str, Any] | None = None) -> ContinualData:
    """Pre-training and continual runs of one long table; see the head of this file."""
    rows = read_rows([path])
    if "domain" not in rows[0]:
        raise _refuse(f"{path} has no column domain.", "Say which validation set a loss is of.")
    given = schedules or {}
    by_run: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_run.setdefault(row["run"], []).append(row)
    roles = {run: some[0].get("role") or "fit" for run, some in by_run.items()}
    named = given.get("roles") or {}
    if not isinstance(named, dict):
        raise _refuse("The schedule file's roles are no object.", "Give {run: role}.")
    roles.update({k: str(v) for k, v in named.items()})
    made = {run: _schedule(run, some, given)[0] for run, some in by_run.items()}
    curves: dict[str, list[ContinualCurve]] = {}
    starts: dict[tuple[str, str], float] = {}
    for run, some in by_run.items():
        first = some[0]
        continual = first.get("kind", "pretrain") == "continual"
        parent = first.get("parent", "")
        before, unknown = None, False
        if continual:
            if parent and parent in made:
                until = int(_number(first, "parent_step"))
                before = made[parent].until(until)
            elif parent:
                raise _refuse(f"Run {run} continues {parent}, which is not here.", "Add it.")
            else:
                unknown = True
        ratio = _number(first, "replay_ratio") if first.get("replay_ratio") else 0.0
        size = _number(first, "N") if first.get("N") else None
        for domain in dict.fromkeys(row["domain"] for row in some):
            own = [row for row in some if row["domain"] == domain]
            step, loss = _points(own)
            if continual and 0.0 in step:
                starts[run, domain] = loss[step.index(0.0)]
            curves.setdefault(domain, []).append(
                ContinualCurve.of(run, step, loss, made[run], before, ratio, size, unknown)
            )
    return ContinualData(curves, roles, starts)
