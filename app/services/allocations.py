"""Allocations: how to spend a budget, by a fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.services import fits
from fitting import Allocation, AllocationProblem, allocate
from fitting.costs import budget_flops as flops_bought


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
