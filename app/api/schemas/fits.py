"""Laws, fits, predictions, allocations, forecasts. No law is named here: the registry fills the
enumeration and the examples when the document is made."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, to_json

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
from app.api.schemas.imports import FlopsConvention, LossUnit, NConvention
from app.errors import ServiceError
from app.services import fits, laws, predictions
from app.storage.predictions import StoredPrediction
from fitting import Prediction
from fitting.objective import ObjectiveKind

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _objects(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """As they are where they are JSON objects already: to copy each would take a fifth of a
    second."""
    most = predictions.MAX_POINTS
    if type(value) is list and 0 < len(value) <= most and set(map(type, value)) == {dict}:
        return value
    return handler(value)


# checked by hand, column by column: a model a point would cost ten times as much
Points = Annotated[
    list[dict[str, Any]],
    Field(min_length=1, max_length=predictions.MAX_POINTS),
    WrapValidator(_objects),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "maxItems": predictions.MAX_POINTS,
            "items": {"type": "object", "additionalProperties": {"type": ["number", "string"]}},
        }
    ),
]
Columns = Annotated[dict[str, Annotated[list[Finite], Field(min_length=1)]], Field(min_length=1)]


class _KnownLaw:
    """The name of a law; the schema lists the registry as it is when it is asked for."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": laws.names()}


def _known(name: str) -> str:
    if name not in laws.names():
        raise ValueError(f"there is no law {name[:60]!r}; use one of {', '.join(laws.names())}")
    return name


class _KnownLawOrAuto:
    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": [*laws.names(), fits.AUTO]}


def _known_or_auto(name: str) -> str:
    return name if name == fits.AUTO else _known(name)


LawName = Annotated[str, AfterValidator(_known), _KnownLaw]
LawNameOrAuto = Annotated[str, AfterValidator(_known_or_auto), _KnownLawOrAuto]


class SelectIn(Request):
    """Which finished runs of the project are fitted."""

    recipe: str | None = Field(
        default=None, min_length=1, max_length=200, description="The hash, or how it begins."
    )
    cooled: bool | None = Field(
        default=True, description="false: runs that were not cooled down; null: both."
    )
    min_steps: int | None = Field(default=None, ge=0, le=2**62)
    run_ids: list[RunId] | None = Field(default=None, min_length=1, max_length=100_000)
    n_convention: NConvention = "total"
    sweep: RunId | None = Field(default=None, description="The runs of this sweep alone.")

    def to_select(self) -> fits.Select:
        run_ids = None if self.run_ids is None else tuple(dict.fromkeys(self.run_ids))
        return fits.Select(
            self.recipe, self.cooled, self.min_steps, run_ids, self.n_convention, self.sweep
        )


class ObjectiveIn(Request):
    kind: ObjectiveKind = "huber-log"
    delta: PositiveFloat = Field(default=1e-3, description="Of Huber's loss, in log loss.")
    asymmetry: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        default=10.0,
        description="Of one-sided-log: how many times less a loss above the law counts than one "
        "below it; a run that was tuned badly can only be above.",
    )


class DataIn(Request):
    """What a law is fitted to: the finished runs of a project, or points of this body."""

    project: ProjectRef | None = None
    validation_set: Name | None = None
    select: SelectIn = Field(default_factory=SelectIn)
    points: Points | None = Field(
        default=None,
        description="One object a point: the law's inputs and `loss`; `run` where points belong "
        "together, `flops` where it is known, `weight` where points count differently, `left_out` "
        "(the reason) on a point that is kept with the fit and not fitted.",
    )
    n_convention: NConvention = "total"
    flops_convention: FlopsConvention = "6ND"
    loss_unit: LossUnit = "nats/token"
    objective: ObjectiveIn = Field(default_factory=ObjectiveIn)
    seed: Seed = 0

    def request_for(self, law: str) -> fits.FitRequest:
        """For the law of that name, or for "auto": the points with every input they have."""
        columns = columns_of_points(law, self.points) if self.points else {}
        return fits.FitRequest(
            law=law,
            project=self.project,
            validation_set=self.validation_set,
            select=self.select.to_select(),
            n_convention=self.n_convention,
            flops_convention=self.flops_convention,
            loss_unit=self.loss_unit,
            objective=self.objective.kind,
            delta=self.objective.delta,
            asymmetry=self.objective.asymmetry,
            seed=self.seed,
            **columns,
        )


