"""Fits, which never change, and the points that they are made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, value_of
from app.storage.tables import fits

N_COLUMNS = {
    "total": "n_total",
    "non_embedding": "n_non_embedding",
    "blocks": "n_blocks",
    "blocks_and_head": "n_blocks_and_head",
}
SELECT_KEYS = ("recipe", "cooled", "min_steps", "run_ids", "sweep_id", "kind")


@dataclass(frozen=True)
class StoredFit:
    """`document` is the fit as JSON, `request` what was asked for, `run_ids` what it used."""

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
class FitPoint:
    """One finished run as a fit sees it: N and D, its FLOPs where known, its last loss.

    label, inputs: from the run's config: of an import, the name that its rows share and every input
    by name; of a run trained here, width and depth.
    """

    run_id: int
    name: str
    N: float
    D: float
    loss: float
    loss_unit: str
    step: int
    steps: int | None
    flops_exact: float | None
    flops_6nd: float | None
    flops_palm: float | None
    unique_tokens: float | None
    recipe: str
    cooled: bool
    seed: int | None
    kind: str
    sweep_id: int | None
    parent_run_id: int | None
    eval_tokens: float | None
    eval_bytes: float | None
    label: str | None = None
    inputs: dict[str, Any] | None = None


@dataclass(frozen=True)
class LeftOut:
    run_id: int
    name: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """What a fit can use, by run id, and the finished runs that it cannot, each with the reason."""

    points: list[FitPoint]
    left_out: list[LeftOut]


def create(
    connection: Connection,
    *,
    law: str,
    status: str,
    digest: str,
    request: Mapping[str, Any],
    document: Mapping[str, Any],
    project_id: int | None = None,
    run_ids: Sequence[int] = (),
) -> StoredFit:
    row = connection.execute(
        insert(fits)
        .values(
            project_id=project_id,
            law=law,
            status=status,
            digest=digest,
            request=dict(request),
            document=dict(document),
            run_ids=list(run_ids),
        )
        .returning(*columns_of(StoredFit, fits))
    ).one()
    return value_of(StoredFit, row)


def get(connection: Connection, fit_id: int) -> StoredFit:
    found = find_row(connection, StoredFit, fits, id=fit_id)
    if found is None:
        raise NotFound("fit", fit_id)
    return found


def page(
    connection: Connection,
    *,
    project_id: int | None = None,
    law: str | None = None,
    status: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[StoredFit]:
    where: dict[str, object] = {"project_id": project_id, "law": law, "status": status}
    return page_of(connection, StoredFit, fits, where=where, after=after, limit=limit)


def select_points(
    connection: Connection,
    project_id: int,
    validation_set: str,
    select: Mapping[str, Any] | None = None,
    *,
    n_convention: str = "total",
) -> Selection:
    """The finished runs of a project as points to fit.

    The loss is that of `validation_set` at the run's last step, N is counted by `n_convention`,
    D is the run's training tokens. `select` narrows: recipe, cooled (True unless said otherwise;
    None takes both), min_steps, run_ids, sweep_id, kind. A run that was chosen and has no such
    loss, N or D, or was last evaluated before its last step, is left out with the reason. Nothing
    is mixed in silence here and nothing is refused: recipes and loss units come with every point.

    ValueError for a convention or a key of `select` that is not known.
    """
    select = dict(select or {})
    if n_convention not in N_COLUMNS:
        raise ValueError(f"n_convention {n_convention!r} is not one of {', '.join(N_COLUMNS)}")
    unknown = sorted(set(select) - set(SELECT_KEYS))
    if unknown:
        raise ValueError(f"runs are not selected by {unknown[0]!r}; use {', '.join(SELECT_KEYS)}")
    run_ids = select.get("run_ids")
    rows = connection.execute(
        text(
            f"""
            -- in the order of FitPoint's fields
            select r.id as run_id, r.name, r.{N_COLUMNS[n_convention]} as "N", r.tokens as "D",
                e.loss, e.loss_unit, e.step, r.steps,
                r.flops_exact, r.flops_6nd, r.flops_palm, r.unique_tokens,
                r.recipe, r.cooled, r.seed, r.kind, r.sweep_id, r.parent_run_id,
                e.tokens as eval_tokens, e.bytes as eval_bytes,
                r.config ->> 'run' as label,
                coalesce(r.config -> 'inputs', jsonb_build_object(
                    'width', r.config -> 'model' -> 'd_model',
                    'depth', r.config -> 'model' -> 'n_layers'))::text as inputs
            from runs r
            left join lateral (
                select * from evaluations
                where run_id = r.id and validation_set = :validation_set
                order by step desc limit 1
            ) e on true
            where r.project_id = :project_id and r.status = 'finished'
                and (cast(:recipe as text) is null or r.recipe = cast(:recipe as text))
                and (cast(:cooled as boolean) is null or r.cooled = cast(:cooled as boolean))
                and (cast(:min_steps as bigint) is null
                    or r.steps is null or r.steps >= cast(:min_steps as bigint))
                and (cast(:run_ids as bigint[]) is null
                    or r.id = any(cast(:run_ids as bigint[])))
                and (cast(:sweep_id as bigint) is null or r.sweep_id = cast(:sweep_id as bigint))
                and (cast(:kind as text) is null or r.kind = cast(:kind as text))
            order by r.id
            """
        ),
        {
            "project_id": project_id,
            "validation_set": validation_set,
            "recipe": select.get("recipe"),
            "cooled": select.get("cooled", True),
            "min_steps": select.get("min_steps"),
            "run_ids": None if run_ids is None else list(run_ids),
            "sweep_id": select.get("sweep_id"),
            "kind": select.get("kind"),
        },
    )
    points, left_out = [], []
    read: dict[str, dict[str, Any]] = {}  # most runs of a project say the same
    for row in rows.all():
        *known, inputs = row
        if inputs not in read:
            read[inputs] = json.loads(inputs)
        point = FitPoint(*[*known, read[inputs]])
        reason = _reason(point, validation_set, n_convention)
        if reason is None:
            points.append(point)
        else:
            left_out.append(LeftOut(point.run_id, point.name, reason))
    return Selection(points, left_out)


def _reason(row: FitPoint, validation_set: str, n_convention: str) -> str | None:
    if row.loss is None:
        return f"it was not evaluated on {validation_set!r}"
    if row.N is None:
        return f"its N is not known by the convention {n_convention!r}"
    if row.D is None:
        return "its training tokens are not known"
    if row.steps is not None and row.step != row.steps:
        return f"its last evaluation is at step {row.step} of {row.steps}"
    return None
