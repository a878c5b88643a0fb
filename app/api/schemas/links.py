"""Loss-to-loss: links, what they predict, translations, plans."""

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
from app.api.schemas.fits import Columns, Points, SelectIn, columns_of
from app.api.schemas.imports import FlopsConvention, LossUnit, NConvention
from app.errors import ServiceError
from app.services import links
from app.services.fits import FitRequest
from app.services.link_plans import PlanRequest
from app.services.link_sets import LinkSet
from app.services.links import LinkRequest, SourceLoss
from fitting.loss_to_loss import KINDS, METHODS
from fitting.loss_to_loss.kinds import NEAR_ONE

Kind = Literal["train_to_train", "train_to_test", "test_to_test", "general"]
Method = Literal["joint", "paper_ols", "free_E1", "odr"]
Pairing = Literal["exact", "frontier"]
assert Kind.__args__ == tuple(KINDS)  # type: ignore[attr-defined]
assert Method.__args__ == METHODS  # type: ignore[attr-defined]
Floor = Annotated[float | None, Field(default=None, ge=0, allow_inf_nan=False)]
Some = Annotated[list[PositiveFloat], Field(min_length=1, max_length=links.MAX_LOSSES)]


class SetIn(Request):
    """One side of a link: the finished runs of a project on a validation set, or points."""

    name: Name | None = Field(default=None, description="Default: the validation set's.")
    project: ProjectRef | None = Field(default=None, description="Default: the link's.")
    validation_set: Name | None = None
    select: SelectIn = Field(default_factory=SelectIn)
    points: Points | None = Field(
        default=None, description="One object a run: N, D and `loss`; `flops` where it is known."
    )
    n_convention: NConvention = "total"
    flops_convention: FlopsConvention = "6ND"
    loss_unit: LossUnit = Field(default="nats/token", description="Of the points.")
    tokens_per_byte: PositiveFloat | None = Field(
        default=None, description="Of the validation text; of runs it is known."
    )
    tokenizer: Name | None = None
    mixture: Name | None = Field(default=None, description="What the points were trained on.")

    def to_set(self, project: str | int | None, side: str) -> LinkSet:
        columns: dict[str, Any] = {}
        if self.points is not None:
            columns = _plane(self.points, side)
        data = FitRequest(
            law="",
            project=None if columns else (self.project if self.project is not None else project),
            validation_set=self.validation_set,
            select=self.select.to_select(),
            n_convention=self.n_convention,
            flops_convention=self.flops_convention,
            loss_unit=self.loss_unit,
            **columns,
        )
        return LinkSet(data, self.name, self.tokens_per_byte, self.tokenizer, self.mixture)


class OtherSetIn(SetIn):
    """A further set that shares N and D with the others: `joint` learns from it."""


class KappaPrior(Request):
    mean: PositiveFloat = 1.0
    sd: PositiveFloat = NEAR_ONE[1]


# 1.8 + z and 1.2 + .8 z^1.05 on a grid of sizes and tokens
EXAMPLE_PAIRS: list[JsonValue] = [
    {"N": 1e8, "D": 2e9, "source": 3.3692, "target": 2.484},
    {"N": 1e8, "D": 8e9, "source": 3.0521, "target": 2.213},
    {"N": 1e8, "D": 3.2e10, "source": 2.8596, "target": 2.0502},
    {"N": 3e8, "D": 2e9, "source": 3.1317, "target": 2.2807},
    {"N": 3e8, "D": 8e9, "source": 2.8146, "target": 2.0122},
    {"N": 3e8, "D": 3.2e10, "source": 2.6221, "target": 1.8512},
    {"N": 9e8, "D": 2e9, "source": 2.9681, "target": 2.1418},
    {"N": 9e8, "D": 8e9, "source": 2.6511, "target": 1.8754},
    {"N": 9e8, "D": 3.2e10, "source": 2.4585, "target": 1.7159},
]