class FitIn(DataIn):
    """A law and what it is fitted to: the runs of a project, or points of this body."""

    law: LawNameOrAuto = Field(
        description="auto: the law that forecasts the larger of these runs best."
    )
    draws: int | None = Field(
        default=None,
        ge=0,
        le=fits.MAX_DRAWS,
        description=f"Resamples of the runs. Default: {fits.DRAWS}; {fits.MANY_DRAWS} where there "
        f"are more than {fits.MANY_POINTS} points.",
    )
    level: Level = 0.9
    by_budget: bool = Field(
        default=False,
        description="Resample the runs of each compute budget among themselves, for a grid that "
        "was planned by budgets.",
    )

    def to_request(self) -> fits.FitRequest:
        asked = self.request_for(self.law)
        return replace(asked, draws=self.draws, level=self.level, by_budget=self.by_budget)


class CompareIn(DataIn):
    """Which laws, and on what: the runs of a project, or points of this body."""

    laws: list[LawName] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Default: every law whose inputs all of these runs have; with N and D, none of "
        "compute alone that bends.",
    )

    def to_request(self) -> fits.FitRequest:
        return self.request_for(fits.AUTO)


class RankedOut(Answer):
    """error: held-out RMS of ln(loss / predicted), over all cuts; score: with a penalty on many
    parameters and few runs, what the ranking goes by; bias: the mean, above zero where the law
    promises too much; worst: the one farthest off."""

    law: str
    score: float
    error: float
    bias: float
    worst: float
    n_params: int
    weight: float = Field(description="In the stack: better laws count more; adds up to one.")


class SkippedOut(Answer):
    law: str
    reason: str


class HeldOutOut(Answer):
    """One cut: how many points the laws were fitted to, and how many they predicted."""

    trained: int
    predicted: int


class CompareOut(Answer):
    ranked: list[RankedOut] = Field(description="Best first.")
    skipped: list[SkippedOut]
    held_out: list[HeldOutOut]
    drawn_from: int | None = Field(
        description="Points that those of `held_out` were drawn from at random; null: all judge."
    )
    n_points: int
    digest: str
    n_convention: str
    flops_convention: str
    loss_unit: str
    run_ids: list[int]
    left_out: list[dict[str, Any]]


class FitOut(Timed):
    """`document` is FIT.json: parameters at full precision, intervals, warnings, conventions; its
    `draws` come with ?draws=true."""

    id: int
    project_id: int | None
    law: str
    status: str
    digest: str
    run_ids: list[int]
    request: dict[str, Any]
    document: dict[str, Any]


class FitPointOut(Answer):
    run_id: int | None
    run: str | None
    inputs: dict[str, float]
    loss: float


class FitPoints(Answer):
    fit_id: int
    points: list[FitPointOut]


class ResidualOut(Answer):
    """residual: ln(loss / law); deviations: the same in units of `noise`; suspect: beyond five."""

    run_id: int | None
    run: str | None
    inputs: dict[str, float]
    loss: float
    law: float
    residual: float
    deviations: float | None
    suspect: bool
    left_out: str | None


class IntervalOut(Answer):
    """interval is null where there is none; `reason` says why."""

    interval: tuple[float | None, float | None] | None
    method: str | None = None
    reason: str | None = None


class ProfileOut(Answer):
    """The parameter held at `values` and all others refitted: `statistic` is zero at the fit and
    `threshold` at the ends of the interval; an end that was not met is null."""

    lower: float | None
    upper: float | None
    values: list[float]
    statistic: list[float]
    threshold: float


