"""The shape of each parameter's valley: profile likelihood, and the sandwich beside it.

A parameter is held at a value and all others are refitted; how fast the objective rises says how
well the data know it. The rise is put on the scale of a squared t, 2 (f - f_best) E[psi'] /
E[psi^2] with psi the derivative of the penalty (Schrader & Hettmansperger 1980, Biometrika 67:93),
which for squares is the F statistic of Bates & Watts 1988 (section 6.1.2). It assumes independent
errors that are alike, which the bootstrap over runs does not; where they differ, trust the latter.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.engine import Engine, Optimum, many
from fitting.errors import FittingError
from fitting.fit import Fit
from fitting.generic import GenericProblem
from fitting.intervals import residuals, robust_sd, sandwich
from fitting.links import Floats
from fitting.newton import Lanes, Problem, cholesky_solve, minimise, ridged
from fitting.predict import check_level
from fitting.runs import Runs
from fitting.surface import Surface, places

# Where a parameter is held, in its standard errors from the optimum; and, on a side where the
# interval has not ended by then, further out: valleys may be much wider on one side.
STEPS = np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0])
FAR = np.array([4.0, 6.0, 9.0, 14.0])

# A lane has arrived when a step would gain less than this share of the objective; iterations for
# it on the law, on a surface, and on the law after the surface, where few arrive that had not.
TOLERANCE = 1e-8
MOST, DOWN, AFTER = 150, 60, 30

# A surface is made from places this many times as far out as STEPS.
REACH = 1.3


@dataclass(frozen=True)
class Profile:
    """One parameter: values [k] where it was held (the optimum among them), statistic [k] there
    (0 at the optimum, `threshold` at the ends of the interval). lower, upper: None where the valley
    stays open as far as it was followed."""

    param: str
    values: Floats
    statistic: Floats
    threshold: float
    lower: float | None
    upper: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "lower": self.lower,
            "upper": self.upper,
            "values": self.values.tolist(),
            "statistic": self.statistic.tolist(),
            "threshold": self.threshold,
        }


@dataclass(frozen=True)
class _Held:
    """The problem with one parameter held: theta = anchor of the lane + z @ free.T."""

    inner: Problem
    anchor: Floats
    free: Floats

    @property
    def size(self) -> int:
        return int(self.free.shape[1])

    @property
    def points(self) -> int:
        return self.inner.points

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        anchor = self.anchor if index is None else self.anchor[index]
        f, g, h = self.inner.evaluate(anchor + theta @ self.free.T, weights, index)
        return f, g @ self.free, self.free.T @ h @ self.free

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        inside = self.inner.metric(self.anchor[: len(theta)] + theta @ self.free.T, weights)
        return np.asarray(self.free.T @ inside @ self.free)


def sandwich_intervals(
    fit: Fit, runs: Runs, level: float | None = None
) -> dict[str, tuple[float, float]]:
    """{param: (lower, upper)} from the covariance that is clustered by run; on the log scale for
    parameters that live on it. No interval for a parameter whose variance is not finite."""
    from scipy.special import ndtri

    engine, best = _again(fit, runs)
    slope = engine.slope(best.theta)
    covariance = slope @ sandwich(engine, best) @ slope.T
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    z = float(ndtri(0.5 + 0.5 * _level(fit, level)))
    line = slope @ best.theta
    with np.errstate(over="ignore"):
        ends = fit.law.from_line(np.stack([line - z * spread, line + z * spread]))
    return {
        name: (float(low), float(high))
        for name, low, high in zip(fit.law.param_names, *ends, strict=True)
        if np.isfinite([low, high]).all()
    }


def profiles(fit: Fit, runs: Runs, level: float | None = None) -> dict[str, Profile]:
    """{param: its profile} under the fit's own objective. `runs` must be those of the fit.

    FittingError where there is no such thing: as many parameters as points, no noise at all, or an
    objective that treats the two sides differently.
    """
    from scipy.special import stdtrit

    if fit.objective.above != 1.0:
        raise FittingError(
            "bad_option",
            f"{fit.objective.kind} has no profile likelihood: it treats the two sides differently.",
            "Fit with huber-log or squares-log to see one.",
        )
    engine, best = _again(fit, runs)
    n, p = engine.loss.size, best.theta.size
    if n <= p:
        raise FittingError(
            "too_few_points",
            f"{p} parameters pass through {n} points: there is no noise to judge by.",
            "Add runs.",
        )
    scale = _scale(engine, best)
    threshold = float(stdtrit(n - p, 0.5 + 0.5 * _level(fit, level))) ** 2
    slope = engine.slope(best.theta)
    inverse = np.asarray(
        np.linalg.pinv(0.5 * (best.hessian + best.hessian.T), rcond=1e-14), dtype=float
    )
    spread = np.sqrt(np.maximum(np.diag(slope @ inverse @ slope.T), 0.0) / scale)
    surface = _surface(engine, best, inverse / scale)
    found = {}
    for j, param in enumerate(fit.law.params):
        valley = partial(_valley, engine, best, slope[j], inverse, spread[j], param.link.walls)
        at, statistic = valley(np.concatenate([-STEPS[::-1], STEPS]), scale, surface)
        middle = int(np.argmin(statistic))
        sides = ((-FAR, statistic[: middle + 1]), (FAR, statistic[middle:]))
        if open_ones := [far for far, side in sides if side.max() < threshold]:
            further = valley(np.concatenate(open_ones), scale)
            at, first = np.unique(np.append(at, further[0]), return_index=True)
            statistic = np.append(statistic, further[1])[first]
        found[param.name] = _profile(fit, j, at, statistic, threshold)
    return found


def _again(fit: Fit, runs: Runs) -> tuple[Engine, Optimum]:
    """The fit's problem and its optimum, from the stored parameters."""
    engine = Engine.of(fit.law, runs, fit.objective)
    theta = engine.theta(fit.values)
    f, g, h = engine.problem().evaluate(theta[None], engine.weights)
    optimum = Optimum(fit.values, theta, float(f[0]), True, 0.0, g[0], h[0], 1, 1, 0)
    return engine, optimum


