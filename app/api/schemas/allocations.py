"""Budgets and what must hold -> N and D, or shape, GPUs and time."""

from typing import Any, Literal

from pydantic import Field, model_validator

from app.api.schemas.common import Answer, Level, PositiveFloat, Request, RunId
from app.api.schemas.time import MachineIn, SetupIn, ShapeIn
from app.services.allocations import Money
from fitting.planning import Budget, Inference

# What only a machine can answer, and what it makes needless.
OF_A_MACHINE = frozenset(
    {"shapes", "unique_tokens", "tokens_per_parameter", "inference", "critical_batch", "beside"}
)
WITHOUT_A_MACHINE = frozenset(
    {"gpus", "peak_flops_per_second", "utilisation", "flops_per_parameter_token", "fixed",
     "inference_tokens"}
)  # fmt: skip


class ShapesIn(Request):
    """What may be chosen from; the defaults lie around what was measured."""

    family: ShapeIn | None = Field(
        default=None, description="Others are resized from it; default: the last one measured."
    )
    setup: SetupIn | None = Field(default=None, description="Default: that of the measurements.")
    widths: list[int] | None = Field(default=None, min_length=1, max_length=200)
    depths: list[int] | None = Field(default=None, min_length=1, max_length=200)
    gpus: list[int] | None = Field(default=None, min_length=1, max_length=20)
    batches: list[PositiveFloat] | None = Field(
        default=None, min_length=1, max_length=20, description="Tokens of a step."
    )

    @model_validator(mode="after")
    def _few(self) -> "ShapesIn":
        plans = 1
        for axis in (self.widths, self.depths, self.gpus, self.batches):
            plans *= len(axis or (1,))
        if plans > MAX_PLANS:
            raise ValueError(f"{plans} plans are more than {MAX_PLANS}: give fewer of each")
        for axis in (self.widths, self.depths, self.gpus):
            if any(value < 1 for value in axis or ()):
                raise ValueError("widths, depths and gpus are 1 or more")
        return self

    def options(self) -> dict[str, Any]:
        return {
            "family": None if self.family is None else self.family.to_shape(),
            "setup": None if self.setup is None else self.setup.to_setup(),
            "widths": self.widths,
            "depths": self.depths,
            "gpus": self.gpus,
            "batches": self.batches,
        }


MAX_PLANS = 20_000


class InferenceIn(Request):
    """What the model must do once trained; its 2 N FLOPs a token come from the same budget."""

    tokens: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    flops_per_second: PositiveFloat | None = Field(
        default=None, description="Of a GPU while serving: peak x MFU."
    )
    decode_tokens_per_second: PositiveFloat | None = Field(
        default=None, description="That one sequence must reach."
    )
    memory_bandwidth: PositiveFloat | None = Field(
        default=None, description="Bytes a second of the GPU that serves."
    )
    weight_bytes: PositiveFloat = 2.0

    def to_inference(self) -> Inference:
        return Inference(**self.model_dump())


