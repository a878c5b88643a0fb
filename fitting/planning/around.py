"""What lies around the optimum: the valley, other assumptions, larger budgets, another law."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from fitting.allocate import VALLEY
from fitting.fit import Fit
from fitting.links import Floats
from fitting.planning.candidates import Candidates
from fitting.planning.problem import ShapeProblem
from fitting.planning.table import Table, loss_of, plan_row, solve

MORE_DRAWS = 61  # the fit and sixty draws
MORE = (("one GPU-day", 24.0), ("one GPU-week", 168.0), ("100 GPU-days", 2400.0))


def valley_of(plans: Candidates, table: Table, at: int) -> dict[str, Any]:
    """Where the first draw's loss is within VALLEY of the best."""
    loss = table.loss[0]
    near = np.flatnonzero(loss <= loss[at] * (1 + VALLEY))
    tokens = table.tokens[0]
    out: dict[str, Any] = {"tolerance": VALLEY, "plans": int(near.size)}
    columns = {
        "N": plans.N, "D": tokens, "width": plans.width, "depth": plans.depth,
        "gpus": plans.gpus, "batch_tokens": plans.batch_tokens,
        "gpu_hours": tokens / plans.batch_tokens * plans.gpu_seconds / 3600.0,
    }  # fmt: skip
    for name, column in columns.items():
        out[name] = (float(column[near].min()), float(column[near].max()))
    small = int(near[plans.N[near].argmin()])
    out["smallest"] = plan_row(plans, table, 0, small)
    return out


def sensitivity_of(problem: ShapeProblem, plans: Candidates, table: Table) -> list[dict[str, Any]]:
    """The optimum when one assumption is another; loss_change against the answer."""
    fit, one = problem.fit, np.ones(1)
    base = float(table.loss[0, table.best[0]])
    rows: list[dict[str, Any]] = []

    def add(assumption: str, change: str, other: ShapeProblem, values: Floats, time: float) -> None:
        found = solve(other, fit, plans, values[None], time * one)
        at = int(found.best[0])
        if not np.isfinite(found.loss[0, at]):
            return
        row = plan_row(plans, found, 0, at)
        rows.append({"assumption": assumption, "change": change, **row,
                     "loss_change": row["loss"] / base - 1.0})  # fmt: skip

    wide = math.exp(problem.step_time.spread(0.9))
    add("step time", f"x{1 / wide:.3g}", problem, fit.values, 1 / wide)
    add("step time", f"x{wide:.3g}", problem, fit.values, wide)
    price = problem.budget.dollars_per_gpu_hour
    if problem.budget.dollars is not None and price is not None:
        for factor in (0.8, 1.25):
            budget = replace(problem.budget, dollars_per_gpu_hour=price * factor)
            add("price", f"x{factor:g}", replace(problem, budget=budget), fit.values, 1.0)
    for name in ("unique_tokens", "max_tokens"):
        value = getattr(problem, name)
        if value is not None:
            for factor in (0.5, 2.0):
                other = replace(problem, **{name: factor * value})
                add(name, f"x{factor:g}", other, fit.values, 1.0)
    if problem.inference.tokens > 0:
        for factor in (0.0, 0.5, 2.0):
            served = replace(problem.inference, tokens=factor * problem.inference.tokens)
            add("inference tokens", f"x{factor:g}", replace(problem, inference=served),
                fit.values, 1.0)  # fmt: skip
    for name, said, values in other_laws(fit):
        add(name, said, problem, values, 1.0)
    return rows


def other_laws(fit: Fit) -> list[tuple[str, str, Floats]]:
    """The fit with one parameter at either end of its 90% interval and the others moved along with
    it, as they move together over the draws (their regression on it, on the solver's line)."""
    if len(fit.draws) < 50:
        return []
    line, centre = fit.law.to_line(fit.draws), fit.law.to_line(fit.values)
    line = line[np.isfinite(line).all(axis=1)]
    low, high = np.quantile(line, [0.05, 0.95], axis=0)
    inside = np.clip(line, low, high)  # a few resamples without an optimum must not lead
    covariance = np.cov(inside.T)
    out = []
    for j, param in enumerate(fit.law.params):
        if not covariance[j, j] > 0:
            continue
        for end in (low[j], high[j]):
            theta = centre + covariance[:, j] / covariance[j, j] * (end - centre[j])
            walls = np.array([p.link.walls for p in fit.law.params])
            values = fit.law.from_line(np.clip(theta, walls[:, 0], walls[:, 1]))
            out.append((param.name, f"{values[j]:.4g} (fit {fit.values[j]:.4g})", values))
    return out


def more_buys(
    problem: ShapeProblem,
    plans: Candidates,
    values: Floats,
    factor: Floats,
    table: Table,
    optimal: dict[str, Any],
    level: float,
) -> list[dict[str, Any]]:
    """What a larger budget buys: the gain in loss, paired draw by draw."""
    gpu_hours, gpus = optimal["gpu_hours"], optimal["gpus"]
    rate = optimal["flops"] / (3600.0 * gpu_hours)
    offers = [(name, problem.budget.with_more(h, gpus, rate), h) for name, h in MORE]
    offers += [(f"{f:.0%} more", problem.budget.grown(1 + f), f * gpu_hours) for f in (0.1, 1.0)]
    before, tail = table.at_best()[:MORE_DRAWS], 0.5 * (1 - level)
    values, factor = values[:MORE_DRAWS], factor[:MORE_DRAWS]
    rows = []
    for name, budget, hours in offers:
        found = solve(replace(problem, budget=budget), problem.fit, plans, values, factor)
        gain = before - found.at_best()
        row = plan_row(plans, found, 0, int(found.best[0]))
        inside = gain[1:][np.isfinite(gain[1:])]
        if inside.size:
            low, high = (float(x) for x in np.quantile(inside, [tail, 1 - tail]))
        else:
            low = high = float(gain[0])
        price = problem.budget.dollars_per_gpu_hour
        rows.append({
            "more": name, "gpu_hours": float(hours),
            "dollars": None if price is None else float(hours) * price,
            "gain": float(gain[0]), "gain_interval": [low, high], **row,
        })  # fmt: skip
    return rows


def beside_of(problem: ShapeProblem, plans: Candidates) -> dict[str, Any] | None:
    """What another law would choose, and what the fit of the problem says of that choice."""
    other = problem.beside
    if other is None:
        return None
    found = solve(problem, other, plans, other.values[None], np.ones(1))
    at = int(found.best[0])
    row = plan_row(plans, found, 0, at)
    ours = loss_of(problem, problem.fit, plans, problem.fit.values[None], found.tokens)[0, at]
    return {"law": other.law.name, **row, "loss_by_the_fit": float(ours)}
