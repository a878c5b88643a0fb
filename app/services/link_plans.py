"""Which target runs to train, so that a link to new data says most for its FLOPs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.services.errors import ServiceError
from app.services.link_sets import LinkSet, open_set
from fitting.loss_to_loss import plan_runs

MAX_CANDIDATES = 500


@dataclass(frozen=True)
class PlanRequest:
    """k runs among the source's cells; have: cells (N, D) that the target was trained at already;
    target_loss: the source loss at which the forecast is wanted."""

    source: LinkSet
    k: int
    cap_flops: float | None = None
    target_loss: float | None = None
    kind: str = "train_to_train"
    have: Sequence[tuple[float, float]] = ()
    E1: float | None = None
    unit: str | None = None
    level: float = 0.9


def plan(connection: Connection, request: PlanRequest) -> dict[str, Any]:
    """{"runs": [{"N", "D", "flops"}], "half_width", "half_width_before", ...}; stores nothing."""
    source = open_set(connection, request.source, "source", request.unit)
    runs = source.runs
    if len(runs) > MAX_CANDIDATES:
        raise ServiceError(
            "too_large",
            f"{source.name!r} has {len(runs)} runs, more than {MAX_CANDIDATES}.",
            "Select fewer: the plan chooses among them.",
            column="source",
        )
    have = [_row_of(runs.inputs["N"], runs.inputs["D"], cell, i) for i, cell in
            enumerate(request.have)]  # fmt: skip
    made = plan_runs(
        runs,
        request.k,
        cap_flops=float("inf") if request.cap_flops is None else request.cap_flops,
        target_loss=request.target_loss,
        kind=request.kind,
        have=have,
        E1=request.E1,
        level=request.level,
    ).to_dict()
    if request.cap_flops is None:
        made["cap_flops"] = None
    for row in made["runs"]:
        row["run_id"] = None if source.run_ids is None else source.run_ids[row["row"]]
        row["source_loss"] = float(runs.loss[row.pop("row")])
    return {**made, "source": source.name, "loss_unit": runs.loss_unit}


def _row_of(N: Any, D: Any, cell: tuple[float, float], place: int) -> int:
    for row, (n, d) in enumerate(zip(N, D, strict=True)):
        if abs(n / cell[0] - 1.0) < 1e-6 and abs(d / cell[1] - 1.0) < 1e-6:
            return row
    raise ServiceError(
        "invalid",
        f"The source has no run at N = {cell[0]:.6g}, D = {cell[1]:.6g}.",
        "Name cells of the source: only these can be paired.",
        row=place + 1,
        column="have",
    )
