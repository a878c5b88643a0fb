"""Imports: runs that other tools trained, stored whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from app.importers.measured import Conventions, Measured, MeasuredCurve, MeasuredPoint
from app.services import paging, projects
from app.services.errors import ServiceError, not_found
from app.storage import curves as stored_curves
from app.storage import evaluations as stored_evaluations
from app.storage import imports as storage
from app.storage import runs as stored_runs
from app.storage.errors import Conflict, NotFound
from app.storage.imports import Import
from app.storage.recording import EvaluationLine
from app.storage.runs import NewRun

DEFAULT_VALIDATION_SET = "validation"


@dataclass(frozen=True)
class Imported:
    """What an import brought. `warnings` are sentences for people."""

    id: int
    project_id: int
    kind: str
    format: str
    filename: str
    digest: str
    n_runs: int
    n_points: int
    repeated_rows: int
    columns: dict[str, str]
    n_convention: str
    flops_convention: str
    loss_unit: str
    validation_set: str | None
    run_ids: list[int]
    warnings: list[str]
    created_at: datetime


def store(
    connection: Connection,
    project: str | int,
    measured: Measured,
    *,
    filename: str = "",
    prefix: str = "",
    validation_set: str | None = None,
    recipe: str = "",
) -> Imported:
    """Store what an importer read, as finished runs of the project (made if its name is new).

    prefix          put before each run's name, to keep two files with the same names apart
    validation_set  what the losses were measured on; points take "validation" where it is not
                    said, curves keep their losses as training losses
    recipe          a word for how the runs were trained: runs of two recipes are never fitted
                    together
    A file that was imported into the project before, byte for byte, is refused, and so is a run
    whose name is taken.
    """
    into = projects.resolve_or_create(connection, project)
    before = storage.find_by_digest(connection, into.id, measured.digest)
    if before is not None:
        raise ServiceError(
            "conflict",
            f"Import {before.id} brought the same rows into {into.name!r} already.",
            "Use its runs, or delete it first.",
            value=before.id,
        )
    if measured.kind == "points" and validation_set is None:
        validation_set = DEFAULT_VALIDATION_SET
    n_runs = len(measured.points) or len(measured.curves)
    made = storage.create(
        connection,
        into.id,
        format=measured.format,
        filename=filename,
        digest=measured.digest,
        n_runs=n_runs,
        n_points=measured.n_points,
    )
    if measured.curves:
        new = [
            _run_of_curve(
                curve, into.id, made.id, measured.conventions, prefix, recipe, made.created_at
            )
            for curve in measured.curves
        ]
    else:
        names = _names(measured.points, made.id)
        new = [
            _run_of_point(
                point, name, into.id, made.id, measured.conventions, prefix, recipe, made.created_at
            )
            for point, name in zip(measured.points, names, strict=True)
        ]
    try:
        run_ids = stored_runs.create_many(connection, new)
    except Conflict as error:
        raise ServiceError(
            "conflict",
            f"{str(error)[:1].upper()}{str(error)[1:]}.",
            "Give the import a `prefix`, or rename the runs.",
            column="run",
        ) from None
    _store_losses(connection, measured, run_ids, validation_set)
    return Imported(
        id=made.id,
        project_id=into.id,
        kind=measured.kind,
        format=made.format,
        filename=made.filename,
        digest=made.digest,
        n_runs=made.n_runs,
        n_points=made.n_points,
        repeated_rows=measured.repeated_rows,
        columns=dict(measured.columns),
        n_convention=measured.conventions.n_convention,
        flops_convention=measured.conventions.flops_convention,
        loss_unit=measured.conventions.loss_unit,
        validation_set=validation_set,
        run_ids=run_ids,
        warnings=list(measured.warnings),
        created_at=made.created_at,
    )


def get(connection: Connection, import_id: int) -> Import:
    try:
        return storage.get(connection, import_id)
    except NotFound:
        raise not_found("import", import_id) from None


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[Import]:
    stored = storage.page(
        connection,
        project_id=None if project is None else projects.resolve(connection, project).id,
        after=paging.after_of(cursor),
        limit=limit,
    )
    return paging.page_of(stored, lambda one: one)


def delete(connection: Connection, import_id: int) -> None:
    """Undo an import: its runs go with it. Fits that were made from them stay."""
    get(connection, import_id)
    storage.remove(connection, import_id)


def _names(points: Sequence[MeasuredPoint], import_id: int) -> list[str]:
    """A name for each row: its label; with its step or place where one label has many rows."""
    counts: dict[str, int] = {}
    for point in points:
        if point.run is not None:
            counts[point.run] = counts.get(point.run, 0) + 1
    names: list[str] = []
    seen: dict[str, int] = {}
    for point in points:
        if point.run is None:
            names.append(f"import-{import_id}/row-{point.row}")
        elif counts[point.run] == 1:
            names.append(point.run)
        else:
            seen[point.run] = seen.get(point.run, 0) + 1
            names.append(f"{point.run} #{seen[point.run]}")
    return names


def _run_of_point(
    point: MeasuredPoint,
    name: str,
    project_id: int,
    import_id: int,
    conventions: Conventions,
    prefix: str,
    recipe: str,
    imported_at: datetime,
) -> NewRun:
    inputs = dict(point.inputs)
    config: dict[str, Any] = {"inputs": inputs}
    if point.run is not None:
        config["run"] = point.run
    if point.extra:
        config["columns"] = dict(point.extra)
    return _imported_run(
        prefix + name,
        project_id,
        import_id,
        config,
        recipe,
        conventions,
        inputs.get("N"),
        inputs.get("D"),
        point.flops,
        inputs.get("U"),
        point.step,
        imported_at,
    )


def _run_of_curve(
    curve: MeasuredCurve,
    project_id: int,
    import_id: int,
    conventions: Conventions,
    prefix: str,
    recipe: str,
    imported_at: datetime,
) -> NewRun:
    tokens = None if curve.tokens is None else float(np.max(curve.tokens))
    return _imported_run(
        prefix + curve.run,
        project_id,
        import_id,
        {"inputs": dict(curve.inputs), "run": curve.run},
        recipe,
        conventions,
        curve.inputs.get("N"),
        tokens or None,
        None,
        None,
        int(curve.step[-1]),
        imported_at,
    )


def _imported_run(
    name: str,
    project_id: int,
    import_id: int,
    config: dict[str, Any],
    recipe: str,
    conventions: Conventions,
    n: float | None,
    tokens: float | None,
    flops: float | None,
    unique_tokens: float | None,
    step: int | None,
    imported_at: datetime,
) -> NewRun:
    counted = {f"n_{conventions.n_convention}": n}
    six_n_d = None if n is None or tokens is None else 6.0 * n * tokens
    return NewRun(
        project_id=project_id,
        import_id=import_id,
        name=name,
        kind="imported",
        status="finished",
        config=config,
        recipe=recipe,
        cooled=True,
        steps=step,
        step=step or 0,
        tokens=tokens,
        unique_tokens=unique_tokens,
        flops_exact=flops if conventions.flops_convention == "exact" else None,
        flops_palm=flops if conventions.flops_convention == "palm" else None,
        flops_6nd=six_n_d,
        finished_at=imported_at,
        **counted,  # type: ignore[arg-type]
    )


def _store_losses(
    connection: Connection, measured: Measured, run_ids: list[int], validation_set: str | None
) -> None:
    unit = measured.conventions.loss_unit
    lines = []
    if measured.points and validation_set is not None:
        for run_id, point in zip(run_ids, measured.points, strict=True):
            line = EvaluationLine(
                step=point.step or 0,
                validation_set=validation_set,
                loss=point.loss,
                train_tokens=point.inputs.get("D"),
                loss_unit=unit,
            )
            lines.append((run_id, line))
    if measured.curves:
        _store_curves(connection, measured.curves, run_ids)
        if validation_set is not None:
            for run_id, curve in zip(run_ids, measured.curves, strict=True):
                line = EvaluationLine(
                    step=int(curve.step[-1]),
                    validation_set=validation_set,
                    loss=float(curve.loss[-1]),
                    train_tokens=None if curve.tokens is None else float(curve.tokens[-1]),
                    loss_unit=unit,
                )
                lines.append((run_id, line))
    if lines:
        stored_evaluations.add(connection, lines)


def _store_curves(
    connection: Connection, curves: Sequence[MeasuredCurve], run_ids: Sequence[int]
) -> None:
    """One COPY for all of them, then each one's roll-up."""
    lengths = [len(curve.step) for curve in curves]

    def column(name: str) -> NDArray[np.float64]:
        parts = [getattr(curve, name) for curve in curves]
        return np.concatenate(
            [
                np.full(length, np.nan) if part is None else part
                for part, length in zip(parts, lengths, strict=True)
            ]
        )

    stored_curves.copy_points(
        connection,
        stored_curves.Points(
            run_id=np.repeat(np.asarray(run_ids, dtype=np.int64), lengths),
            step=np.concatenate([curve.step for curve in curves]),
            loss=column("loss"),
            tokens=column("tokens"),
            lr=column("lr"),
        ),
    )
    for run_id in run_ids:
        stored_curves.roll_up(connection, run_id)
