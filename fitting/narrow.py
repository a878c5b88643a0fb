"""Towards a narrow Huber width: following the optimum down, and the last step to least deviations.

Where residuals are far wider than delta the objective is all but piecewise linear, and Newton's
method hops between its kinks: 15 noisy runs lose a third of their resamples, and least absolute
deviations (delta all but zero) nearly all of them. Following the optimum from a width at which
there are no kinks brings them home. At the end of the way the points with |r| < delta are those
through which the curve of least absolute deviations passes (Madsen & Nielsen 1993, SIAM J. Optim.
3:223), so one more step makes their residuals zero.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fitting.links import Floats
from fitting.newton import Problem, Solution, cholesky_solve, minimise, ridged

WIDEST = 3e-2

# A width this much wider, with the same points inside, shows the pull of those outside.
NUDGE = 1e-3


def narrowed(
    problem_of: Callable[[float], Problem],
    delta: float,
    theta: Floats,
    weights: Floats,
    *,
    lower: Floats,
    upper: Floats,
    factor: float = 0.5,
    tol: float = 1e-10,
    most: int = 200,
) -> Solution:
    """Descend from theta [B, p] with a wide Huber width, then narrower by `factor` again and
    again, down to delta."""
    widths: list[float] = []
    width = WIDEST
    while width > 1.2 * delta and len(widths) < 60:
        widths.append(width)
        width *= factor
    for width in (*widths, delta):
        problem, last = problem_of(width), width == delta
        found = minimise(
            problem,
            theta,
            weights,
            lower=lower,
            upper=upper,
            metric=ridged(problem.metric(theta, weights)),
            tol=tol if last else 1e-4,
            max_iterations=most if last else 30,
            refresh=5,
        )
        theta = found.theta
    return found


def to_least_deviations(
    problem_of: Callable[[float], Problem],
    delta: float,
    found: Solution,
    weights: Floats | None,
    lower: Floats,
    upper: Floats,
) -> Solution:
    """From Huber's optimum for a tiny delta to that of least absolute deviations.

    Inside the zone the clipped residuals over delta are multipliers between -1 and 1 that balance
    the pull of the points outside: what certifies least deviations. The pull of the points outside
    grows with delta while that of the points inside does not, which tells them apart; the Newton
    step for it alone takes the residuals inside to zero. It is kept where the sum of |r| falls.
    f stays in Huber's terms: delta times the sum.
    """
    sharp = problem_of(1e-7 * delta)
    theta, f = found.theta, sharp.evaluate(found.theta, weights)[0]
    for _ in range(2):
        _, g, h = problem_of(delta).evaluate(theta, weights)
        wider = problem_of(delta * (1 + NUDGE)).evaluate(theta, weights)[1]
        step = cholesky_solve(h, (wider - g) / NUDGE - g)
        trial = np.clip(theta + np.where(np.isfinite(step), step, 0.0), lower, upper)
        reached = sharp.evaluate(trial, weights)[0]
        take = np.isfinite(reached) & (reached < f)
        theta, f = np.where(take[:, None], trial, theta), np.where(take, reached, f)
    return replace(found, theta=theta, f=1e7 * f)
