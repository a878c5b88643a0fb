"""Sweeps: what is asked for, the plan, how far it is."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from app.api.schemas.common import Answer, Name, PositiveFloat, ProjectRef, Request, Timed

Dimension = Annotated[int, Field(ge=1, le=2**20)]


class TrainCorpus(Request):
    name: Name
    weight: PositiveFloat = 1.0


class Corpora(Request):
    train: list[TrainCorpus] = Field(min_length=1, max_length=100)
    validation: list[Name] = Field(min_length=1, max_length=100)


class Model(Request):
    """What all sizes share. vocab_size is the corpora's where it is left out."""

    seq_len: Dimension = 256
    vocab_size: Dimension | None = None
    head_dim: Dimension = 16
    mlp: Literal["swiglu", "relu2"] = "swiglu"
    tied: bool = False
    qk_norm: bool = True


class Size(Request):
    d_model: Dimension
    n_layers: Dimension
    d_ff: Dimension | None = None
    head_dim: Dimension | None = None


class LadderIn(Request):
    """Sizes from one dial, the width: depth is width / 64, 2 at least, and heads follow."""

    from_: Dimension = Field(alias="from", description="The smallest width.")
    to: Dimension = Field(description="The largest width.")
    sizes: int | None = Field(
        default=None, ge=2, le=200, description="How many, evenly in log width; all if left out."
    )


Share = Annotated[float, Field(gt=0, le=1)]


class ScheduleIn(Request):
    """The rate over the steps; shares are of all steps. `constant` is for a run by itself."""

    kind: Literal["wsd", "cosine", "linear", "step", "wsd-s", "constant"] = "wsd"
    warmup_steps: int = Field(default=50, ge=0, le=10**9)
    cooldown_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    final_fraction: float = Field(default=0.0, ge=0, le=1)
    initial_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Of the peak rate, from which the warm-up rises."
    )
    drops: list[tuple[Share, Share]] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="step: [share of the steps, factor of the peak from there]; 8-1-1 if left out.",
    )
    periods: list[Share] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="wsd-s: where a cool-down ends, the last at 1; a quarter, a half and 1.",
    )


Rate = Annotated[float, Field(gt=0, le=100)]
Decay = Annotated[float, Field(ge=0, le=0.999999)]


class Optimizer(Request):
    """`lr` is the peak rate at the base width; other widths follow from it."""

    name: Literal["muon", "adamw"] = "muon"
    lr: Rate = 6e-3
    weight_decay: float | None = Field(default=None, ge=0, le=100)
    betas: tuple[Decay, Decay] | None = None
    eps: float | None = Field(default=None, gt=0, le=1)
    momentum: Decay | None = None
    clip: float | None = Field(default=None, ge=0, le=1e30, description="0 does not clip.")
    mup_base_d_model: Dimension | None = None
    base_n_layers: Dimension | None = Field(
        default=None, description="Depth at which the rate was tuned: others follow (CompleteP)."
    )
    z_loss: float | None = Field(default=None, ge=0, le=1)


class EvaluateIn(Request):
    tokens: int = Field(default=65536, ge=1, le=2**40)
    at_steps: list[Annotated[int, Field(ge=0, le=10**9)]] = Field(
        default_factory=list, max_length=1000, description="Besides the last step."
    )


EXAMPLE: dict[str, Any] = {
    "project": "demo",
    "name": "ladder",
    "corpora": {"train": [{"name": "code", "weight": 1.0}], "validation": ["code", "english"]},
    "model": {"seq_len": 256, "head_dim": 16, "mlp": "swiglu"},
    "sizes": [{"d_model": d, "n_layers": 2} for d in (32, 48, 64)],
    "budgets_flops": [3e11, 1e12, 3e12],
    "schedule": {"kind": "wsd", "warmup_steps": 50, "cooldown_fraction": 0.2},
    "optimizer": {"name": "muon", "lr": 6e-3},
    "batch_tokens": 1024,
    "min_steps": 500,
}


