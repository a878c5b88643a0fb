"""Fits: a law to the runs of the database, or to points that came with the request.

What a fit stands on is stored with it: the runs, the conventions, the request, the seed. A fit
never changes; to fit again is to make another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import compress
from typing import Any

import numpy as np
from sqlalchemy import Connection

import fitting
from app.importers.measured import N_CONVENTIONS
from app.services import laws, paging, projects
from app.services.errors import ServiceError, not_found
from app.storage import evaluations as stored_evaluations
from app.storage import fits as storage
from app.storage.errors import NotFound
from app.storage.fits import FitPoints, Selection
from fitting import Fit, Law, Objective, Runs

AUTO = "auto"
MAX_POINTS = 100_000
MAX_DRAWS = 10_000
# Each draw is a fit to all points again: beyond so many, fewer draws answer while somebody waits.
# 200 place the end of a 90% interval to about a seventh of a standard deviation.
DRAWS, MANY_DRAWS, MANY_POINTS = 1000, 200, 5_000


@dataclass(frozen=True)
class Select:
    """Which runs of a project are fitted.

    cooled   True: finished cool-downs only; False: the others only; None: both
    recipe   the trainer's hash (or its first characters); None: there must be one only
    run_ids  these runs and no others
    sweep    the runs of this sweep alone
    """

    recipe: str | None = None
    cooled: bool | None = True
    min_steps: int | None = None
    run_ids: tuple[int, ...] | None = None
    n_convention: str = "total"
    sweep: int | None = None


@dataclass(frozen=True)
class FitRequest:
    """law, and either project + validation_set (+ select) or inputs + loss.

    law     a name, or "auto": see `comparisons.create_fit`
    inputs  {name: values}, one value a point, with `loss` and where known `run` and `flops`
    weight, left_out  one value a point: what it counts; why it is kept out of the fit, or None
    asymmetry  of the objective one-sided-log, see `fitting.Objective`
    draws   None: DRAWS of them, or MANY_DRAWS where there are more than MANY_POINTS points
    """

    law: str
    project: str | int | None = None
    validation_set: str | None = None
    select: Select = field(default_factory=Select)
    inputs: Mapping[str, Sequence[float]] | None = None
    loss: Sequence[float] | None = None
    run: Sequence[str] | None = None
    flops: Sequence[float] | None = None
    weight: Sequence[float] | None = None
    left_out: Sequence[str | None] | None = None
    n_convention: str = "total"
    flops_convention: str = "6ND"
    loss_unit: str = "nats/token"
    objective: str = "huber-log"
    delta: float = 1e-3
    asymmetry: float = 10.0
    draws: int | None = None
    level: float = 0.9
    seed: int = 0
    by_budget: bool = False


@dataclass(frozen=True)
class StoredFit:
    """A fit as it is kept. `document` is FIT.json without its draws unless they were asked for."""

    id: int
    project_id: int | None
    law: str
    status: str
    digest: str
    request: dict[str, Any]
    document: dict[str, Any]
    run_ids: list[int]
    created_at: datetime


@dataclass(frozen=True)
class Rows:
    """Runs of the database as they are read, whatever the law, and those that were not taken."""

    points: FitPoints
    left_out: list[dict[str, Any]]


@dataclass(frozen=True)
class Selected:
    """Runs of the database as a fit reads them; `left_out` says what was not taken, and why.
    tokens_per_byte [n]: of the text that each was evaluated on; NaN where it does not say."""

    runs: Runs
    run_ids: list[int]
    left_out: list[dict[str, Any]]
    tokens_per_byte: np.ndarray


@dataclass(frozen=True)
class Measured:
    """What a fit was made from: inputs {name: [n]}, NaN where one is not known, and losses [n].
    run, run_ids [n]: what each point is called, and its run; None where it has neither."""

    inputs: Mapping[str, np.ndarray]
    loss: np.ndarray
    run: Sequence[str | None]
    run_ids: Sequence[int | None]

    def rows(self) -> list[dict[str, Any]]:
        """{run_id, run, inputs, loss} a point."""
        columns = [
            [None if value != value else value for value in column.tolist()]
            for column in self.inputs.values()
        ]
        return [
            {
                "run_id": run_id,
                "run": run,
                "inputs": dict(zip(self.inputs, at, strict=True)),
                "loss": loss,
            }
            for run_id, run, loss, *at in zip(
                self.run_ids, self.run, self.loss.tolist(), *columns, strict=True
            )
        ]


def create(
    connection: Connection,
    request: FitRequest,
    *,
    chosen: str | None = None,
    more: Mapping[str, Any] | None = None,
    rows: Rows | None = None,
) -> StoredFit:
    """Fit and store. ServiceError or fitting.FittingError where the input cannot be used.

    chosen: the law, where the request leaves it open; more: what else its document says; rows: of
    the request, where they are read already.
    """
    law = laws.find(chosen or request.law)
    project_id: int | None = None
    selected: Selected | None = None
    if request.project is not None:
        project_id = projects.resolve(connection, request.project).id
    if request.inputs is None:
        selected = selected_of(rows or read_rows(connection, request), law, request)
        runs = selected.runs
    else:
        runs = runs_of_points(law, request)
    fitted = compute(law, runs, request)
    document = finite({**fitted.to_dict(), **(more or {})})
    if selected is not None and selected.left_out:
        document["left_out"] = selected.left_out
    stored = storage.create(
        connection,
        project_id=project_id,
        law=law.name,
        status=fitted.status,
        digest=document["digest"],
        request=describe_request(request),
        document=document,
        run_ids=[] if selected is None else selected.run_ids,
    )
    return _shown(stored, draws=False)


def compute(law: Law, runs: Runs, request: FitRequest) -> Fit:
    """The fit itself: pure, and the same for points and for runs of the database."""
    return fitting.fit(
        law,
        runs,
        objective=objective_of(request),
        draws=_draws(request, len(runs)),
        level=request.level,
        seed=request.seed,
        by_budget=request.by_budget,
    )


def objective_of(request: FitRequest) -> Objective:
    """What the request minimises; FittingError where there is no such objective."""
    return Objective(request.objective, request.delta, request.asymmetry)  # type: ignore[arg-type]


def _draws(request: FitRequest, n_points: int) -> int:
    if request.draws is not None:
        return request.draws
    return DRAWS if n_points <= MANY_POINTS else MANY_DRAWS


def get(connection: Connection, fit_id: int, *, draws: bool = False) -> StoredFit:
    return _shown(_stored(connection, fit_id), draws=draws)


def load(connection: Connection, fit_id: int) -> Fit:
    """The fit itself, with its draws: what predicts and allocates."""
    document = dict(_stored(connection, fit_id).document)
    known = document.get("calibration") or {}
    document["calibration"] = {
        name: math.nan if value is None else value for name, value in known.items()
    }
    return Fit.from_dict(document)


def finite(value: Any) -> Any:
    """A document without NaN and infinity, which JSON has not: they become null."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    law: str | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[StoredFit]:
    """Newest first, without draws."""
    stored = storage.page(
        connection,
        project_id=None if project is None else projects.resolve(connection, project).id,
        law=law,
        after=paging.after_of(cursor),
        limit=limit,
    )
    return paging.page_of(stored, lambda fit: _shown(fit, draws=False))


