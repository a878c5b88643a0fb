"""Task laws: accuracy from loss."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from app.api.schemas.common import (
    Answer,
    Level,
    Name,
    PositiveFloat,
    ProjectRef,
    Request,
    RunId,
    Seed,
    Timed,
)
from app.api.schemas.fits import Columns, Points, columns_of
from app.api.schemas.imports import LossUnit
from app.api.schemas.links import LinkPredictionOut, Some, several
from app.services import links, tasks
from app.services.links import SourceLoss
from app.services.tasks import TaskRequest
from fitting.tasks import CURVES

Form = Literal["auto", "sigmoid", "decay", "softmin", "threshold"]
assert set(Form.__args__) == {tasks.AUTO, *CURVES}  # type: ignore[attr-defined]
Bounds = Annotated[
    list[tuple[PositiveFloat, PositiveFloat]],
    Field(min_length=1, max_length=links.MAX_LOSSES),
]

# .25 + .6 / (1 + exp(5 (L - 2.6))), to two digits
EXAMPLE_POINTS: list[JsonValue] = [
    {"run": f"run {place + 1}", "loss": loss, "accuracy": accuracy}
    for place, (loss, accuracy) in enumerate(
        [(3.4, 0.26), (3.1, 0.3), (2.9, 0.36), (2.7, 0.48), (2.6, 0.55), (2.5, 0.62), (2.4, 0.69)]
    )
]


class TaskIn(Request):
    """Accuracies at losses, and what is known of the task."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "arc-easy", "points": EXAMPLE_POINTS, "chance": 0.25}]
        }
    )

    name: Name | None = Field(default=None, description="The task's.")
    project: ProjectRef | None = None
    points: Points = Field(
        description="One object a run or checkpoint: `loss`, `accuracy` (a share, not a percent), "
        "and `run` where points belong together."
    )
    form: Form = Field(default="auto", description="auto: the curve of least AICc.")
    chance: float | None = Field(
        default=None, ge=0, lt=1, description="The accuracy of guessing: the curve starts there."
    )
    questions: int | None = Field(
        default=None, ge=1, le=10**9, description="How many the task has, for its binomial noise."
    )
    loss_floor: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="E of the loss, for the soft-min."
    )
    loss_unit: LossUnit = "nats/token"
    link: RunId | None = Field(
        default=None, description="A link whose target is this task's loss: the first step."
    )
    draws: int = Field(default=200, ge=0, le=tasks.MAX_DRAWS)
    level: Level = 0.9
    seed: Seed = 0

    def to_request(self) -> TaskRequest:
        columns = columns_of(self.points, ["loss", "accuracy"])
        run = None
        if all("run" in point for point in self.points):
            run = [str(point["run"]) for point in self.points]
        return TaskRequest(
            loss=columns["loss"],
            accuracy=columns["accuracy"],
            run=run,
            name=self.name or "",
            form=self.form,
            chance=self.chance,
            questions=self.questions,
            loss_floor=self.loss_floor,
            loss_unit=self.loss_unit,
            link=self.link,
            project=self.project,
            draws=self.draws,
            level=self.level,
            seed=self.seed,
        )


class TaskOut(Timed):
    """`document` is TASK.json: the curve, its parameters with intervals, `grade` (A to D: how
    predictable the task is), warnings, and the points; its `draws` come with ?draws=true."""

    id: int
    project_id: int | None
    kind: str
    status: str
    digest: str
    request: dict[str, Any]
    document: dict[str, Any]


class TaskPredictionIn(Request):
    """One of: the task's own `loss`; the `source_loss` that its link starts from; a `fit` that
    forecasts one of the two at `points` (`of` says which)."""

    loss: PositiveFloat | Some | None = None
    source_loss: PositiveFloat | Some | None = None
    measured: bool = Field(default=True, description="false: the source loss is a forecast.")
    interval: Bounds | None = Field(
        default=None, description="[lower, upper] of each loss; then it counts as predicted."
    )
    fit: RunId | None = None
    points: Points | None = None
    at: Columns | None = None
    of: Literal["task", "source"] = Field(
        default="task",
        description="Whose loss the fit forecasts: the task's, or the link's source.",
    )
    flops: PositiveFloat | Some | None = None
    level: Level | None = None

    @model_validator(mode="after")
    def _one_loss(self) -> "TaskPredictionIn":
        given = [self.loss is not None, self.source_loss is not None, self.fit is not None]
        if sum(given) != 1:
            raise ValueError("give one of loss, source_loss and fit")
        if self.fit is not None and (self.points is None) == (self.at is None):
            raise ValueError("a fit forecasts at points, or at columns (at), and not both")
        return self

    @property
    def through_link(self) -> bool:
        return self.source_loss is not None or (self.fit is not None and self.of == "source")

    def asked(self) -> SourceLoss:
        inputs = self.at
        if inputs is None and self.points is not None:
            inputs = columns_of(self.points)
        loss = self.loss if self.loss is not None else self.source_loss
        return SourceLoss(
            loss=several(loss),
            measured=self.measured,
            lower=None if self.interval is None else [low for low, _ in self.interval],
            upper=None if self.interval is None else [high for _, high in self.interval],
            fit=self.fit,
            inputs=inputs,
            flops=several(self.flops),
            level=self.level,
        )


class TaskPredicted(Answer):
    """reach: how far the loss lies below the data, in spans of the data. below_threshold: the curve
    is at chance there, and says nothing but that."""

    loss: float
    accuracy: float
    lower: float
    upper: float
    reach: float
    below_threshold: bool


class TaskPredictionOut(Answer):
    """loss_is: `measured`, or `predicted` by a fit or the link, which `link` then shows."""

    task: int
    grade: str
    loss_is: Literal["measured", "predicted"]
    level: float
    predictions: list[TaskPredicted]
    warnings: list[dict[str, Any]]
    link: LinkPredictionOut | None