class SweepIn(Request):
    """For each size one trunk at constant rate, and from it one cool-down for each budget."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    project: ProjectRef
    name: Name
    corpora: Corpora
    model: Model = Field(default_factory=Model)
    sizes: list[Size] | None = Field(default=None, min_length=1, max_length=200)
    ladder: LadderIn | None = Field(default=None, description="In place of sizes.")
    budgets_flops: list[PositiveFloat] = Field(min_length=1, max_length=200)
    schedule: ScheduleIn = Field(default_factory=ScheduleIn)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    batch_tokens: int = Field(default=1024, ge=1, le=2**30)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    lrs: list[Rate] | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="Every size and budget at each of these peak rates: how sensitive it is to it.",
    )
    repeat_seeds: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] | None = Field(
        default=None,
        max_length=100,
        description="The shortest run of each size again with these seeds: what luck is worth.",
    )
    min_steps: int = Field(
        default=1000, ge=1, le=10**9, description="Below it a transient is measured, not a law."
    )
    max_steps: int | None = Field(
        default=None, ge=1, le=10**9, description="Cells of sizes x budgets above it are left out."
    )
    evaluate: EvaluateIn = Field(default_factory=EvaluateIn)
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = Field(default=1, ge=1, le=1024)
    compile: bool = False
    deterministic: bool = Field(default=False, description="The same bits on a GPU too.")
    processes: int = Field(
        default=1, ge=1, le=1024, description="That train one run together, each on its own GPU."
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="Each process holds all of the model, or (AdamW) a shard of it."
    )
    checkpoint_every_steps: int = Field(default=500, ge=0, le=10**9)

    def spec(self) -> dict[str, Any]:
        """What the planner reads: only what was said or has a default."""
        return self.model_dump(exclude={"project", "name"}, exclude_none=True, by_alias=True)


class PlannedRunOut(Answer):
    name: str
    kind: str
    cooled: bool
    steps: int
    new_steps: int
    tokens: float
    n: dict[str, float]
    flops: dict[str, float]
    parent: str | None
    parent_step: int | None
    budget_flops: float | None


class Skipped(Answer):
    size: dict[str, Any]
    budget_flops: float
    steps: int
    reason: str


class Warned(Answer):
    code: str
    message: str


class EstimateOut(Answer):
    """Wall-clock seconds with `processes` training at once; source: measured here, or reference."""

    seconds: float
    run_seconds: float
    processes: int
    source: str


class PlanOut(Answer):
    """What a sweep would train; nothing was stored."""

    dry_run: Literal[True] = True
    runs: list[PlannedRunOut]
    skipped: list[Skipped]
    warnings: list[Warned]
    total_flops: float
    total_tokens: float
    estimate: EstimateOut


class ProgressOut(Answer):
    """finals are the cooled runs, which a law is fitted to; fraction is of the planned FLOPs."""

    statuses: dict[str, int]
    runs: int
    finals: int
    finished_finals: int
    flops: float
    total_flops: float
    fraction: float
    ended: bool
    seconds_left: float | None


class SweepOut(Timed):
    id: int
    project_id: int
    name: str
    spec: dict[str, Any]
    progress: ProgressOut


class SeedNoise(Answer):
    """Runs that are alike but for their seed: the standard deviation of their last loss, pooled
    over `groups`, with its interval at `level`."""

    validation_set: str
    sd: float
    lower: float
    upper: float
    level: float
    degrees_of_freedom: int
    runs: int
    groups: int


class NoiseOut(Answer):
    sweep_id: int
    noise: list[SeedNoise]


class RateSensitivity(Answer):
    """Runs that are alike but for their peak rate: `value` is the mean, over the rates, of
    min(last loss, first loss) - best loss (Wortsman et al. 2023, arXiv 2309.14322); a diverged run
    counts with its first loss. `edge`: the best rate is the lowest or highest that was tried.
    `span`: decades between these. Compare sizes on the same rates only."""

    validation_set: str
    n_total: float
    steps: int
    seed: int
    value: float
    best_lr: float
    best_loss: float
    edge: bool
    span: float
    n_rates: int
    diverged: int


class SensitivityOut(Answer):
    sweep_id: int
    sensitivity: list[RateSensitivity]