def points_of(connection: Connection, fit_id: int) -> Measured:
    """What the fit was made from, for a figure's dots."""
    stored = _stored(connection, fit_id)
    request = request_from(stored.request)
    return _measured(stored, request, _used_rows(connection, stored, request))


def _used_rows(
    connection: Connection, stored: storage.StoredFit, request: FitRequest
) -> FitPoints | None:
    """The rows of the runs that the fit used; None where its request brought the points."""
    if request.inputs is not None:
        return None
    assert stored.project_id is not None, "a fit of runs has a project"
    chosen = _selection(connection, stored.project_id, request).points
    return chosen.where(np.isin(chosen.run_id, stored.run_ids))


def _measured(stored: storage.StoredFit, request: FitRequest, rows: FitPoints | None) -> Measured:
    if rows is None:
        given = request.inputs or {}
        loss = np.array(request.loss, dtype=float)
        nothing = [None] * loss.size
        return Measured(
            {name: np.array(column, dtype=float) for name, column in given.items()},
            loss,
            nothing if request.run is None else request.run,
            nothing,
        )
    return Measured(
        {one.name: input_of(rows, one.name) for one in laws.find(stored.law).inputs},
        rows.loss,
        rows.name,
        rows.run_id.tolist(),
    )


def runs_of(connection: Connection, fit_id: int) -> tuple[Runs, Measured]:
    """The runs that a fit was made from, as they are today, and `points_of` in the same order.

    ServiceError (conflict) where they have gone, or have changed since: a fit keeps its digest.
    """
    runs, points = runs_and_points_of(connection, fit_id)
    if isinstance(runs, ServiceError):
        raise runs
    return runs, points