class LinkIn(Request):
    """Two sets of runs, or `points` that hold both losses, and how they are tied together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "train_to_train", "points": EXAMPLE_PAIRS, "draws": 50}]
        }
    )

    project: ProjectRef | None = None
    kind: Kind | None = Field(
        default=None,
        description="Default: train_to_test where the sides share runs, test_to_test where they "
        "share the validation set, else train_to_train.",
    )
    source: SetIn | None = None
    target: SetIn | None = None
    points: Points | None = Field(
        default=None,
        description="Pairs, in place of both sides: N, D, `source` and `target`, the two losses.",
    )
    others: list[OtherSetIn] = Field(default_factory=list, max_length=links.MAX_SETS - 2)
    method: Method | None = Field(
        default=None, description="Default: joint; along the frontier free_E1."
    )
    pairing: Pairing = Field(
        default="exact",
        description="frontier: best runs by budget, for sets that share no N and D.",
    )
    loss_unit: LossUnit | None = Field(
        default=None,
        description="Convert all losses to it; bits/byte across tokenizers. Default: as measured.",
    )
    E0: Floor
    E1: Floor
    floor_law: Literal["chinchilla", "kaplan_floor"] | None = Field(
        default=None, description="Whose E is a floor that is neither given nor free."
    )
    kappa_prior: KappaPrior | Literal["default", "none"] = Field(
        default="default",
        description=f"Of the joint method; default: N(1, {NEAR_ONE[1]:g}) train-to-train.",
    )
    noise_ratio: PositiveFloat = Field(
        default=1.0, description="Noise of the target over the source's, for odr."
    )
    hold_out_above_flops: PositiveFloat | None = Field(
        default=None, description="Pairs beyond it are predicted and scored, not fitted."
    )
    draws: int = Field(default=400, ge=0, le=links.MAX_DRAWS)
    resample: Literal["cell", "budget"] = "cell"
    level: Level = 0.9
    seed: Seed = 0

    @model_validator(mode="after")
    def _both_sides(self) -> "LinkIn":
        if (self.points is None) == (self.source is None or self.target is None):
            raise ValueError("give source and target, or points with both losses, and not both")
        return self

    def to_request(self) -> LinkRequest:
        if self.points is not None:
            source, target = _sides(self.points)
        else:
            assert self.source is not None and self.target is not None
            source = self.source.to_set(self.project, "source")
            target = self.target.to_set(self.project, "target")
        prior: tuple[float, float] | str | None
        if isinstance(self.kappa_prior, KappaPrior):
            prior = (self.kappa_prior.mean, self.kappa_prior.sd)
        else:
            prior = None if self.kappa_prior == "none" else "default"
        return LinkRequest(
            source=source,
            target=target,
            others=tuple(
                one.to_set(self.project, f"others.{place + 1}")
                for place, one in enumerate(self.others)
            ),
            kind=self.kind,
            method=self.method,
            pairing=self.pairing,
            unit=self.loss_unit,
            E0=self.E0,
            E1=self.E1,
            floor_law=self.floor_law,
            kappa_prior=prior,
            noise_ratio=self.noise_ratio,
            hold_out=self.hold_out_above_flops,
            draws=self.draws,
            resample=self.resample,
            level=self.level,
            seed=self.seed,
        )


class LinkOut(Timed):
    """`document` is LINK.json: kappa, K, E0, E1 with intervals, status, warnings, backtest, and the
    `pairs` it was fitted to (`drawn_from`: of how many they were drawn at random); its `draws` come
    with ?draws=true."""

    id: int
    project_id: int | None
    kind: str
    status: str
    digest: str
    run_ids: list[int]
    request: dict[str, Any]
    document: dict[str, Any]


class LinkPredictionIn(Request):
    """The source's loss: `source_loss`, or a `fit` that forecasts it at `points` (or `at`)."""

    source_loss: PositiveFloat | Some | None = None
    measured: bool = Field(
        default=True,
        description="false: the source loss is itself a forecast, and its error joins the "
        "interval: from `source_interval`, else from how well the source's own law forecasts.",
    )
    source_interval: list[tuple[PositiveFloat, PositiveFloat]] | None = Field(
        default=None,
        min_length=1,
        max_length=links.MAX_LOSSES,
        description="[lower, upper] of each source loss; then it counts as predicted.",
    )
    fit: RunId | None = None
    points: Points | None = None
    at: Columns | None = None
    flops: PositiveFloat | Some | None = Field(
        default=None, description="Training compute of the runs: how far they reach."
    )
    mixture: Name | None = Field(default=None, description="What the runs were trained on.")
    level: Level | None = Field(default=None, description="Default: the link's own.")

    def asked(self) -> SourceLoss:
        bounds = self.source_interval
        inputs = self.at
        if inputs is None and self.points is not None:
            inputs = columns_of(self.points)
        return SourceLoss(
            loss=several(self.source_loss),
            measured=self.measured,
            lower=None if bounds is None else [low for low, _ in bounds],
            upper=None if bounds is None else [high for _, high in bounds],
            fit=self.fit,
            inputs=inputs,
            flops=several(self.flops),
            mixture=self.mixture,
            level=self.level,
        )


