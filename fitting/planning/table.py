"""Every plan against every draw of the law: tokens that the limits allow, and the loss there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fitting.fit import Fit
from fitting.laws.data_constrained import effective_tokens
from fitting.laws.kaplan_steps import critical_batch
from fitting.links import Floats
from fitting.planning.candidates import Candidates
from fitting.planning.problem import ShapeProblem

# Muennighoff et al. 2023, the published R_D; their 182 runs leave it open from 6.5 upwards.
PUBLISHED_R_D = 15.387756


@dataclass(frozen=True)
class Table:
    """Plans against draws. tokens, loss: [draws, plans]; best: [draws]; limit: [plans], the name of
    what stops the training of each plan (first draw)."""

    tokens: Floats
    loss: Floats
    best: Any
    limit: list[str]

    def at_best(self) -> Floats:
        return np.asarray(self.loss[np.arange(len(self.best)), self.best])


def solve(
    problem: ShapeProblem, fit: Fit, plans: Candidates, values: Floats, factor: Floats
) -> Table:
    """Loss of every plan under every draw; infinite where a constraint does not hold."""
    limits = _token_limits(problem, plans, factor)
    stacked = np.stack(list(limits.values()))
    which = stacked[:, 0].argmin(axis=0)
    tokens = stacked.min(axis=0)
    good = tokens > plans.batch_tokens  # a step at least
    good &= tokens >= problem.tokens_per_parameter[0] * plans.N
    good &= plans.N_total <= problem.inference.largest_model()
    safe = np.where(good, tokens, np.nan)
    loss = loss_of(problem, fit, plans, values, safe)
    loss = np.where(good, loss, np.inf)
    names = list(limits)
    return Table(tokens, loss, loss.argmin(axis=1), [names[i] for i in which])


def _token_limits(problem: ShapeProblem, plans: Candidates, factor: Floats) -> dict[str, Floats]:
    """{limit: tokens that it allows}, each [draws, plans]; inference is paid first."""
    budget, served = problem.budget, problem.inference
    seconds_per_token = factor[:, None] * plans.gpu_seconds / plans.batch_tokens
    serving = 2.0 * plans.N_total * served.tokens
    limits: dict[str, Floats] = {}
    for kind in budget.given:
        if kind == "flops":
            assert budget.flops is not None
            tokens = (budget.flops - serving) / plans.flops
            limits[kind] = np.broadcast_to(tokens, seconds_per_token.shape)
            continue
        allowed = np.array([budget.gpu_seconds(g)[kind] for g in plans.gpus])
        if kind != "hours" and served.tokens > 0:  # a deadline is for the training
            assert served.flops_per_second is not None
            allowed = allowed - serving / served.flops_per_second
        limits[kind] = allowed / seconds_per_token
    if problem.max_tokens is not None:
        limits["max_tokens"] = np.full(seconds_per_token.shape, float(problem.max_tokens))
    if np.isfinite(problem.tokens_per_parameter[1]):
        most = problem.tokens_per_parameter[1] * plans.N
        limits["tokens_per_parameter"] = np.broadcast_to(most, seconds_per_token.shape)
    return limits


def loss_of(
    problem: ShapeProblem, fit: Fit, plans: Candidates, values: Floats, tokens: Floats
) -> Floats:
    """The law at [draws, plans], after what repeats and large batches take away."""
    plain = _law(problem, fit, plans, values, tokens)
    batches = problem.batches or ()
    if not (problem.critical_batch or len(batches) > 1):
        return plain
    # Kaplan et al. 2020, eq. 5.5: D tokens at batch B are worth D / (1 + B / B_crit(L)). The law
    # was fitted at some batch, so what counts is the batch against the smallest one offered.
    smallest = min(batches) if batches else float(plans.batch_tokens.min())
    critical = critical_batch(plain)
    worth = (1.0 + smallest / critical) / (1.0 + plans.batch_tokens / critical)
    return _law(problem, fit, plans, values, tokens * worth)


def _law(
    problem: ShapeProblem, fit: Fit, plans: Candidates, values: Floats, tokens: Floats
) -> Floats:
    unique = problem.unique_tokens
    if unique is not None and "U" not in fit.law.input_names:
        tokens = np.where(
            tokens > unique, effective_tokens(tokens, unique, R_D=PUBLISHED_R_D), tokens
        )
    per_hour = 3600.0 * plans.batch_tokens / plans.gpu_seconds
    columns: Mapping[str, Any] = {
        "width": plans.width,
        "depth": plans.depth,
        "N": plans.N,
        "D": tokens,
        "C": plans.flops * tokens,
        "S": tokens / plans.batch_tokens,
        "U": unique,
        "tokens_per_gpu_hour": per_hour,
        "gpu_hours": tokens / per_hour,
    }
    named = {name: values[:, j, None] for j, name in enumerate(fit.law.param_names)}
    with np.errstate(all="ignore"):
        out = fit.law.formula(*(columns[name] for name in fit.law.input_names), **named)
    out = np.broadcast_to(np.asarray(out, dtype=float), (len(values), len(plans)))
    return np.where(np.isfinite(out), out, np.inf)


def law_inputs(
    problem: ShapeProblem, plans: Candidates, at: int, tokens: float
) -> dict[str, float]:
    """The inputs of the law at one plan, for `Fit.predict`."""
    per_hour = float(3600.0 * plans.batch_tokens[at] / plans.gpu_seconds[at])
    every = {
        "width": float(plans.width[at]),
        "depth": float(plans.depth[at]),
        "N": float(plans.N[at]),
        "D": tokens,
        "C": float(plans.flops[at]) * tokens,
        "S": tokens / float(plans.batch_tokens[at]),
        "U": problem.unique_tokens,
        "tokens_per_gpu_hour": per_hour,
        "gpu_hours": tokens / per_hour,
    }
    return {k: float(v) for k, v in every.items() if k in problem.fit.law.input_names and v}


def plan_row(plans: Candidates, table: Table, draw: int, at: int) -> dict[str, Any]:
    return {
        "width": int(plans.width[at]),
        "depth": int(plans.depth[at]),
        "N": float(plans.N[at]),
        "D": float(table.tokens[draw, at]),
        "gpus": int(plans.gpus[at]),
        "batch_tokens": float(plans.batch_tokens[at]),
        "loss": float(table.loss[draw, at]),
    }