def runs_and_points_of(connection: Connection, fit_id: int) -> tuple[Runs | ServiceError, Measured]:
    """As `runs_of`, but the points come also where the runs do not; then with the reason why."""
    stored = _stored(connection, fit_id)
    request = request_from(stored.request)
    law = laws.find(stored.law)
    rows = _used_rows(connection, stored, request)
    points = _measured(stored, request, rows)
    carried = stored.document.get("translated")
    if carried is not None:
        return ServiceError(
            "conflict",
            f"Fit {fit_id} was carried over from fit {carried['fit']} by link {carried['link']}: "
            "it was not fitted to runs of its own.",
            "Ask about that fit, or fit a law to the runs themselves.",
            value=fit_id,
        ), points
    runs: Runs | None
    if rows is None:
        runs = runs_of_points(law, request)
    else:
        known = not any(np.isnan(input_of(rows, name)).any() for name in law.input_names)
        runs = _runs_of_rows(rows, law.input_names, request) if len(rows) and known else None
    if runs is None or runs.digest != stored.digest:
        return ServiceError(
            "conflict",
            f"The runs of fit {fit_id} have changed since, or are gone.",
            "Fit them again, and ask about the new fit.",
            value=fit_id,
        ), points
    return runs, points


def select_runs(connection: Connection, law: Law | None, request: FitRequest) -> Selected:
    """The runs that the request asks for, checked: one recipe, one loss unit, one way to count.

    The loss of a run is its evaluation on the validation set at its last step. Without a law, the
    runs come with every input that some law has and all of them know.
    """
    return selected_of(read_rows(connection, request), law, request)


def selected_of(read: Rows, law: Law | None, request: FitRequest) -> Selected:
    """As `select_runs`, of rows that are read."""
    rows, left_out = read.points, list(read.left_out)
    if law is None:
        names = [name for name in laws.input_names() if not np.isnan(input_of(rows, name)).any()]
    else:
        names = list(law.input_names)
        unknown = np.isnan([input_of(rows, name) for name in names])
        known = ~np.asarray(unknown.any(axis=0))
        for row in np.flatnonzero(~known).tolist():
            missing = list(compress(names, unknown[:, row]))
            reason = f"its {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not known"
            left_out.append(
                {"run_id": int(rows.run_id[row]), "run": rows.name[row], "reason": reason}
            )
        if not known.any():
            raise ServiceError(
                "not_enough_data",
                f"None of the {len(rows)} runs has every input of {law.name}: "
                f"{left_out[-1]['reason']}.",
                "Fit a law of N and D, or import runs with a positive number in that column of "
                "every row.",
            )
        if not known.all():
            rows = rows.where(known)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_byte = rows.eval_tokens / rows.eval_bytes
    per_byte[(rows.eval_tokens == 0) | (rows.eval_bytes == 0)] = np.nan
    return Selected(_runs_of_rows(rows, names, request), rows.run_id.tolist(), left_out, per_byte)


