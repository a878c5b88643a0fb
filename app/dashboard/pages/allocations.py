"""Allocations as pages show them: every number with its interval, as text."""

import math
from collections.abc import Mapping
from typing import Any

from app.dashboard import surface, text
from fitting import Allocation, Fit

LADDER = (1.0, 10.0, 100.0, 1000.0)


def told(fit: Fit, found: Allocation) -> dict[str, Any]:
    """An allocation as the page shows it, with every interval as text."""
    best, ends = found.optimal, found.intervals
    largest = fit.data.compute[1] if fit.data.compute is not None else math.inf

    def between(name: str, unit: str) -> str:
        return text.interval(*ends[name], unit) if name in ends else text.MISSING

    return {
        "budget": found.budget_flops,
        "N": best["N"],
        "D": best["D"],
        "loss": best["loss"],
        "per": best["tokens_per_parameter"],
        "N_interval": between("N", "parameters"),
        "D_interval": between("D", "tokens"),
        "per_interval": between("tokens_per_parameter", ""),
        "loss_interval": text.interval(best["lower"], best["upper"]),
        "reach": {
            "N": best["reach_N"],
            "D": best["reach_D"],
            "compute": found.budget_flops / largest,
        },
        "warnings": list(found.warnings),
    }


def ladder(fit: Fit, fixed: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """The optimum at 1, 10, 100 and 1000 times the largest run's compute."""
    if fit.data.compute is None:
        return []
    found = [surface.optimum(fit, fit.data.compute[1] * m, len(fit.draws), fixed) for m in LADDER]
    return [told(fit, one) for one in found if one is not None]


def exponents(fit: Fit) -> str:
    """`N* grows as C^0.51 [0.47, 0.55], ...` where the law has a closed form, else nothing."""
    if fit.data.compute is None:
        return ""
    found = surface.optimum(fit, fit.data.compute[1], len(fit.draws))
    if found is None or found.exponents is None or "a_interval" not in found.exponents:
        return ""
    a, (low, high) = found.exponents["a"], found.exponents["a_interval"]
    return f"N* grows as C^a with a = {a:.3f} [{low:.3f}, {high:.3f}], D* as C^(1 − a)."
