"""Loss curves, schedules, continual pre-training and forecasts in flight."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

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
from app.services import continual, loss_curves
from app.services.continual import ContinualRequest
from app.services.loss_curves import CurveRequest
from app.storage.fitted import Stored
from fitting.curves import CURVE_LAWS, ENSEMBLE, ContinualCurve, Curve, Schedule, Transfer
from fitting.errors import FittingError

MOST_POINTS = 2_000_000
Finite = Annotated[float, Field(allow_inf_nan=False)]
Steps = Annotated[list[Annotated[int, Field(ge=0, le=2**53)]], Field(min_length=1)]
Losses = Annotated[list[Finite], Field(min_length=1)]
CurveLawName = Annotated[
    str, WithJsonSchema({"type": "string", "enum": [ENSEMBLE, *sorted(CURVE_LAWS)]})
]
ScheduleSpec = Annotated[
    dict[str, Any],
    Field(
        description="What regenerates every step's learning rate: "
        '{"kind": "constant|wsd|cosine|linear|step|cyclic|stages|array", "steps", "peak_lr", '
        '"warmup_steps", "cooldown_steps", "decay", "final_fraction", ...}.',
        examples=[{"kind": "cosine", "steps": 20000, "peak_lr": 1e-3, "warmup_steps": 500}],
    ),
]
Ratio = Annotated[float, Field(ge=0, lt=1, description="Share of old text in the mixture.")]


class CurveIn(Request):
    """One run: losses at steps, with the schedule or the rate logged at each of them."""

    run: Name
    step: Steps
    loss: Losses
    schedule: ScheduleSpec | None = None
    lr: Losses | None = None
    size: PositiveFloat | None = Field(default=None, description="N, for laws that read it.")

    @model_validator(mode="after")
    def _pairs(self) -> "CurveIn":
        if len(self.step) != len(self.loss):
            raise ValueError(f"{len(self.step)} steps and {len(self.loss)} losses")
        if len(self.step) > MOST_POINTS:
            raise ValueError(f"more than {MOST_POINTS} points")
        if (self.schedule is None) == (self.lr is None):
            raise ValueError("give the schedule, or the lr of every step")
        if self.lr is not None and len(self.lr) != len(self.step):
            raise ValueError(f"{len(self.step)} steps and {len(self.lr)} rates")
        return self

    def to_curve(self) -> Curve:
        schedule = (
            Schedule.from_dict(self.schedule)
            if self.schedule is not None
            else Schedule.from_points(self.step, self.lr or [])
        )
        return Curve.of(self.run, self.step, self.loss, schedule, self.size)


class CurveFitIn(Request):
    """A law of the whole curve, and the runs: of this body, or a project's finished ones."""

    law: CurveLawName = ENSEMBLE
    curves: list[CurveIn] | None = Field(default=None, min_length=1, max_length=500)
    project: ProjectRef | None = None
    run_ids: list[RunId] | None = Field(default=None, min_length=1, max_length=500)
    validation_set: Name | None = Field(default=None, description="Default: the training loss.")
    draws: int = Field(default=200, ge=0, le=loss_curves.MAX_DRAWS)
    level: Level = 0.9
    seed: Seed = 0
    first_step: int | None = Field(
        default=None, ge=1, le=2**53, description="Leave out earlier points; default: warm-up."
    )
    momentum: float | None = Field(
        default=None, ge=0.5, lt=1, description="Of the annealing sum; default: by the data."
    )

    def to_request(self) -> CurveRequest:
        return CurveRequest(
            law=self.law,
            curves=tuple(one.to_curve() for one in self.curves or ()),
            project=self.project,
            run_ids=None if self.run_ids is None else tuple(self.run_ids),
            validation_set=self.validation_set,
            draws=self.draws,
            level=self.level,
            seed=self.seed,
            first_step=self.first_step,
            options={} if self.momentum is None else {"momentum": self.momentum},
        )


