"""What is asked: a law, a machine, a budget, and what must hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fitting.costs import Setup, Shape, StepTime
from fitting.errors import FittingError
from fitting.fit import Fit
from fitting.planning.budget import Budget

# The inputs that a plan of shape, GPUs, batch and time gives a law.
GIVEN = ("width", "depth", "N", "D", "C", "S", "U", "gpu_hours", "tokens_per_gpu_hour")


@dataclass(frozen=True)
class Inference:
    """What the model must do when it is trained.

    tokens: to be served, at 2 N FLOPs each, from the same budget. flops_per_second: what one GPU
    reaches while serving (peak x MFU; decoding reaches far less than training). decode_tokens_per_
    second: that one sequence must reach. memory_bandwidth: bytes/s of the GPU that serves, which
    bounds it: every token reads every weight once (Pope et al. 2022, arXiv 2211.05102).
    """

    tokens: float = 0.0
    flops_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    memory_bandwidth: float | None = None
    weight_bytes: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.tokens < np.inf:
            raise FittingError(
                "bad_option", f"inference tokens is {self.tokens}.", "Give 0 or more."
            )
        for name in ("decode_tokens_per_second", "memory_bandwidth"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise FittingError("bad_option", f"{name} is {value}.", "It must be positive.")
        if self.decode_tokens_per_second is not None and self.memory_bandwidth is None:
            raise FittingError(
                "bad_option", "A decoding speed needs the memory bandwidth of the GPU that serves.",
                "Give memory_bandwidth in bytes a second.",
            )  # fmt: skip

    def largest_model(self) -> float:
        """Parameters at which decoding is just fast enough, at best; infinite where not asked."""
        if self.decode_tokens_per_second is None or self.memory_bandwidth is None:
            return np.inf
        return self.memory_bandwidth / (self.weight_bytes * self.decode_tokens_per_second)


@dataclass(frozen=True)
class ShapeProblem:
    """The shape, tokens, GPUs and batch of least loss within a budget.

    fit: a law of N and D, or of width and depth besides (or any whose inputs are in `GIVEN`).
    step_time: a calibrated machine, or a prior from a data sheet. family: the shape that the others
    are resized from; setup: how a step is run (both default to what was measured).
    widths, depths, gpus, batches: what may be chosen from (default: around what was measured; the
    setup's own GPUs and batch). sizes: only models of about these N (the fit's convention).
    max_tokens: never train on more. unique_tokens: distinct tokens that there are; beyond them a
    law with U as an input is asked, and for any other law repeats count as in Muennighoff et al.
    tokens_per_parameter: (least, most) D / N, over-training. critical_batch: let a larger batch
    cost tokens as Kaplan et al. measured; always on where several batches may be chosen.
    beside: another fit (Chinchilla's form, say) to be solved for comparison.
    """

    fit: Fit
    step_time: StepTime
    budget: Budget
    family: Shape | None = None
    setup: Setup | None = None
    widths: Sequence[int] | None = None
    depths: Sequence[int] | None = None
    gpus: Sequence[int] | None = None
    batches: Sequence[float] | None = None
    sizes: Sequence[float] | None = None
    max_tokens: float | None = None
    unique_tokens: float | None = None
    tokens_per_parameter: tuple[float, float] = (0.0, np.inf)
    inference: Inference = field(default_factory=Inference)
    critical_batch: bool = False
    beside: Fit | None = None
    level: float | None = None

    def __post_init__(self) -> None:
        if self.family is None and self.step_time.family is None:
            raise FittingError(
                "bad_option", "No shape was given to resize.",
                "Give `family`: vocabulary, context, head dimension and MLP of the model.",
            )  # fmt: skip
        if self.setup is None and self.step_time.setup is None:
            raise FittingError(
                "bad_option", "Nothing says how a step is run.",
                "Give `setup`: batch tokens and GPUs at least.",
            )  # fmt: skip
        for fit in (self.fit, *(() if self.beside is None else (self.beside,))):
            unknown = set(fit.law.input_names) - set(GIVEN)
            if unknown:
                raise FittingError(
                    "bad_option", f"{fit.law.name} needs {', '.join(sorted(unknown))}, which no "
                    "plan of shape and time gives.", f"Fit a law of {', '.join(GIVEN)}.",
                )  # fmt: skip
            if "U" in fit.law.input_names and self.unique_tokens is None:
                raise FittingError(
                    "missing_input", f"{fit.law.name} needs the distinct tokens that there are.",
                    "Give unique_tokens.",
                )  # fmt: skip
        low, high = self.tokens_per_parameter
        if not 0 <= low <= high:
            raise FittingError(
                "bad_option", f"tokens_per_parameter is {low:g} to {high:g}.",
                "Give the least, then the most.",
            )  # fmt: skip
        for name in ("max_tokens", "unique_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise FittingError("bad_option", f"{name} is {value}.", "It must be positive.")
        if (
            self.inference.tokens > 0
            and self.inference.flops_per_second is None
            and (set(self.budget.given) - {"flops", "hours"})
        ):
            raise FittingError(
                "bad_option", "Inference tokens in a budget of time or money need what a GPU "
                "reaches while serving.", "Give inference flops_per_second: peak x MFU.",
            )  # fmt: skip