def read_rows(connection: Connection, request: FitRequest) -> Rows:
    """The rows of the selection, of one recipe and one loss unit, and what it left out."""
    select = request.select
    if request.project is None or not request.validation_set:
        raise ServiceError(
            "invalid",
            "A fit needs points, or a project and a validation set.",
            'Give "project" and "validation_set", or "points".',
            column="project" if request.project is None else "validation_set",
        )
    if select.n_convention not in N_CONVENTIONS:
        raise ServiceError(
            "invalid",
            f"{select.n_convention!r} is no way to count N.",
            f"Use one of {', '.join(N_CONVENTIONS)}.",
            column="select.n_convention",
            value=select.n_convention,
        )
    project = projects.resolve(connection, request.project)
    chosen = _selection(connection, project.id, request)
    if select.run_ids is not None:
        _refuse_missing(select.run_ids, chosen)
    rows = chosen.points
    if select.recipe is not None:
        rows = rows.where(np.array([one.startswith(select.recipe) for one in rows.recipe], bool))
    if not len(rows):
        known = ", ".join(map(repr, stored_evaluations.validation_sets(connection, project.id)))
        raise ServiceError(
            "not_enough_data",
            f"No finished run of {project.name!r} with a loss on {request.validation_set!r} is "
            f"left by the selection (the project has losses on: {known or 'nothing yet'}).",
            "Loosen `select`, name another validation set, or wait for the sweep.",
        )
    _refuse_mixed("recipe", set(rows.recipe))
    _refuse_mixed("loss_unit", set(rows.loss_unit))
    left_out = [
        {"run_id": row.run_id, "run": row.name, "reason": row.reason} for row in chosen.left_out
    ]
    return Rows(rows, left_out)


def _runs_of_rows(rows: FitPoints, names: Sequence[str], request: FitRequest) -> Runs:
    exact = not np.isnan(rows.flops_exact).any()
    return Runs(
        inputs={name: input_of(rows, name) for name in names},
        loss=rows.loss,
        run=np.array(_groups(rows)),
        n_convention=request.select.n_convention,
        flops_convention="exact" if exact else "6ND",
        loss_unit=rows.loss_unit[0],
        flops=rows.flops_exact if exact else None,
        cooled=rows.cooled,
        unique_tokens=None if np.isnan(rows.unique_tokens).any() else rows.unique_tokens,
    )


def runs_of_points(law: Law | None, request: FitRequest) -> Runs:
    """The request's own points; without a law, with all their inputs."""
    assert request.inputs is not None
    if not request.loss:
        raise ServiceError("invalid", "There are no points.", "Give one a run.", column="points")
    if len(request.loss) > MAX_POINTS:
        raise ServiceError(
            "too_large",
            f"{len(request.loss)} points are more than {MAX_POINTS}.",
            "Import the runs and fit a selection, or thin the curves.",
        )
    names = list(request.inputs) if law is None else list(law.input_names)
    missing = [name for name in names if name not in request.inputs]
    if law is not None and missing:
        raise ServiceError(
            "invalid",
            f"{law.name} needs {', '.join(law.input_names)}; {missing[0]} is missing.",
            f"Give every point a value of {missing[0]}.",
            column=missing[0],
        )
    return Runs(
        inputs={name: np.asarray(request.inputs[name], dtype=float) for name in names},
        loss=np.asarray(request.loss, dtype=float),
        run=None if request.run is None else np.asarray(request.run),
        n_convention=request.n_convention,
        flops_convention=request.flops_convention,
        loss_unit=request.loss_unit,
        flops=None if request.flops is None else np.asarray(request.flops, dtype=float),
        unique_tokens=request.inputs.get("U"),
        weights=request.weight,
        masked={row: reason for row, reason in enumerate(request.left_out or ()) if reason},
    )


def input_of(rows: FitPoints, name: str) -> np.ndarray:
    """An input of a law as each run has it, NaN where it is not known: N and D, U its unique
    tokens, C its compute; any other by its name, from what an import brought."""
    if name == "C":
        value = np.where(np.isnan(rows.flops_exact), rows.flops_6nd, rows.flops_exact)
    else:
        own = {"N": rows.N, "D": rows.D, "U": rows.unique_tokens}
        value = own.get(name, np.full(len(rows), np.nan))
    if np.isnan(value).any():
        said = np.array([(one or {}).get(name) for one in rows.inputs], dtype=float)
        value = np.where(np.isnan(value), said, value)
    return value