class DiagnosedParameter(Answer):
    name: str
    value: float
    draws: IntervalOut
    sandwich: IntervalOut
    profile: ProfileOut | None
    profile_reason: str | None


class CorrelationsOut(Answer):
    """matrix: of the draws, [] without any; parameters `on_log_scale` as their logarithms."""

    names: list[str]
    on_log_scale: list[str]
    matrix: list[list[float | None]]
    condition: float | None


class DiagnosticsOut(Answer):
    """noise: of one run about the law, a standard deviation in log loss. isoflop: for a law of N
    and D, each approach to the compute optimum with its power laws, or `refused`."""

    fit_id: int
    law: str
    status: str
    message: str
    level: float
    warnings: list[dict[str, Any]]
    noise: float | None
    residuals: list[ResidualOut]
    parameters: list[DiagnosedParameter]
    correlations: CorrelationsOut
    certificate: dict[str, float | None]
    calibration: dict[str, float | None]
    isoflop: list[dict[str, Any]]


class LawOut(Answer):
    name: str
    title: str
    latex: str
    source: str
    about: str
    inputs: list[dict[str, Any]]
    params: list[dict[str, Any]]
    published: dict[str, Any] | None
    example: dict[str, Any]


class LawsOut(Answer):
    items: list[LawOut]


class PredictionIn(Request):
    """`points` as objects, or `at` as columns (faster where there are many)."""

    fit: RunId
    points: Points | None = None
    at: Columns | None = None
    level: Level | None = Field(default=None, description="Default: the fit's own.")
    keep: bool = Field(default=False, description="Store the answer and give it an id.")

    @model_validator(mode="after")
    def _one_of_two(self) -> "PredictionIn":
        if (self.points is None) == (self.at is None):
            raise ValueError("give points or at, and not both")
        return self

    def inputs(self) -> Mapping[str, list[float]]:
        return self.at if self.at is not None else columns_of(self.points or [])


class Predicted(Answer):
    inputs: dict[str, float]
    loss: float
    lower: float
    upper: float
    reach: dict[str, float] = Field(description="Times beyond the largest run, by input.")


class PredictionOut(Answer):
    fit: int
    law: str
    level: float
    loss_unit: str
    predictions: list[Predicted]
    warnings: list[dict[str, str]] = Field(
        default_factory=list, description="What the intervals cannot know, by code."
    )
    id: int | None = None
    created_at: datetime | None = None

    @classmethod
    def written(cls, fit: int, found: Prediction, **more: Any) -> str:
        """The answer as JSON, column by column: to make an object of each of 100,000 points, and
        to check it, would take longer than to predict them."""
        whole = cls(
            fit=fit,
            law=found.law,
            level=found.level,
            loss_unit=found.loss_unit,
            predictions=[],
            warnings=list(found.warnings),
            **more,
        ).model_dump_json()
        names = list(found.inputs)
        inputs, reach = (",".join(f"{to_json(name).decode()}:%s" for name in names),) * 2
        row = f'{{"inputs":{{{inputs}}},"loss":%s,"lower":%s,"upper":%s,"reach":{{{reach}}}}}'
        columns = [
            to_json(column.tolist(), inf_nan_mode="null").decode()[1:-1].split(",")
            for column in (
                *(found.inputs[name] for name in names),
                found.value,
                found.lower,
                found.upper,
                *(found.reach[name] for name in names),
            )
        ]
        rows = ",".join([row % cells for cells in zip(*columns, strict=True)])
        return whole.replace('"predictions":[]', f'"predictions":[{rows}]', 1)

    @classmethod
    def of(cls, stored: StoredPrediction) -> "PredictionOut":
        return cls.model_validate(
            {
                **stored.document,
                "fit": stored.fit_id,
                "id": stored.id,
                "created_at": stored.created_at,
            }
        )