def _level(fit: Fit, level: float | None) -> float:
    return fit.level if level is None else check_level(level)


def _scale(engine: Engine, best: Optimum) -> float:
    """E[psi'] / E[psi^2]. The first for normal residuals of the robust scale: with a narrow Huber
    penalty the share of points inside it is a count of very few."""
    from scipy.special import erf

    n, p = engine.loss.size, best.theta.size
    r = residuals(engine, best.values)
    if engine.objective.raw:
        r = engine.loss - np.asarray(engine.law.evaluate(engine.inputs, best.values), dtype=float)
    delta = engine.objective.solver_delta
    sd = robust_sd(r, p)
    w = np.ones(n) if engine.weights is None else engine.weights
    variance = float((w * np.clip(r, -delta, delta) ** 2).sum()) / (n - p)
    if not sd > 1e-9 * float(np.median(np.abs(np.log(engine.loss)) + 1.0)) or not variance > 0:
        raise FittingError(
            "bad_value",
            "These losses follow the law exactly: without noise every interval is a point.",
            "Measured losses have noise; nothing is wrong with a fit to exact ones.",
        )
    inside = 1.0 if np.isinf(delta) else float(erf(delta / (sd * np.sqrt(2.0))))
    return inside / variance


def _surface(engine: Engine, best: Optimum, covariance: Floats) -> Surface | None:
    """What a law that is no sum of powers says of many points, within reach of `STEPS`."""
    problem = engine.problem()
    if not (many(engine) and isinstance(problem, GenericProblem)):
        return None
    p = best.theta.size
    value, vector = np.linalg.eigh(0.5 * (covariance + covariance.T))
    rng = np.random.default_rng(37)
    aside = rng.standard_normal((places(p), p))
    aside *= (rng.uniform(size=len(aside)) ** (1 / p) / np.linalg.norm(aside, axis=1))[:, None]
    aside *= REACH * STEPS[-1] * np.sqrt(np.maximum(value, 0.0))
    around = np.clip(best.theta + aside @ vector.T, engine.lower, engine.upper)
    return Surface.of(problem, around[np.isfinite(around).all(axis=1)], TOLERANCE)


