"""Runs, their curves, evaluations and metrics."""

import math
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from app.api.schemas.common import Answer, Name, PositiveFloat, ProjectRef, Request, RunId, Timed
from app.api.schemas.sweeps import (
    EvaluateIn,
    Model,
    Optimizer,
    Rate,
    ScheduleIn,
    Size,
    TrainCorpus,
)
from app.services.runs import RunShown
from app.storage.curves import Curve
from app.storage.metrics import Series

Status = Literal["planned", "queued", "running", "finished", "failed", "cancelled", "diverged"]
Kind = Literal["single", "trunk", "branch", "continual", "imported"]


class RunCorpora(Request):
    """`validation` may be left out where there is a parent: its sets and the new text then."""

    train: list[TrainCorpus] = Field(default_factory=list, max_length=100)
    validation: list[Name] | None = Field(default=None, min_length=1, max_length=100)


CONTINUAL: dict[str, Any] = {
    "project": "demo",
    "name": "on to code",
    "parent": 1,
    "corpora": {"train": [{"name": "code"}], "validation": ["english", "code"]},
    "replay_ratio": 0.25,
    "steps": 1000,
    "lr": 3e-3,
    "schedule": {"kind": "cosine", "warmup_steps": 100},
}


class RunIn(Request):
    """One run by itself. With `sweep` its recipe is that sweep's, so that it may be set beside its
    runs and forecast from them; the other fields then replace what the sweep says. With `parent` it
    starts from that run's checkpoint, and what is left out is the parent's: a continual run goes on
    with other text, a branch cools its trunk down."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "project": "demo",
                    "name": "target",
                    "sweep": 1,
                    "size": {"d_model": 64, "n_layers": 2},
                    "budget_flops": 1e13,
                },
                CONTINUAL,
            ]
        }
    )

    project: ProjectRef
    name: Name
    sweep: RunId | None = None
    size: Size | None = None
    parent: RunId | None = Field(default=None, description="Start from a checkpoint of this run.")
    kind: Literal["continual", "branch"] = Field(
        default="continual", description="What a run with a parent is."
    )
    parent_step: int | None = Field(
        default=None, ge=1, le=10**9, description="Of the checkpoint; the parent's last step."
    )
    replay_ratio: float | None = Field(
        default=None, ge=0, lt=1, description="The parent's text as a share of all, continual."
    )
    momentum: Literal["reset", "carry"] | None = Field(
        default=None, description="Continual: start the optimizer's state afresh, or keep it."
    )
    lr: Rate | None = Field(
        default=None, description="Continual: peak rate, with the parent's optimizer."
    )
    budget_flops: PositiveFloat | None = Field(
        default=None, description="Exact training FLOPs; or give steps."
    )
    steps: int | None = Field(default=None, ge=1, le=10**9)
    corpora: RunCorpora | None = None
    model: Model | None = None
    optimizer: Optimizer | None = None
    schedule: ScheduleIn | None = None
    batch_tokens: int | None = Field(default=None, ge=1, le=2**30)
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    evaluate: EvaluateIn | None = None
    checkpoint_at_steps: list[Annotated[int, Field(ge=1, le=10**9)]] | None = Field(
        default=None, max_length=1000, description="Kept for runs that start there."
    )
    hold: bool = Field(
        default=False, description="Plan it only; POST /v1/runs/{id}/start queues it."
    )


class RunOut(Timed):
    """`n_*` in each way of counting that is known; `tokens` is D, `steps` the plan, `step` how far
    it has come; `losses` the last loss on each validation set."""

    id: int
    project_id: int
    sweep_id: int | None
    import_id: int | None
    parent_run_id: int | None
    parent_step: int | None
    name: str
    kind: str
    status: str
    cooled: bool
    recipe: str
    seed: int | None
    steps: int | None
    step: int
    progress: float | None
    n_total: float | None
    n_non_embedding: float | None
    n_blocks: float | None
    n_blocks_and_head: float | None
    tokens: float | None
    unique_tokens: float | None
    flops_exact: float | None
    flops_6nd: float | None
    flops_palm: float | None
    losses: dict[str, float]
    loss: float | None = Field(description="The one of `losses`, where there is only one.")
    attempt: int
    failures: int
    worker: str | None
    stop_requested: bool
    message: str
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, shown: RunShown) -> "RunOut":
        return cls.model_validate(_members(shown))


class RunDetail(RunOut):
    config: dict[str, Any] = Field(description="What the training process reads.")
    fingerprint: dict[str, Any] = Field(description="What it was trained on and with.")
    corpus_digest: str | None

    @classmethod
    def of(cls, shown: RunShown) -> "RunDetail":
        return cls.model_validate(_members(shown))


def _members(shown: RunShown) -> dict[str, Any]:
    run, losses = shown.run, shown.losses
    return {
        **vars(run),
        "progress": min(1.0, run.step / run.steps) if run.steps else None,
        "losses": losses,
        "loss": next(iter(losses.values())) if len(losses) == 1 else None,
    }


class CurveOut(Answer):
    """Columns of one length, by step. Where `reduced`, a row is the mean of `n_points` steps."""

    run_id: int
    step: list[float]
    loss: list[float]
    lr: list[float | None]
    tokens: list[float | None]
    n_points: list[int]
    reduced: bool

    @classmethod
    def of(cls, curve: Curve) -> "CurveOut":
        return cls(
            run_id=curve.run_id,
            step=curve.step.tolist(),
            loss=curve.loss.tolist(),
            lr=known(curve.lr),
            tokens=known(curve.tokens),
            n_points=curve.n_points.tolist(),
            reduced=curve.reduced,
        )


class EvaluationOut(Answer):
    validation_set: str
    step: int
    train_tokens: float | None
    loss: float
    loss_unit: str
    tokens: float | None
    bytes: float | None
    bits_per_byte: float | None = Field(
        default=None, description="The unit across tokenizers, where tokens and bytes are known."
    )

    @classmethod
    def of(cls, stored: Any) -> "EvaluationOut":
        made = cls.model_validate(stored)
        if made.loss_unit == "bits/byte":
            made.bits_per_byte = made.loss
        elif made.loss_unit == "nats/byte":
            made.bits_per_byte = made.loss / math.log(2)
        elif made.tokens and made.bytes:
            made.bits_per_byte = made.loss * made.tokens / made.bytes / math.log(2)
        return made


class EvaluationsOut(Answer):
    run_id: int
    evaluations: list[EvaluationOut]


class MetricNames(Answer):
    run_id: int
    names: list[str]


class MetricOut(Answer):
    run_id: int
    name: str
    step: list[float]
    value: list[float]

    @classmethod
    def of(cls, run_id: int, series: Series) -> "MetricOut":
        return cls(
            run_id=run_id,
            name=series.name,
            step=series.step.tolist(),
            value=series.value.tolist(),
        )


def known(column: NDArray[np.float64]) -> list[float | None]:
    """NaN, which JSON has not, as null."""
    return [None if math.isnan(value) else value for value in column.tolist()]