class ForecastIn(Request):
    """A prediction that is kept. With `run` it is scored when that run lands."""

    fit: RunId
    run: RunId | None = None
    inputs: dict[str, PositiveFloat] | None = Field(default=None, min_length=1)
    validation_set: Name | None = Field(default=None, description="Default: the fit's.")
    project: ProjectRef | None = None
    level: Level | None = None
    backtest: bool = Field(
        default=False, description="Score on a run that is known already; it is marked for ever."
    )


class ForecastOut(Timed):
    """made: before_training, while_training, backtest or of_inputs. error: (loss - actual) /
    actual. reach and compute_ratio: times the largest run of the fit."""

    id: int
    project_id: int
    fit_id: int
    run_id: int | None
    run_name: str | None
    run_status: str | None
    law: str
    fit_status: str
    validation_set: str
    loss_unit: str
    inputs: dict[str, float]
    level: float
    loss: float
    lower: float
    upper: float
    reach: dict[str, float]
    compute_ratio: float | None
    made: Literal["before_training", "while_training", "backtest", "of_inputs"]
    actual: float | None
    error: float | None
    inside: bool | None
    scored_at: datetime | None


def columns_of(
    points: list[dict[str, Any]], names: Sequence[str] | None = None
) -> dict[str, list[float]]:
    """Points -> columns of `names` (None: the first point's members). Rows are counted from 1."""
    return {name: _column(points, name) for name in (points[0] if names is None else names)}


def columns_of_points(law: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    """The points of a fit: its law's inputs (for "auto": those of every law), the losses, run
    labels, FLOPs, weights and reasons to leave a point out where given. A C that is not there is
    the FLOPs, else 6 N D."""
    names: Sequence[str]
    if law == fits.AUTO:
        names = [name for name in laws.input_names() if name in points[0]]
    else:
        names = laws.find(law).input_names
        if "U" in points[0]:  # a law without it is warned of repeated tokens
            names = list(dict.fromkeys([*names, "U"]))
    columns: dict[str, Any] = {
        "inputs": {
            name: _compute(points) if name == "C" else _column(points, name) for name in names
        },
        "loss": _column(points, "loss"),
    }
    if "flops" in points[0]:
        columns["flops"] = _column(points, "flops")
    if "run" in points[0]:
        columns["run"] = [str(_cell(points, i, "run")) for i in range(len(points))]
    if "weight" in points[0]:
        columns["weight"] = _column(points, "weight")
    if any(point.get("left_out") for point in points):
        columns["left_out"] = [str(point.get("left_out") or "") or None for point in points]
    return columns


def _compute(points: list[dict[str, Any]]) -> list[float]:
    if "C" not in points[0] and "flops" in points[0]:
        return _column(points, "flops")
    if "C" in points[0] or not {"N", "D"} <= set(points[0]):
        return _column(points, "C")
    return [6.0 * n * d for n, d in zip(_column(points, "N"), _column(points, "D"), strict=True)]


def _column(points: list[dict[str, Any]], name: str) -> list[float]:
    with contextlib.suppress(KeyError, OverflowError):  # which one, and why, is said below
        cells = [point[name] for point in points]
        if set(map(type, cells)) <= {int, float}:
            return list(map(float, cells))
    column = []
    for i in range(len(points)):
        cell = _cell(points, i, name)
        if isinstance(cell, bool) or not isinstance(cell, int | float):
            raise _bad(i, name, cell, "is not a number")
        try:
            column.append(float(cell))
        except OverflowError:
            raise _bad(i, name, cell, "is too large") from None
    return column


def _cell(points: list[dict[str, Any]], i: int, name: str) -> Any:
    if name not in points[i]:
        raise ServiceError(
            "invalid",
            f"Point {i + 1} has no {name!r}.",
            "Give every point the same members.",
            row=i + 1,
            column=name,
        )
    return points[i][name]


def _bad(i: int, name: str, cell: Any, what: str) -> ServiceError:
    return ServiceError(
        "invalid",
        f"{name} of point {i + 1} {what}.",
        "Give a finite number.",
        row=i + 1,
        column=name,
        value=cell,
    )
