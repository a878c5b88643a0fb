"""How to spend a budget: the (N, D) of least loss, how sure that is, and how flat the valley is.

For L = E + A N^-alpha + B D^-beta under C = k N D the answer is closed (Hoffmann et al. 2022,
eq. 4): N* = G (C/k)^a, D* = G^-1 (C/k)^b with G = (alpha A / (beta B))^(1/(alpha+beta)),
a = beta/(alpha+beta), b = alpha/(alpha+beta). Any other law of N and D, and any cap, is solved
numerically along the budget's curve; where both apply the two are compared and the gap reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fitting.errors import FittingError
from fitting.fit import Fit
from fitting.links import Floats
from fitting.predict import check_level

# What "as good as the best" means: a tenth of a percent of loss, below the seed-to-seed scatter.
VALLEY = 1e-3


@dataclass(frozen=True)
class AllocationProblem:
    """budget_flops: training compute (with the inference, if any). See `costs.budget_flops` for
    GPU-hours, dollars and wall-clock.

    flops_per_parameter_token: k in C = k N D; 6 by convention, more where attention and head count.
    fixed: inputs that are given, e.g. {"N": 7e9}, or others that the law needs ({"U": 1e11}).
    max_tokens: tokens that there are. sizes: the model sizes that can be built.
    inference_tokens: tokens to serve afterwards, at k/3 FLOPs a parameter each; the budget pays
    for both (Sardana et al. 2024). inference_cost: what a FLOP of inference costs in FLOPs of
    training: MFU of training / MFU of inference, where the budget is time or money.
    tokens_per_parameter: (least, most) D / N, over-training. max_parameters: of the model, because
    of the speed or the memory that it must be served with. level: of the intervals (default: the
    fit's).
    """

    fit: Fit
    budget_flops: float
    flops_per_parameter_token: float = 6.0
    fixed: Mapping[str, float] = field(default_factory=dict)
    max_tokens: float | None = None
    sizes: Sequence[float] | None = None
    inference_tokens: float = 0.0
    inference_cost: float = 1.0
    tokens_per_parameter: tuple[float, float] = (0.0, np.inf)
    max_parameters: float | None = None
    level: float | None = None

    def __post_init__(self) -> None:
        for name in ("budget_flops", "flops_per_parameter_token"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise FittingError("bad_option", f"{name} is {value}.", "It must be positive.")
        if not 0 <= self.inference_tokens < np.inf:
            raise FittingError(
                "bad_option", f"inference_tokens is {self.inference_tokens}.", "Give 0 or more."
            )
        if self.max_tokens is not None and not self.max_tokens > 0:
            raise FittingError(
                "bad_option", f"max_tokens is {self.max_tokens}.", "It must be positive."
            )
        for size in self.sizes or ():
            if not 0 < size < np.inf:
                raise FittingError("bad_option", f"A size is {size}.", "Sizes are positive.")
        low, high = self.tokens_per_parameter
        if not (0 <= low <= high and high > 0 and self.inference_cost > 0):
            raise FittingError(
                "bad_option",
                f"tokens_per_parameter is {low:g} to {high:g}, inference_cost "
                f"{self.inference_cost:g}.",
                "Give the least and then the most tokens a parameter; costs are positive.",
            )
        names = self.fit.law.input_names
        if not {"N", "D"} <= set(names):
            raise FittingError(
                "bad_option",
                f"{self.fit.law.name} is a law of {', '.join(names)}; a budget in FLOPs is shared "
                "between N and D.",
                "Fit a law of N and D.",
            )
        unknown = sorted(set(self.fixed) - set(names))
        if unknown:
            raise FittingError(
                "bad_option",
                f"{self.fit.law.name} has no input {', '.join(unknown)}.",
                f"Its inputs are {', '.join(names)}.",
            )
        for name, value in self.fixed.items():
            if not np.isfinite(value):
                raise FittingError("bad_option", f"{name} is {value}.", "Give a finite number.")
        rest = set(names) - {"N", "D"} - set(self.fixed)
        if rest:
            raise FittingError(
                "missing_input", f"{', '.join(sorted(rest))} must be fixed.", "Give it in `fixed`."
            )


@dataclass(frozen=True)
class Allocation:
    """optimal: N, D, loss, lower, upper (of a new run there), tokens_per_parameter, reach_N,
    reach_D. intervals: {name: (lower, upper)} over the draws, each at its own optimum.
    valley: where along the budget the loss is within `tolerance` of the best.
    exponents: N* ~ C^a, D* ~ C^b where the law has a closed form, with intervals.
    closed_form: N, D and the largest relative gap to the numerical optimum."""

    budget_flops: float
    level: float
    optimal: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    valley: dict[str, Any]
    exponents: dict[str, Any] | None
    closed_form: dict[str, float] | None
    warnings: tuple[dict[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "budget_flops": self.budget_flops,
            "level": self.level,
            "optimal": dict(self.optimal),
            "intervals": {k: list(v) for k, v in self.intervals.items()},
            "valley": {k: list(v) if isinstance(v, tuple) else v for k, v in self.valley.items()},
            "exponents": self.exponents,
            "closed_form": self.closed_form,
            "warnings": [dict(w) for w in self.warnings],
        }


def allocate(problem: AllocationProblem) -> Allocation:
    """Spend the budget. Raises FittingError where no (N, D) meets the caps."""
    fit = problem.fit
    level = fit.level if problem.level is None else check_level(problem.level)
    tail = 0.5 * (1 - level)
    low, high = _range_of_log_n(problem)
    values = np.concatenate([fit.values[None], fit.draws]) if len(fit.draws) else fit.values[None]
    log_n, loss = _along_budget(problem, values, low, high)
    n = np.exp(log_n)
    d = _tokens(problem, n)
    optimal_inputs: dict[str, Any] = {
        "N": n[:1],
        "D": d[:1],
        **{k: [v] for k, v in _others(problem).items()},
    }
    predicted = fit.predict(optimal_inputs, level)
    warnings = []
    reach = max(float(predicted.reach["N"][0]), float(predicted.reach["D"][0]))
    if reach > 10:
        warnings.append(
            {
                "code": "far_beyond_data",
                "message": f"The optimum lies {reach:.3g} times beyond the largest run of the "
                "data; train a run in between before spending this.",
            }
        )
    if fit.status != "converged":
        warnings.append({"code": f"fit_{fit.status}", "message": fit.message})
    edge = 1e-6 * max(1.0, high - low)
    if problem.sizes is None and not ({"N", "D"} & set(problem.fixed)):
        if log_n[0] - low < edge and problem.max_tokens is not None:
            warnings.append(
                {
                    "code": "tokens_cap",
                    "message": f"Tokens run out at {problem.max_tokens:.4g}: without the cap a "
                    "smaller model on more tokens would be better.",
                }
            )
        elif problem.tokens_per_parameter != (0.0, np.inf) or problem.max_parameters is not None:
            if log_n[0] - low < edge or high - log_n[0] < edge:
                warnings.append(
                    {
                        "code": "limit_holds",
                        "message": "What was asked of the size or of tokens a parameter decides "
                        "the answer; without it another model would be better.",
                    }
                )
        elif log_n[0] - low < edge or high - log_n[0] < edge:
            warnings.append(
                {
                    "code": "no_interior_optimum",
                    "message": "The law has no optimum inside the range that was searched: the "
                    "fit does not say how to share this budget.",
                }
            )
    intervals: dict[str, tuple[float, float]] = {}
    if len(fit.draws):
        for name, column in (("N", n), ("D", d), ("tokens_per_parameter", d / n), ("loss", loss)):
            a, b = np.quantile(column[1:][np.isfinite(column[1:])], [tail, 1 - tail])
            intervals[name] = (float(a), float(b))
    exponents, closed = _closed_form(problem, tail, n[0])
    return Allocation(
        budget_flops=float(problem.budget_flops),
        level=level,
        optimal={
            "N": float(n[0]),
            "D": float(d[0]),
            "loss": float(loss[0]),
            "lower": float(predicted.lower[0]),
            "upper": float(predicted.upper[0]),
            "tokens_per_parameter": float(d[0] / n[0]),
            "reach_N": float(predicted.reach["N"][0]),
            "reach_D": float(predicted.reach["D"][0]),
        },
        intervals=intervals,
        valley=_valley(problem, float(log_n[0]), float(loss[0]), low, high),
        exponents=exponents,
        closed_form=closed,
        warnings=tuple(warnings),
    )


def best_sizes(problem: AllocationProblem, values: Floats) -> tuple[tuple[Floats, Floats], Floats]:
    """((N*, D*), loss there) for every row of parameters `values` [draws, p]; each [draws]."""
    log_n, loss = _along_budget(problem, values, *_range_of_log_n(problem))
    n = np.exp(log_n)
    return (n, _tokens(problem, n)), loss


def _others(problem: AllocationProblem) -> dict[str, float]:
    names = set(problem.fit.law.input_names) - {"N", "D"}
    return {k: float(v) for k, v in problem.fixed.items() if k in names}


def _tokens(problem: AllocationProblem, n: Floats) -> Floats:
    """Training tokens that the budget leaves for a model of n parameters: [points]."""
    k = problem.flops_per_parameter_token
    d = problem.budget_flops / (k * n) - _served(problem)
    if "D" in problem.fixed:
        d = np.full_like(n, float(problem.fixed["D"]))
    return np.asarray(d)


def _range_of_log_n(problem: AllocationProblem) -> tuple[float, float]:
    """ln N from the smallest to the largest model that the budget and the caps allow."""
    k, c = problem.flops_per_parameter_token, problem.budget_flops
    served = _served(problem)
    if "N" in problem.fixed:
        n = float(problem.fixed["N"])
        if c / (k * n) <= served:
            raise FittingError("infeasible", f"The budget is spent before N = {n:.4g} trains.")
        return np.log(n), np.log(n)
    if "D" in problem.fixed:
        n = c / (k * (float(problem.fixed["D"]) + served))
        return float(np.log(n)), float(np.log(n))
    low, high = np.log(1.0), np.log(c / (k * (1.0 + served)))
    if problem.max_tokens is not None:
        low = max(low, float(np.log(c / (k * (problem.max_tokens + served)))))
    least, most = problem.tokens_per_parameter
    if np.isfinite(most):
        low = max(low, float(np.log(_size_at_ratio(c / k, served, most))))
    if least > 0:
        high = min(high, float(np.log(_size_at_ratio(c / k, served, least))))
    if problem.max_parameters is not None:
        high = min(high, float(np.log(problem.max_parameters)))
    if not low < high:
        raise FittingError(
            "infeasible",
            f"{c:.4g} FLOPs leave no room for N and D.",
            "Raise the budget, or loosen what must hold.",
        )
    return float(low), float(high)


def _served(problem: AllocationProblem) -> float:
    """Inference, in training tokens a parameter: 2 N against 6 N FLOPs, at what each costs."""
    return problem.inference_tokens / 3.0 * problem.inference_cost


def _size_at_ratio(per: float, served: float, ratio: float) -> float:
    """N where D / N is `ratio` and N (D + served) = per: the root of ratio N^2 + served N = per."""
    return float(2.0 * per / (served + np.sqrt(served**2 + 4.0 * ratio * per)))


def _loss_at(problem: AllocationProblem, values: Floats, log_n: Floats) -> Floats:
    """Loss [draws, points] for values [draws, p] and ln N [draws, points]; inf where D <= 0."""
    n = np.exp(log_n)
    d = _tokens(problem, n)
    named = {name: values[:, j, None] for j, name in enumerate(problem.fit.law.param_names)}
    columns = {"N": n, "D": np.where(d > 0, d, np.nan), **_others(problem)}
    with np.errstate(all="ignore"):
        out = problem.fit.law.formula(*(columns[i] for i in problem.fit.law.input_names), **named)
    return np.asarray(np.nan_to_num(np.broadcast_to(out, n.shape), nan=np.inf))


def _along_budget(
    problem: AllocationProblem, values: Floats, low: float, high: float
) -> tuple[Floats, Floats]:
    """ln N* and loss there for every row of values: a grid, then ever finer grids about its best,
    then the vertex of a parabola (a minimum itself is flat to rounding)."""
    draws = len(values)
    if problem.sizes is not None:
        sizes = np.log(np.sort(np.asarray(problem.sizes, dtype=float)))
        sizes = sizes[(sizes >= low - 1e-12) & (sizes <= high + 1e-12)]
        if not sizes.size:
            raise FittingError(
                "infeasible",
                "No size of the list fits the budget and the caps.",
                f"They leave sizes from {np.exp(low):.3g} to {np.exp(high):.3g} parameters: offer "
                "one of these, or loosen the budget or the caps.",
            )
        table = _loss_at(problem, values, np.tile(sizes, (draws, 1)))
        best = table.argmin(axis=1)
        return sizes[best], table[np.arange(draws), best]
    if high <= low:
        fixed = np.full((draws, 1), low)
        return fixed[:, 0], _loss_at(problem, values, fixed)[:, 0]
    points = 241
    centre = np.full(draws, 0.5 * (low + high))
    width = 0.5 * (high - low)
    for _ in range(4):
        grid = np.clip(centre[:, None] + np.linspace(-width, width, points), low, high)
        table = _loss_at(problem, values, grid)
        best = table.argmin(axis=1)
        centre = grid[np.arange(draws), best]
        width, points = 2.0 * width / (points - 1) * 1.5, 41
        if width < 2e-3:
            break
    step = 2e-3
    three = centre[:, None] + np.array([-step, 0.0, step])
    y = _loss_at(problem, values, three)
    bend = y[:, 0] - 2 * y[:, 1] + y[:, 2]
    with np.errstate(all="ignore"):
        shift = np.where(bend > 0, 0.5 * step * (y[:, 0] - y[:, 2]) / bend, 0.0)
    shift = np.nan_to_num(np.clip(shift, -step, step))
    at = np.clip(centre + shift, low, high)
    return at, _loss_at(problem, values, at[:, None])[:, 0]


def _valley(
    problem: AllocationProblem, best: float, loss: float, low: float, high: float
) -> dict[str, Any]:
    """The stretch of N (and so of D) whose loss is within VALLEY of the best."""
    if high <= low:
        n = np.exp(np.array([best]))
        return {
            "tolerance": VALLEY,
            "N": (float(n[0]),) * 2,
            "D": (float(_tokens(problem, n)[0]),) * 2,
        }
    grid = np.union1d(np.linspace(low, high, 4001), best)
    grid = grid[np.abs(grid - best) < 12.0]
    grid = np.union1d(grid, np.clip(best + np.linspace(-4, 4, 2001), low, high))
    table = _loss_at(problem, problem.fit.values[None], grid[None])[0]
    good = np.flatnonzero(table <= loss * (1 + VALLEY))
    n = np.exp(grid[[good[0], good[-1]]])
    d = _tokens(problem, n)
    return {"tolerance": VALLEY, "N": (float(n[0]), float(n[1])), "D": (float(d[1]), float(d[0]))}


def _closed_form(
    problem: AllocationProblem, tail: float, numerical: float
) -> tuple[dict[str, Any] | None, dict[str, float] | None]:
    """Exponents with intervals, and the closed optimum against the numerical one, or None."""
    fit, powers = problem.fit, problem.fit.law.powers
    if powers is None or [x for _, x, _ in powers.terms] != ["N", "D"]:
        return None, None
    (an, _, en), (bn, _, em) = powers.terms
    names = fit.law.param_names
    a, alpha, b, beta = (names.index(x) for x in (an, en, bn, em))
    v = np.concatenate([fit.values[None], fit.draws]) if len(fit.draws) else fit.values[None]
    with np.errstate(all="ignore"):
        share = v[:, beta] / (v[:, alpha] + v[:, beta])
        ratio = v[:, alpha] * v[:, a] / (v[:, beta] * v[:, b])
        g = ratio ** (1.0 / (v[:, alpha] + v[:, beta]))
    exponents: dict[str, Any] = {"a": float(share[0]), "b": float(1 - share[0])}
    if len(v) > 1:
        lo, hi = np.nanquantile(share[1:], [tail, 1 - tail])
        exponents["a_interval"] = [float(lo), float(hi)]
        exponents["b_interval"] = [float(1 - hi), float(1 - lo)]
    caps = (problem.sizes, problem.max_tokens, problem.max_parameters)
    capped = bool(problem.fixed) or any(cap is not None for cap in caps)
    capped = capped or problem.tokens_per_parameter != (0.0, np.inf)
    if capped or problem.inference_tokens > 0 or not np.isfinite(g[0]):
        return exponents, None
    per = problem.budget_flops / problem.flops_per_parameter_token
    n = float(g[0] * per ** share[0])
    return exponents, {"N": n, "D": per / n, "relative_gap": abs(numerical / n - 1.0)}
