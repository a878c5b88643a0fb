"""Resamples of a curve fit: blocks of neighbouring points, and whole curves where there are enough.

The points of one curve are not independent, so blocks of them come and go together. Weights are
exponential (Rubin's Bayesian bootstrap): with three curves a resample that loses one outright would
have no optimum. Each resample takes one Newton step (in Huber's metric) from the common optimum,
which is exact to first order and costs one evaluation of the law for all of them; `refitted` goes
all the way (a test compares the two).
"""

import numpy as np
from numpy.typing import NDArray

from fitting.curves.problem import PRIOR_WEIGHT, CurveProblem
from fitting.links import Floats
from fitting.newton import cholesky_solve, ridged

BLOCKS = 8  # of a curve
CURVES = 4  # with at least this many, whole curves are resampled as well


def block_weights(member: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Floats:
    """[draws, points] multipliers of mean 1 for points that belong to curves `member` [points]."""
    out = np.empty((draws, member.size))
    names = np.unique(member)
    for name in names:
        rows = np.flatnonzero(member == name)
        block = np.arange(rows.size) * BLOCKS // max(rows.size, 1)
        out[:, rows] = rng.exponential(size=(draws, BLOCKS))[:, block]
        if names.size >= CURVES:
            out[:, rows] *= rng.exponential(size=(draws, 1))
    return np.asarray(out / out.mean(axis=1, keepdims=True))


def one_step(problem: CurveProblem, theta: Floats, weights: Floats) -> Floats:
    """The law's parameters [draws, p] after one step of each resample from theta [p]."""
    loss, slopes = problem.model(theta[None])
    slope = slopes[0] / loss[0]
    r = problem.log_loss - np.log(loss[0])
    psi = np.clip(r, -problem.delta, problem.delta)
    # Huber's own curvature, with a little of the reweighted one to keep it positive
    share = (psi == r) + 0.1 * problem.delta / np.maximum(np.abs(r), problem.delta)
    w = weights * problem.weights
    p = theta.size
    # the optimum's own pull is not zero where a wall holds it: only what differs moves a resample
    gradient = (w - problem.weights) * psi @ slope.T
    pairs = (slope[:, None] * slope[None]).reshape(p * p, -1)
    metric = ((w * share) @ pairs.T).reshape(-1, p, p)
    for j, param in enumerate(problem.law.params):
        if param.prior is not None:
            metric[:, j, j] += (PRIOR_WEIGHT / param.prior.sd) ** 2
    step = np.nan_to_num(cholesky_solve(ridged(metric), gradient))
    lower, upper = problem.walls
    # beyond two units of a logarithm, or of an exponent, a linear step means nothing
    size = np.abs(step).max(axis=1, keepdims=True)
    step *= np.minimum(1.0, 2.0 / np.maximum(size, 1e-300))
    return problem.values(np.clip(theta + step, lower, upper))


def refitted(problem: CurveProblem, theta: Floats, weights: Floats) -> Floats:
    """The law's parameters [draws, p], each resample at its own optimum."""
    start = np.tile(theta, (len(weights), 1))
    return problem.values(problem.solve(start, weights * problem.weights, tol=1e-6).theta)