def describe_request(request: FitRequest) -> dict[str, Any]:
    """What is stored with the fit: enough to make it again."""
    described: dict[str, Any] = {
        "law": request.law,
        "objective": request.objective,
        "delta": request.delta,
        "asymmetry": request.asymmetry,
        "draws": request.draws,
        "level": request.level,
        "seed": request.seed,
        "by_budget": request.by_budget,
    }
    if request.inputs is not None:
        described |= {
            "inputs": {name: list(map(float, column)) for name, column in request.inputs.items()},
            "loss": list(map(float, request.loss or ())),
            "n_convention": request.n_convention,
            "flops_convention": request.flops_convention,
            "loss_unit": request.loss_unit,
        }
        for name in ("run", "flops", "weight", "left_out"):
            column = getattr(request, name)
            if column is not None:
                described[name] = list(column)
    if request.project is not None:
        described |= {"project": request.project, "validation_set": request.validation_set}
    if request.inputs is None:
        select = request.select
        described["select"] = {
            "recipe": select.recipe,
            "cooled": select.cooled,
            "min_steps": select.min_steps,
            "run_ids": None if select.run_ids is None else list(select.run_ids),
            "n_convention": select.n_convention,
            "sweep": select.sweep,
        }
    return described


def request_from(described: Mapping[str, Any]) -> FitRequest:
    """The opposite of `describe_request`."""
    parts = dict(described)
    select = dict(parts.pop("select", {}))
    if select.get("run_ids") is not None:
        select["run_ids"] = tuple(select["run_ids"])
    return FitRequest(select=Select(**select), **parts)


def _selection(connection: Connection, project_id: int, request: FitRequest) -> Selection:
    """The finished runs that the request's `select` asks for, whatever their recipe."""
    select = request.select
    return storage.select_points(
        connection,
        project_id,
        request.validation_set or "",
        {
            # runs that were named one by one are taken as they are
            "cooled": None if select.run_ids is not None else select.cooled,
            "min_steps": select.min_steps,
            "run_ids": select.run_ids,
            "sweep_id": select.sweep,
        },
        n_convention=select.n_convention,
    )


def _groups(rows: FitPoints) -> list[str]:
    """What the bootstrap resamples: what shares a history goes together. That is the branches of
    one trunk (the same weights up to where they part, so the same luck), and the rows that an
    import gave one run label."""
    return [
        f"run {parent}"
        if kind == "branch" and parent is not None
        else f"run {run_id}"
        if label is None
        else f"label {label}"
        for run_id, kind, parent, label in zip(
            rows.run_id.tolist(), rows.kind, rows.parent_run_id, rows.label, strict=True
        )
    ]


def _refuse_missing(wanted: Sequence[int], chosen: Selection) -> None:
    missing = sorted(set(wanted) - set(chosen.points.run_id.tolist()))
    if missing:
        known = {row.run_id: row.reason for row in chosen.left_out}
        reason = known.get(missing[0], "it is no finished run of this project")
        raise ServiceError(
            "not_enough_data",
            f"Run {missing[0]} cannot be fitted: {reason}"
            + (f" (and {len(missing) - 1} more)." if missing[1:] else "."),
            "Leave it out of run_ids, or wait for it.",
            column="select.run_ids",
            value=missing[0],
        )


def _refuse_mixed(what: str, values: set[str]) -> None:
    if len(values) > 1:
        shown = ", ".join(sorted(map(_recognisable, values)))
        raise ServiceError(
            "invalid",
            f"The runs have {len(values)} {what}s: {shown}.",
            "They do not follow one law: choose one with select.recipe."
            if what == "recipe"
            else "Convert them to one unit, or select the runs of one.",
            column=f"select.{what}",
            value=shown,
        )


def _recognisable(value: str) -> str:
    """A digest by its beginning, a word of somebody's as it is: `select.recipe` takes either."""
    is_digest = len(value) == 64 and not set(value) - set("0123456789abcdef")
    return value[:12] if is_digest else value or "(imported)"


def _stored(connection: Connection, fit_id: int) -> storage.StoredFit:
    try:
        return storage.get(connection, fit_id)
    except NotFound:
        raise not_found("fit", fit_id) from None


def _shown(stored: storage.StoredFit, *, draws: bool) -> StoredFit:
    document = dict(stored.document)
    if not draws:
        document.pop("draws", None)
    return StoredFit(
        id=stored.id,
        project_id=stored.project_id,
        law=stored.law,
        status=stored.status,
        digest=stored.digest,
        request=stored.request,
        document=document,
        run_ids=list(stored.run_ids),
        created_at=stored.created_at,
    )
