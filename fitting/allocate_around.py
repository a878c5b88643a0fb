"""Around an allocation of N and D: what other assumptions would say, and what more FLOPs buy."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fitting.allocate import AllocationProblem, best_sizes
from fitting.errors import FittingError
from fitting.links import Floats
from fitting.planning.around import other_laws


def sensitivity(problem: AllocationProblem) -> list[dict[str, Any]]:
    """[{assumption, change, N, D, loss, loss_change}]: the optimum when one assumption is another.

    Utilisation (or price: the FLOPs that the budget buys) by a quarter, FLOPs a parameter and
    token, caps and inference by half and double, and every parameter of the law at the ends of its
    90% interval, the others moved along. loss_change is relative to the answer.
    """
    fit = problem.fit
    base = _point(problem, fit.values)
    rows: list[dict[str, Any]] = []

    def add(assumption: str, change: str, other: AllocationProblem, values: Floats) -> None:
        try:
            row = _point(other, values)
        except FittingError:
            return  # that assumption leaves no plan
        rows.append({"assumption": assumption, "change": change, **row,
                     "loss_change": row["loss"] / base["loss"] - 1.0})  # fmt: skip

    for name, label, factors in (
        ("budget_flops", "FLOPs that the budget buys", (0.8, 1.25)),
        ("flops_per_parameter_token", "FLOPs a parameter and token", (0.9, 1.1)),
        ("max_tokens", "tokens that there are", (0.5, 2.0)),
        ("inference_tokens", "inference tokens", (0.5, 2.0)),
    ):
        value = getattr(problem, name)
        for factor in factors if value else ():
            other = replace(problem, **{name: factor * value})
            add(label, f"x{factor:g}", other, fit.values)
    for name, change, values in other_laws(fit):
        add(name, change, problem, values)
    return rows


def what_more_buys(problem: AllocationProblem, flops: Mapping[str, float]) -> list[dict[str, Any]]:
    """[{more, flops, gain, gain_interval, N, D, loss}] for each named addition to the budget; the
    gain in loss is paired draw by draw."""
    fit = problem.fit
    values = np.concatenate([fit.values[None], fit.draws[:400]])
    tail = 0.5 * (1 - (problem.level or fit.level))
    _, before = best_sizes(problem, values)
    rows = []
    for name, more in flops.items():
        larger = replace(problem, budget_flops=problem.budget_flops + more)
        _, after = best_sizes(larger, values)
        gain = before - after
        inside = gain[1:][np.isfinite(gain[1:])] if len(gain) > 1 else gain
        low, high = np.quantile(inside, [tail, 1 - tail])
        rows.append({"more": name, "flops": float(more), "gain": float(gain[0]),
                     "gain_interval": [float(low), float(high)],
                     **_point(larger, fit.values)})  # fmt: skip
    return rows


def _point(problem: AllocationProblem, values: Floats) -> dict[str, float]:
    (n, d), loss = best_sizes(problem, values[None])
    return {"N": float(n[0]), "D": float(d[0]), "loss": float(loss[0])}
