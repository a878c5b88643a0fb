"""Allocations: how to spend a budget, by a fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.services import calibrations, fits
from app.services.calibrations import Machine
from fitting import Allocation, AllocationProblem, FittingError, allocate
from fitting.costs import budget_flops as flops_bought
from fitting.planning import Budget, ShapeAllocation, ShapeProblem, allocate_shape, run_config


@dataclass(frozen=True)
class Money:
    """A budget in time or dollars and what it runs on; see `fitting.costs.budget_flops`."""

    gpu_hours: float | None = None
    dollars: float | None = None
    hours: float | None = None
    gpus: float | None = None
    peak_flops_per_second: float = 989e12  # H100 SXM, dense bf16 (NVIDIA's data sheet)
    utilisation: float = 0.4
    dollars_per_gpu_hour: float | None = None

    def flops(self) -> float:
        return flops_bought(
            gpu_hours=self.gpu_hours,
            dollars=self.dollars,
            hours=self.hours,
            gpus=self.gpus,
            peak_flops_per_second=self.peak_flops_per_second,
            utilisation=self.utilisation,
            dollars_per_gpu_hour=self.dollars_per_gpu_hour,
        )


def allocate_budget(
    connection: Connection,
    fit_id: int,
    budget: float | Money,
    options: Mapping[str, Any] | None = None,
) -> Allocation:
    """The (N, D) of least loss. `budget` in FLOPs or as Money; `options` are the other fields of
    `fitting.AllocationProblem` (fixed, sizes, max_tokens, inference_tokens, level)."""
    fit = fits.load(connection, fit_id)
    flops = budget.flops() if isinstance(budget, Money) else float(budget)
    return allocate(AllocationProblem(fit=fit, budget_flops=flops, **dict(options or {})))


def allocate_on_machine(
    connection: Connection,
    fit_id: int,
    machine: Machine,
    budget: Budget,
    *,
    beside: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The shape, tokens, GPUs and batch of least loss where the clock decides, as JSON.

    `beside` is a fit to be solved for comparison; `options` are the other fields of
    `fitting.planning.ShapeProblem`.
    """
    model = calibrations.step_time(connection, machine)
    plan = allocate_shape(
        ShapeProblem(
            fit=fits.load(connection, fit_id),
            step_time=model,
            budget=budget,
            beside=None if beside is None else fits.load(connection, beside),
            **dict(options or {}),
        )
    )
    return dict(
        fits.finite({**plan.to_dict(), "hardware": model.hardware, "config": _config(plan)})
    )


def _config(plan: ShapeAllocation) -> dict[str, Any] | None:
    """What `python -m workers.proxy.train` reads; None for a shape that it does not build."""
    try:
        return run_config(plan.shape, plan.setup, plan.optimal["D"])
    except FittingError:
        return None