class StoredOut(Timed):
    """document: the fit, without its resamples. kind: the law."""

    id: int
    project_id: int | None
    kind: str
    status: str
    digest: str
    request: dict[str, Any]
    document: dict[str, Any]
    run_ids: list[int]
    created_at: datetime

    @classmethod
    def of(cls, stored: Stored) -> "StoredOut":
        document = stored.document
        if set(document) == set(continual.ROLES):
            shown = {role: loss_curves.without_draws(document[role]) for role in document}
        else:
            shown = loss_curves.without_draws(document)
        return cls(**{**vars(stored), "document": shown})


class AskIn(Request):
    fit: RunId = Field(description="Of POST /v1/curves/fit.")
    size: PositiveFloat | None = None
    level: Level | None = None


class CurvePredictIn(AskIn):
    """The loss along a run with this schedule."""

    schedule: ScheduleSpec
    steps: Steps | None = Field(default=None, max_length=100_000, description="Default: the last.")

    def to_schedule(self) -> Schedule:
        return Schedule.from_dict(self.schedule)


class CurvePredictionOut(Answer):
    """final: the loss after the last step, by each law too; curve: at each step that was asked
    for; reach: times beyond the fitted curves."""

    fit: int
    level: float
    final: dict[str, Any]
    curve: list[dict[str, Any]]
    reach: dict[str, float | None]
    warnings: list[dict[str, Any]]


class RankIn(AskIn):
    """Schedules of one peak rate, by name."""

    schedules: dict[Name, ScheduleSpec] = Field(min_length=1, max_length=200)

    def to_schedules(self) -> dict[str, Schedule]:
        return {name: Schedule.from_dict(spec) for name, spec in self.schedules.items()}


class RankOut(Answer):
    """Best first; `behind` the best with its interval; by: the laws that ranked."""

    fit: int
    ranked: list[dict[str, Any]]
    by: list[str]
    level: float
    warnings: list[dict[str, Any]]


class OptimizeIn(AskIn):
    """A run of so many steps at a given peak rate: no law of the curve may choose that."""

    steps: int = Field(ge=10, le=1_000_000, description="504 schedules of so many are looked at.")
    peak_lr: PositiveFloat
    warmup_steps: int = Field(default=0, ge=0, le=10_000_000)


class OptimizeOut(Answer):
    """best: hold, power and floor with the loss; ties: as good; predicted_gain: over schedules
    that people use."""

    fit: int
    best: dict[str, float]
    schedule: dict[str, Any]
    ranking: dict[str, Any]
    ties: list[dict[str, Any]]
    grid: int
    predicted_gain: dict[str, float]
    warnings: list[dict[str, Any]]


class ContinualCurveIn(Request):
    """One run's loss on one domain. Steps of a continual run count from its transfer."""

    run: Name
    role: Literal["general", "domain"]
    step: Steps
    loss: Losses
    schedule: ScheduleSpec
    before: ScheduleSpec | None = Field(
        default=None, description="Pre-training until the transfer; none: a pre-training run."
    )
    replay_ratio: Ratio = 0.0
    size: PositiveFloat | None = None
    unknown: bool = Field(
        default=False, description="Open weights: continual, but nobody knows from what."
    )

    def to_curve(self) -> ContinualCurve:
        if len(self.step) != len(self.loss):
            raise FittingError(
                "shape", f"Run {self.run}: {len(self.step)} steps, {len(self.loss)} losses."
            )
        return ContinualCurve.of(
            self.run,
            self.step,
            self.loss,
            Schedule.from_dict(self.schedule),
            None if self.before is None else Schedule.from_dict(self.before),
            self.replay_ratio,
            self.size,
            self.unknown,
        )