def _valley(
    engine: Engine,
    best: Optimum,
    row: Floats,
    inverse: Floats,
    spread: float,
    walls: tuple[float, float],
    steps: Floats,
    scale: float,
    surface: Surface | None = None,
) -> tuple[Floats, Floats]:
    """Where the parameter was held, on its line [k], and the statistic there [k]; the optimum is
    among them.

    row: d(parameter's line) / d(theta). steps: where to hold it, in standard errors `spread` from
    the optimum. Each lane starts where the quadratic puts the others, and goes down the `surface`
    first where there is one.
    """
    centre = float(row @ best.theta)
    if not (np.isfinite(spread) and spread > 0):
        return np.array([centre]), np.zeros(1)
    at = centre + spread * steps
    at = at[(at > walls[0]) & (at < walls[1])]
    if not at.size:
        return np.array([centre]), np.zeros(1)
    along = inverse @ row / float(row @ inverse @ row)
    free = np.linalg.svd(row[None, :])[2][1:].T
    problem = engine.problem()
    held = _Held(problem, best.theta + (at - centre)[:, None] * along, free)
    metric = ridged(free.T @ problem.metric(best.theta[None], engine.weights)[0] @ free)
    far = np.full(free.shape[1], 1e3)
    start = np.zeros((at.size, free.shape[1]))
    # a row a lane, so that `minimise` says which lanes it asks about
    weights = np.broadcast_to(
        1.0 if engine.weights is None else engine.weights, (at.size, engine.loss.size)
    )
    f = np.full(at.size, np.nan)
    left = np.ones(at.size, dtype=bool)
    if surface is not None:
        near = minimise(
            replace(held, inner=surface), start, weights, lower=-far, upper=far,
            metric=metric, tol=TOLERANCE, max_iterations=DOWN,
        )  # fmt: skip
        value, g = problem.gradient(held.anchor + near.theta @ free.T, weights)
        down = -g @ free
        gain = np.vecdot(cholesky_solve(near.hessian, down), down)
        left = ~(near.converged & (gain >= 0) & (gain <= TOLERANCE * value))
        f[~left], start = value[~left], np.where(near.converged[:, None], near.theta, start)
    if left.any():
        lanes = replace(held, anchor=held.anchor[left])
        done = minimise(
            lanes, start[left], weights[left], lower=-far, upper=far, metric=metric,
            tol=TOLERANCE, max_iterations=MOST if surface is None else AFTER,
        )  # fmt: skip
        f[left] = done.f
    good: NDArray[np.bool_] = np.isfinite(f)
    at = np.append(at[good], centre)
    rise = np.append(np.maximum(f[good] - best.objective, 0.0), 0.0)
    order = np.argsort(at)
    return at[order], scale * 2.0 * rise[order]


def _profile(fit: Fit, j: int, at: Floats, statistic: Floats, threshold: float) -> Profile:
    """The interval: where the root of the statistic, nearly a straight line, crosses."""
    middle = int(np.argmin(statistic))
    root, limit = np.sqrt(statistic), float(np.sqrt(threshold))
    ends: list[float | None] = []
    for step, stop in ((-1, -1), (1, at.size)):
        end, last = None, middle
        for i in range(middle + step, stop, step):
            if root[i] >= limit:
                share = (limit - root[last]) / (root[i] - root[last])
                end = float(at[last] + share * (at[i] - at[last]))
                break
            last = i
        ends.append(end)
    shown = statistic <= 3.0 * threshold
    link = fit.law.params[j].link
    return Profile(
        fit.law.param_names[j],
        np.asarray(link.from_line(at[shown]), dtype=float),
        statistic[shown],
        threshold,
        *(None if e is None else float(link.from_line(np.array(e))) for e in ends),
    )
