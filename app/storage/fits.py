"""Fits, which never change, and the points that they are made from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import NotFound
from app.storage.rows import Page, array_of, columns_of, find_row, page_of, stored_array, value_of
from app.storage.tables import fits

Numbers = NDArray[np.float64]

N_COLUMNS = {
    "total": "n_total",
    "non_embedding": "n_non_embedding",
    "blocks": "n_blocks",
    "blocks_and_head": "n_blocks_and_head",
}
NUMBERS = (
    "N", "D", "loss", "flops_exact", "flops_6nd", "unique_tokens", "eval_tokens", "eval_bytes",
)  # fmt: skip
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
class FitPoints:
    """Finished runs as a fit sees them, by run id: a column [n] of each thing, with NaN where a
    number is not known. N and D, the FLOPs, the last loss and on how much text it was measured.

    label, inputs: from the run's config: of an import, the name that its rows share and every input
    by name; of a run trained here, width and depth.
    """

    run_id: NDArray[np.int64]
    name: tuple[str, ...]
    N: Numbers
    D: Numbers
    loss: Numbers
    loss_unit: tuple[str, ...]
    flops_exact: Numbers
    flops_6nd: Numbers
    unique_tokens: Numbers
    recipe: tuple[str, ...]
    cooled: NDArray[np.bool_]
    kind: tuple[str, ...]
    parent_run_id: tuple[int | None, ...]
    eval_tokens: Numbers
    eval_bytes: Numbers
    label: tuple[str | None, ...]
    inputs: tuple[dict[str, Any] | None, ...]

    def __len__(self) -> int:
        return int(self.run_id.size)

    def where(self, rows: NDArray[np.bool_]) -> "FitPoints":
        """Those of `rows` [n] alone."""
        kept: dict[str, Any] = {}
        for field in fields(self):
            column = getattr(self, field.name)
            some = tuple(compress(column, rows)) if isinstance(column, tuple) else column[rows]
            kept[field.name] = some
        return FitPoints(**kept)


@dataclass(frozen=True)
class LeftOut:
    run_id: int
    name: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """What a fit can use, by run id, and the finished runs that it cannot, each with the reason."""

    points: FitPoints
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
            run_ids=stored_array(run_ids),
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
            select r.id as run_id, r.name, r.{N_COLUMNS[n_convention]} as "N", r.tokens as "D",
                e.loss, e.loss_unit, e.step, r.steps, r.flops_exact, r.flops_6nd, r.unique_tokens,
                r.recipe, r.cooled, r.kind, r.parent_run_id,
                e.tokens as eval_tokens, e.bytes as eval_bytes,
                r.config ->> 'run' as label,
                coalesce(r.config -> 'inputs', jsonb_build_object(
                    'width', r.config -> 'model' -> 'd_model',
                    'depth', r.config -> 'model' -> 'n_layers'))::text as inputs
            from runs r
            left join lateral (
                select loss, loss_unit, step, tokens, bytes from evaluations
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
            "run_ids": None if run_ids is None else array_of(run_ids),
            "sweep_id": select.get("sweep_id"),
            "kind": select.get("kind"),
        },
    )
    names = tuple(rows.keys())
    columns = dict(zip(names, zip(*rows.all(), strict=True), strict=False)) or dict.fromkeys(
        names, ()
    )
    step, steps = columns.pop("step"), columns.pop("steps")
    points = _points(columns)
    early = np.array([of is not None and at != of for at, of in zip(step, steps, strict=True)])
    usable = ~(np.isnan([points.loss, points.N, points.D]).any(axis=0) | early.astype(bool))
    left_out = []
    for i in np.flatnonzero(~usable).tolist():
        if np.isnan(points.loss[i]):
            reason = f"it was not evaluated on {validation_set!r}"
        elif np.isnan(points.N[i]):
            reason = f"its N is not known by the convention {n_convention!r}"
        elif np.isnan(points.D[i]):
            reason = "its training tokens are not known"
        else:
            reason = f"its last evaluation is at step {step[i]} of {steps[i]}"
        left_out.append(LeftOut(int(points.run_id[i]), points.name[i], reason))
    return Selection(points if usable.all() else points.where(usable), left_out)


def _points(columns: dict[str, tuple[Any, ...]]) -> FitPoints:
    made: dict[str, Any] = dict(columns)
    for name in NUMBERS:
        made[name] = np.array(columns[name], dtype=float)  # None is NaN
    made["run_id"] = np.array(columns["run_id"], dtype=np.int64)
    made["cooled"] = np.array(columns["cooled"], dtype=bool)
    # most runs of a project say the same
    said = {one: json.loads(one) for one in set(columns["inputs"])}
    made["inputs"] = tuple(said[one] for one in columns["inputs"])
    return FitPoints(**made)