class ContinualFitIn(Request):
    """Two domains, and the runs: of this body, or a project's continual runs and their parents."""

    general: Name = Field(description="What pre-training was about: a validation set.")
    domain: Name = Field(description="What the continual runs are about.")
    curves: list[ContinualCurveIn] | None = Field(default=None, min_length=1, max_length=1000)
    project: ProjectRef | None = None
    run_ids: list[RunId] | None = Field(default=None, min_length=1, max_length=500)
    convention: Literal["reset", "carry"] | None = Field(
        default=None, description="Momentum at the transfer; default: by the data."
    )
    draws: int = Field(default=200, ge=0, le=loss_curves.MAX_DRAWS)
    level: Level = 0.9
    seed: Seed = 0

    @model_validator(mode="after")
    def _two_domains(self) -> "ContinualFitIn":
        if self.general == self.domain:
            raise ValueError("general and domain are one validation set")
        return self

    def to_request(self) -> ContinualRequest:
        curves = None
        if self.curves is not None:
            curves = {
                role: tuple(one.to_curve() for one in self.curves if one.role == role)
                for role in continual.ROLES
            }
        return ContinualRequest(
            self.general,
            self.domain,
            curves,
            self.project,
            None if self.run_ids is None else tuple(self.run_ids),
            self.convention,
            self.draws,
            self.level,
            self.seed,
        )


class ContinualPredictIn(Request):
    """A continual run that is planned: both losses along it."""

    fit: RunId = Field(description="Of POST /v1/cpt/fit.")
    schedule: ScheduleSpec
    before: ScheduleSpec | None = None
    replay_ratio: Ratio = 0.0
    size: PositiveFloat | None = None
    steps: Steps | None = Field(default=None, max_length=100_000)
    level: Level | None = None

    def to_transfer(self) -> Transfer:
        return Transfer(
            None if self.before is None else Schedule.from_dict(self.before),
            Schedule.from_dict(self.schedule),
            self.replay_ratio,
            self.size,
        )


class ContinualPredictionOut(Answer):
    """general and domain: as for curves; forgetting: whether the general loss comes back, after
    how many steps (turning length), and its asymptote."""

    fit: int
    general: dict[str, Any]
    domain: dict[str, Any]
    forgetting: dict[str, Any] | None


class ContinualPlanIn(Request):
    """The continual run of least general_weight x general + (1 - general_weight) x domain loss."""

    fit: RunId
    general_weight: float = Field(ge=0, le=1)
    before: ScheduleSpec
    loss_potentials: list[float] | None = Field(
        default=None,
        min_length=1,
        max_length=20,
        description="End rates of pre-training over its peak to choose from; default: `before`.",
    )
    steps: list[Annotated[int, Field(ge=1, le=10_000_000)]] = Field(min_length=1, max_length=20)
    peak_lrs: list[PositiveFloat] | None = Field(default=None, min_length=1, max_length=50)
    replay_ratios: list[Ratio] | None = Field(default=None, min_length=1, max_length=50)
    warmup_steps: int = Field(default=0, ge=0, le=10_000_000)
    most_general_rise: PositiveFloat | None = None
    level: Level = 0.9

    def to_before(self) -> Schedule:
        return Schedule.from_dict(self.before)

    def options(self) -> dict[str, Any]:
        return self.model_dump(
            include={"peak_lrs", "replay_ratios", "warmup_steps", "most_general_rise", "level"}
        )


class ContinualPlanOut(Answer):
    fit: int
    plan: dict[str, Any]


class InFlightOut(Answer):
    """final: the loss after the last step, with its interval; offset: how far the run is off the
    law; reach: times beyond the fitted curves; residuals: in standard deviations; alarm: the last
    few are far too high; health: spikes and divergence; advice: where an incumbent was given."""

    run: int
    fit: int
    law: str
    validation_set: str | None
    status: str
    step: int
    last_step: int
    share_seen: float
    final: dict[str, Any]
    law_only: float
    offset: float
    offset_points: int
    residuals: list[dict[str, Any]]
    alarm: bool
    reach: dict[str, float]
    health: dict[str, Any] | None
    advice: dict[str, Any] | None
    warnings: list[dict[str, Any]]
