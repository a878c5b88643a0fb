"""The best shape for the time: every candidate plan, every draw of the law, one table.

L(shape, seconds x GPUs) = the law at D = batch x time / step time. The table is small (thousands of
plans by hundreds of draws), so it is searched whole: shapes are integers, the valley is flat, and
no local optimum can hide. A draw takes a law from the bootstrap and a step time from the shapes
that were left out of the calibration; each draw has an optimum of its own, and their spread is the
interval.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fitting.costs import Setup, Shape
from fitting.errors import FittingError
from fitting.planning.around import beside_of, more_buys, sensitivity_of, valley_of
from fitting.planning.budget import Budget
from fitting.planning.candidates import Candidates, candidates, default_depths, default_widths
from fitting.planning.caveats import caveats
from fitting.planning.problem import ShapeProblem
from fitting.planning.recipe import published_settings
from fitting.planning.table import Table, law_inputs, loss_of, solve
from fitting.predict import check_level

# Draws of the law that are solved; the ends of a 90% interval need no more.
DRAWS = 200


@dataclass(frozen=True)
class ShapeAllocation:
    """The answer. optimal: width, depth, N, D, gpus, batch_tokens, steps, step_seconds, hours,
    gpu_hours, dollars, flops, loss with lower and upper, tokens_per_parameter, bound_by (what a
    step waits for) and limited_by (which limit stops the training). intervals: {name: (lower,
    upper)}: N, D, width, depth, loss over the draws, each at its own optimum; hours, gpu_hours,
    dollars of *this* plan. valley: where the loss is within `tolerance` of the best, and the
    smallest model there. sensitivity: the optimum when one assumption is another. more: what a
    larger budget buys. settings: learning rate and batch by published laws. config: for the
    trainer. beside: what another law would choose."""

    budget: Budget
    level: float
    shape: Shape
    setup: Setup
    optimal: dict[str, Any]
    intervals: dict[str, tuple[float, float]]
    valley: dict[str, Any]
    sensitivity: tuple[dict[str, Any], ...]
    more: tuple[dict[str, Any], ...]
    settings: tuple[dict[str, Any], ...]
    beside: dict[str, Any] | None
    warnings: tuple[dict[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "budget": self.budget.to_dict(),
            "level": self.level,
            "shape": self.shape.to_dict(),
            "setup": self.setup.to_dict(),
            "optimal": dict(self.optimal),
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "valley": {k: list(v) if isinstance(v, tuple) else v for k, v in self.valley.items()},
            "sensitivity": [dict(row) for row in self.sensitivity],
            "more": [dict(row) for row in self.more],
            "settings": [dict(row) for row in self.settings],
            "beside": self.beside,
            "warnings": [dict(w) for w in self.warnings],
        }


def allocate_shape(problem: ShapeProblem) -> ShapeAllocation:
    """Spend the budget. Raises FittingError where no plan meets every constraint."""
    fit, step_time = problem.fit, problem.step_time
    level = fit.level if problem.level is None else check_level(problem.level)
    plans, refused = _plans(problem)
    draws = fit.draws[:: max(1, len(fit.draws) // DRAWS)] if len(fit.draws) else fit.draws
    values = np.concatenate([fit.values[None], draws]) if len(draws) else fit.values[None]
    rng = np.random.default_rng([fit.seed, 61])
    factor = np.exp(step_time.sigma * rng.standard_normal(len(values)))
    factor[0] = 1.0
    table = solve(problem, fit, plans, values, factor)
    at = int(table.best[0])
    if not np.isfinite(table.loss[0, at]):
        raise FittingError(
            "infeasible", f"None of {len(plans)} plans meets the budget and every constraint.",
            "Raise the budget, or loosen what must hold.",
        )  # fmt: skip
    shape, setup = plans.shapes[at], plans.setups[at]
    optimal = _optimal(problem, plans, table, at, level)
    warnings = caveats(problem, plans, table, at, refused)
    return ShapeAllocation(
        budget=problem.budget,
        level=level,
        shape=shape,
        setup=setup,
        optimal=optimal,
        intervals=_intervals(problem, plans, table, optimal, level),
        valley=valley_of(plans, table, at),
        sensitivity=tuple(sensitivity_of(problem, plans, table)),
        more=tuple(more_buys(problem, plans, values, factor, table, optimal, level)),
        settings=tuple(published_settings(shape, optimal["D"])),
        beside=beside_of(problem, plans),
        warnings=tuple(warnings),
    )


def landscape(problem: ShapeProblem) -> tuple[Candidates, Table]:
    """Every plan with the tokens that the budget buys it and the loss there, by the fit itself:
    what `allocate_shape` chooses from. Infinite where a constraint does not hold."""
    plans, _ = _plans(problem)
    return plans, solve(problem, problem.fit, plans, problem.fit.values[None], np.ones(1))


def _plans(problem: ShapeProblem) -> tuple[Candidates, int]:
    family = problem.family or problem.step_time.family
    setup = problem.setup or problem.step_time.setup
    assert family is not None and setup is not None  # checked when the problem was made
    return candidates(
        problem.step_time,
        family,
        setup,
        widths=problem.widths or default_widths(problem.step_time, family),
        depths=problem.depths or default_depths(problem.step_time),
        gpus=problem.gpus or (setup.gpus,),
        batches=problem.batches or (setup.batch_tokens,),
        n_convention=problem.fit.n_convention,
        flops_convention=problem.fit.flops_convention,
        sizes=problem.sizes,
    )


def _optimal(
    problem: ShapeProblem, plans: Candidates, table: Table, at: int, level: float
) -> dict[str, Any]:
    tokens = float(table.tokens[0, at])
    loss = float(table.loss[0, at])
    setup, shape = plans.setups[at], plans.shapes[at]
    step = problem.step_time.predict(shape, setup, level)
    steps = tokens / setup.batch_tokens
    gpu_hours = steps * step.gpu_seconds / 3600.0
    price = problem.budget.dollars_per_gpu_hour
    predicted = problem.fit.predict(law_inputs(problem, plans, at, tokens), level)
    # The prediction knows the law's doubt; the step time's comes on top, through the tokens.
    wide = problem.step_time.spread(level)
    doubt = np.array([math.exp(wide), 1.0, math.exp(-wide)])
    around = loss_of(problem, problem.fit, plans, np.tile(problem.fit.values, (3, 1)),
                   doubt[::-1, None] * table.tokens[:1])[:, at]  # fmt: skip
    value = float(predicted.value[0])
    low = math.hypot(math.log(value / float(predicted.lower[0])), math.log(loss / around[2]))
    high = math.hypot(math.log(float(predicted.upper[0]) / value), math.log(around[0] / loss))
    timed = {"gpu_hours", "hours", "dollars"} & {table.limit[at]}
    if not timed:  # so many tokens, whatever they take: the loss does not wait for the clock
        low = math.log(value / float(predicted.lower[0]))
        high = math.log(float(predicted.upper[0]) / value)
    return {
        "width": int(plans.width[at]),
        "depth": int(plans.depth[at]),
        "N": float(plans.N[at]),
        "D": tokens,
        "gpus": int(plans.gpus[at]),
        "batch_tokens": float(plans.batch_tokens[at]),
        "steps": steps,
        "step_seconds": step.seconds,
        "hours": gpu_hours / setup.gpus,
        "gpu_hours": gpu_hours,
        "dollars": None if price is None else gpu_hours * price,
        "flops": float(plans.flops[at]) * tokens,
        "loss": loss,
        "lower": loss * math.exp(-low),
        "upper": loss * math.exp(high),
        "tokens_per_parameter": tokens / float(plans.N[at]),
        "width_over_depth": float(plans.width[at] / plans.depth[at]),
        "bound_by": step.bound_by,
        "limited_by": table.limit[at],
        "reach": {k: float(v[0]) for k, v in predicted.reach.items()},
    }


def _intervals(
    problem: ShapeProblem, plans: Candidates, table: Table, optimal: dict[str, Any], level: float
) -> dict[str, tuple[float, float]]:
    out: dict[str, tuple[float, float]] = {}
    best, rows = table.best[1:], np.arange(1, len(table.best))
    tail = 0.5 * (1 - level)
    found = np.isfinite(table.loss[rows, best])
    if found.any():
        tokens = table.tokens[rows, best]
        columns = {
            "N": plans.N[best],
            "D": tokens,
            "width": plans.width[best],
            "depth": plans.depth[best],
            "tokens_per_parameter": tokens / plans.N[best],
            "width_over_depth": plans.width[best] / plans.depth[best],
            "loss": table.loss[rows, best],
        }
        for name, column in columns.items():
            low, high = np.quantile(column[found], [tail, 1 - tail])
            out[name] = (float(low), float(high))
    wide = problem.step_time.spread(level)
    for name in ("hours", "gpu_hours", "dollars"):
        if optimal[name] is not None:
            out[name] = (optimal[name] * math.exp(-wide), optimal[name] * math.exp(wide))
    return out