class LinkPredicted(Answer):
    """variance: of the log loss, by what it comes from."""

    source_loss: float
    loss: float
    lower: float
    upper: float
    reach: dict[str, float | None] = Field(
        description="Times beyond the largest pair: in compute, and in loss above the floor."
    )
    variance: dict[str, float | None]


class LinkPredictionOut(Answer):
    """source_is: `measured`, or `predicted` where the source's loss is itself a forecast."""

    link: int
    source_fit: int | None
    source: str
    target: str
    source_is: Literal["measured", "predicted"]
    level: float
    loss_unit: str
    predictions: list[LinkPredicted]
    warnings: list[dict[str, Any]]


class TranslationIn(Request):
    fit: RunId = Field(description="A fit of a law of N and D with a floor, on the source's runs.")
    own_floor: bool = Field(
        default=True,
        description="Where E0 was fitted, fit the link again with the fit's floor: only then "
        "is the linked law one of the registry. false: keep the link's E0.",
    )


class TranslationOut(Answer):
    """fit: the id of the translated law, which predicts and allocates as any fit; null where it is
    a composition of law and link, which no stored fit can hold. link: what carried it over, which
    is another one where the link was fitted again."""

    link: int
    source_fit: int
    fit: int | None
    form: Literal["closed", "composition"]
    law: str
    params: dict[str, float]
    intervals: dict[str, Any]
    warnings: list[dict[str, Any]]


class CellIn(Request):
    N: PositiveFloat
    D: PositiveFloat


class LinkPlanIn(Request):
    """Which of the source's cells to train on the target data."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "source": {
                        "points": [
                            {"N": n, "D": d, "loss": round(1.8 + 480 / n**0.35 + 2000 / d**0.37, 4)}
                            for n in (5e7, 2e8, 8e8)
                            for d in (1e9, 4e9, 1.6e10)
                        ]
                    },
                    "k": 3,
                    "cap_flops": 1e20,
                }
            ]
        }
    )

    project: ProjectRef | None = None
    source: SetIn
    k: int = Field(ge=1, le=50, description="How many runs.")
    cap_flops: PositiveFloat | None = Field(default=None, description="For all of them together.")
    target_loss: PositiveFloat | None = Field(
        default=None, description="The source loss where the forecast is wanted."
    )
    kind: Kind = "train_to_train"
    have: list[CellIn] = Field(
        default_factory=list, max_length=500, description="Cells trained on the target already."
    )
    E1: Floor
    loss_unit: LossUnit | None = None
    level: Level = 0.9

    def to_request(self) -> PlanRequest:
        return PlanRequest(
            source=self.source.to_set(self.project, "source"),
            k=self.k,
            cap_flops=self.cap_flops,
            target_loss=self.target_loss,
            kind=self.kind,
            have=[(cell.N, cell.D) for cell in self.have],
            E1=self.E1,
            unit=self.loss_unit,
            level=self.level,
        )


class PlannedRun(Answer):
    N: float
    D: float
    flops: float
    run_id: int | None = Field(description="The source's run there.")
    source_loss: float


class LinkPlanOut(Answer):
    """half_width: relative, of the forecast's interval with these runs; half_width_before: with
    none; drift beyond the pairs comes on top."""

    source: str
    loss_unit: str
    runs: list[PlannedRun]
    total_flops: float
    cap_flops: float | None
    half_width_before: float
    half_width: float
    half_width_after_each: list[float]
    level: float


def several(value: float | list[float] | None) -> list[float] | None:
    return [value] if isinstance(value, float | int) else value


def _plane(points: list[dict[str, Any]], side: str) -> dict[str, Any]:
    """N, D, loss and where given flops of a side's points."""
    try:
        names = ["N", "D", "loss", *(["flops"] if "flops" in points[0] else [])]
        columns = columns_of(points, names)
    except ServiceError as error:
        error.column = f"{side}.{error.column}"
        raise
    flops = {"flops": columns["flops"]} if "flops" in columns else {}
    return {
        "inputs": {"N": columns["N"], "D": columns["D"]},
        "loss": columns["loss"],
        **flops,
    }


def _sides(points: list[dict[str, Any]]) -> tuple[LinkSet, LinkSet]:
    """Pairs -> the two sides."""
    names = ["N", "D", "source", "target", *(["flops"] if "flops" in points[0] else [])]
    columns = columns_of(points, names)
    flops = columns.get("flops")
    source, target = (
        LinkSet(
            FitRequest(
                law="",
                inputs={"N": columns["N"], "D": columns["D"]},
                loss=columns[side],
                flops=flops,
            )
        )
        for side in ("source", "target")
    )
    return source, target