class AllocationIn(Request):
    """A budget: `budget_flops`, `gpu_hours`, `hours` (of wall clock) or `dollars`.

    Without `machine`: one budget, spent on N and D at a stated utilisation. With it: one or
    several budgets, each of which holds, spent on shape, tokens, GPUs and batch by the step times
    of that machine.
    """

    fit: RunId
    machine: MachineIn | None = None
    budget_flops: PositiveFloat | None = None
    gpu_hours: PositiveFloat | None = None
    dollars: PositiveFloat | None = None
    dollars_per_gpu_hour: PositiveFloat | None = None
    hours: PositiveFloat | None = None
    gpus: PositiveFloat | None = Field(default=None, description="With `hours`, no `machine`.")
    peak_flops_per_second: PositiveFloat = Field(
        default=989e12, description="Of one GPU; default: H100, dense bf16."
    )
    utilisation: float = Field(default=0.4, gt=0, le=1, description="MFU.")
    flops_per_parameter_token: PositiveFloat = 6.0
    fixed: dict[str, PositiveFloat] = Field(default_factory=dict)
    max_tokens: PositiveFloat | None = None
    sizes: list[PositiveFloat] | None = Field(default=None, min_length=1, max_length=1000)
    inference_tokens: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    level: Level | None = None
    shapes: ShapesIn = Field(default_factory=ShapesIn)
    unique_tokens: PositiveFloat | None = Field(
        default=None, description="Distinct tokens that there are; beyond them tokens repeat."
    )
    tokens_per_parameter: tuple[float, PositiveFloat] | None = Field(
        default=None, description="Least and most D / N."
    )
    inference: InferenceIn = Field(default_factory=InferenceIn)
    critical_batch: bool = Field(
        default=False, description="Larger batches cost tokens, as Kaplan et al. measured."
    )
    beside: RunId | None = Field(default=None, description="Another fit, solved for comparison.")

    @model_validator(mode="after")
    def _belongs_together(self) -> "AllocationIn":
        given = self.model_fields_set
        if all(
            budget is None
            for budget in (self.budget_flops, self.gpu_hours, self.dollars, self.hours)
        ):
            raise ValueError("no budget: give budget_flops, gpu_hours, hours, or dollars")
        if self.machine is not None:
            lost = sorted(given & WITHOUT_A_MACHINE)
            if lost:
                raise ValueError(f"with a machine, leave out {', '.join(lost)}")
            return self
        lost = sorted(given & OF_A_MACHINE)
        if lost:
            raise ValueError(f"{', '.join(lost)}: these need a machine")
        others = (self.gpu_hours, self.dollars, self.hours, self.gpus)
        if self.budget_flops is not None and any(other is not None for other in others):
            raise ValueError("give one budget: budget_flops, gpu_hours, dollars, or hours and gpus")
        return self

    def budget(self) -> float | Money:
        """Where no machine is given."""
        if self.budget_flops is not None:
            return self.budget_flops
        return Money(
            gpu_hours=self.gpu_hours,
            dollars=self.dollars,
            hours=self.hours,
            gpus=self.gpus,
            peak_flops_per_second=self.peak_flops_per_second,
            utilisation=self.utilisation,
            dollars_per_gpu_hour=self.dollars_per_gpu_hour,
        )

    def options(self) -> dict[str, Any]:
        return {
            "flops_per_parameter_token": self.flops_per_parameter_token,
            "fixed": self.fixed,
            "max_tokens": self.max_tokens,
            "sizes": self.sizes,
            "inference_tokens": self.inference_tokens,
            "level": self.level,
        }

    def budgets(self) -> Budget:
        """Where a machine is given."""
        return Budget(
            flops=self.budget_flops,
            gpu_hours=self.gpu_hours,
            hours=self.hours,
            dollars=self.dollars,
            dollars_per_gpu_hour=self.dollars_per_gpu_hour,
        )

    def plan_options(self) -> dict[str, Any]:
        return self.shapes.options() | {
            "sizes": self.sizes,
            "max_tokens": self.max_tokens,
            "unique_tokens": self.unique_tokens,
            "tokens_per_parameter": self.tokens_per_parameter or (0.0, float("inf")),
            "inference": self.inference.to_inference(),
            "critical_batch": self.critical_batch,
            "level": self.level,
        }


class AllocationOut(Answer):
    """optimal: N, D, loss and its interval; intervals: of the optimum over the fit's draws;
    valley: where along the budget the loss is as good as the best."""

    kind: Literal["compute"] = "compute"
    fit: int
    budget_flops: float
    level: float
    optimal: dict[str, Any]
    intervals: dict[str, Any]
    valley: dict[str, Any]
    exponents: dict[str, Any] | None
    closed_form: dict[str, Any] | None
    warnings: list[dict[str, Any]]


class PlanOut(Answer):
    """optimal: shape, tokens, GPUs, batch, steps, time, cost, loss with its interval, and what
    limits them; valley: the plans as good as the best; sensitivity: the optimum when one
    assumption is another; more: what a larger budget buys; settings: learning rate and batch by
    published laws, theirs; config: for the trainer; beside: what another law would choose."""

    kind: Literal["machine"] = "machine"
    fit: int
    hardware: str
    budget: dict[str, Any]
    level: float
    shape: dict[str, Any]
    setup: dict[str, Any]
    optimal: dict[str, Any]
    intervals: dict[str, Any]
    valley: dict[str, Any]
    sensitivity: list[dict[str, Any]]
    more: list[dict[str, Any]]
    settings: list[dict[str, Any]]
    config: dict[str, Any] | None
    beside: dict[str, Any] | None
    warnings: list[dict[str, Any]]
