"""Resamples of many points, first on a few points' words, then on the law itself.

Near its optimum a law of many points has little to say: what it predicts for any of them is, to a
millionth or less, the same combination of what it predicts for a dozen of them, wherever the
parameters are (an interpolative decomposition). The dozen are picked, and the combinations found,
from the law's values at some places around the optimum; from then on a Newton step asks the law
about the dozen, and the rest is a few matrix products: a tenth of what the law and its derivatives
cost at all points. Where each resample ends, the law is asked for its true value and gradient: that
certifies the optimum, or gives the next step. What is not there after a few of these goes through
Newton's method on the law, like everything else.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitting.generic import GenericProblem
from fitting.links import Floats
from fitting.newton import (
    Lanes,
    Problem,
    Solution,
    cholesky_solve,
    lane_weights,
    minimise,
    ridged,
    shared_start,
)

# A block of [lanes, points]: both sides long enough for a matrix product.
LANES, POINTS = 96, 512

# Numbers that are kept of all points together: 80 MB.
NUMBERS = 10_000_000

# Places for each parameter at which the law is asked about all points, and more of them to see how
# true the combinations are; the places lie this many times as far out as resamples are expected.
PLACES, MORE = 12, 8
BEYOND = 1.3

# The combinations must be true to this share of Huber's width, root mean square, or of .01 for
# squares. Points are picked until what is left is this share of that, times the root of the
# tolerance: what a step would gain goes with the square of what its gradient is wrong by.
TRUE, LEFT = 0.03, 1.0

# The dozen are picked among so many points.
AMONG = 2_000

# A point is left out whose loss is this many times the range of its predictions beyond them (and
# Huber's width): with less, lanes that go further than expected are lost to a pull without end.
SPARE = 2.0

# Steps on the surface, and steps with true gradients.
DOWN, STEPS = 60, 4

# Fewer lanes than so many a start are not worth it.
FEWEST = 16


@dataclass(frozen=True)
class Surface:
    """A generic problem whose predictions are combinations of a few of them.

    few: the problem at the k points that are asked; what a point says is parts [n, k] @ what these
    say. low, high [n]: between which predictions lay where it was made. line: of each lane [B] and
    [B, k], a sum over points that are left out, linear in what the few say; see `apart`.
    """

    few: GenericProblem
    target: Floats
    parts: Floats
    low: Floats
    high: Floats
    line: tuple[Floats, Floats] | None = None

    @classmethod
    def of(cls, problem: GenericProblem, around: Floats, tol: float) -> "Surface | None":
        """True where theta `around` [m, p] lie, of which the last `MORE` judge it; None where there
        would be too many numbers, or where no combinations are true enough. tol: of the optima
        that are looked for on it."""
        n = problem.points
        if around.size * n > NUMBERS * problem.size or len(around) <= MORE:
            return None
        allowed = TRUE * min(problem.delta, 1e-2)
        y = np.empty((len(around), n))
        for i in range(0, n, POINTS):
            y[:, i : i + POINTS] = problem.values(around, slice(i, i + POINTS))
        y = y[np.isfinite(y).all(axis=1)]
        if len(y) <= MORE:
            return None
        known, judge = y[:-MORE], y[-MORE:]
        among = np.unique(np.linspace(0, n - 1, AMONG).astype(np.int64))
        picked, axes = _pivots(known[:, among], LEFT * allowed * np.sqrt(tol * len(known)))
        k = len(picked)
        if not k or k * n > NUMBERS:
            return None
        rows = among[picked]
        whole = axes.T @ known  # [k, n]; of the picked points [k, k], triangular
        parts = np.ascontiguousarray(np.linalg.solve(whole[:, rows], whole).T)
        error = judge - judge[:, rows] @ parts.T
        if not np.sqrt(np.mean(error * error)) <= allowed:
            return None
        few = replace(
            problem,
            inputs={name: column[rows] for name, column in problem.inputs.items()},
            loss=problem.loss[rows],
        )
        return cls(few, problem.target, parts, y.min(axis=0), y.max(axis=0))

    def apart(self, weights: Floats) -> "tuple[Surface, Floats]":
        """The same for rows of weights [B, n], on the points alone that may come within Huber's
        width, and their weights: those that stay far off pull as hard wherever they are."""
        delta, above = self.few.delta, self.few.above
        spare = delta + SPARE * (self.high - self.low)
        over, under = self.target - self.high > spare, self.target - self.low < -spare
        far = over | under
        if not far.any():
            return self, weights
        slope = np.where(over, above, -1.0)[far] * delta
        w = weights[:, far] * slope
        middle = self.target[far] - np.where(over[far], 0.5 * delta, -0.5 * delta)
        near = ~far
        kept = replace(
            self,
            target=self.target[near],
            parts=self.parts[near],
            low=self.low[near],
            high=self.high[near],
            line=(w @ middle, w @ self.parts[far]),
        )
        return kept, weights[:, near]

    @property
    def size(self) -> int:
        return self.few.size

    @property
    def points(self) -> int:
        return int(self.target.size)

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self.evaluate(theta, weights)[2]

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        lanes, p = theta.shape
        delta, above = self.few.delta, self.few.above
        f, g, h = np.zeros(lanes), np.zeros((lanes, p)), np.zeros((lanes, p, p))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b in (slice(i, min(i + LANES, lanes)) for i in range(0, lanes, LANES)):
                phi, slope, bend = self.few.derivatives(theta[b])
                pull = np.zeros_like(phi)
                if self.line is not None:
                    mine = b if index is None else index[b]
                    pull += self.line[1][mine]
                    f[b] += self.line[0][mine] - np.vecdot(phi, pull)
                none = np.empty(0, dtype=np.int64)
                inside = [(none, none, np.empty(0))]
                for i in (slice(k, k + POINTS) for k in range(0, self.points, POINTS)):
                    r = self.target[i] - phi @ self.parts[i].T
                    own = lane_weights(weights, b, i, index)
                    w = np.ones_like(r) if own is None else own
                    if above != 1.0:
                        w = w * np.where(r > 0, above, 1.0)
                    psi = np.clip(r, -delta, delta)
                    wpsi = w * psi
                    lane, point = np.nonzero(psi == r)
                    psi *= -0.5
                    psi += r
                    f[b] += np.vecdot(wpsi, psi)
                    pull += wpsi @ self.parts[i]
                    inside.append((lane, point + i.start, np.broadcast_to(w, r.shape)[lane, point]))
                g[b] = -(slope @ pull[:, :, None])[:, :, 0]
                h[b] = self._outer(slope, *map(np.concatenate, zip(*inside, strict=True)))
                h[b] -= np.einsum("bjkq,bq->bjk", bend, pull)
        return f, g, h

    def _outer(
        self, slope: Floats, lane: NDArray[np.int64], point: NDArray[np.int64], weight: Floats
    ) -> Floats:
        """The Gauss-Newton part of the Hessians [B, p, p], of the points within Huber's width:
        few of them where a law does not fit. slope [B, p, k]; lane, point, weight: of each."""
        order = np.argsort(lane, kind="stable")
        ends = np.cumsum(np.bincount(lane, minlength=len(slope)))
        out = np.empty((len(slope), slope.shape[1], slope.shape[1]))
        for j, mine in enumerate(np.split(order, ends[:-1])):
            jac = slope[j] @ self.parts[point[mine]].T
            out[j] = (jac * weight[mine]) @ jac.T
        return out


def _pivots(y: Floats, least: float) -> tuple[NDArray[np.int64], Floats]:
    """Columns of y [m, n] of whose combinations the others are made, and an orthonormal basis
    [m, k] of them: each time the column of which most is left, until that is `least` or nothing."""
    left = y.copy()
    picked: list[int] = []
    axes: list[Floats] = []
    for _ in range(min(y.shape)):
        size = np.einsum("mn,mn->n", left, left)
        worst = int(np.argmax(size))
        if not np.sqrt(size[worst]) > least:
            break
        axis = left[:, worst] / np.sqrt(size[worst])
        left -= axis[:, None] * (axis @ left)
        picked.append(worst)
        axes.append(axis)
    return np.array(picked, dtype=np.int64), np.reshape(axes, (len(picked), len(y))).T


# f [B], gradient [B, p] and Hessian [B, p, p].
Sums = tuple[Floats, Floats, Floats]


class Walls(NamedTuple):
    """The box [p] that resamples stay in, and the metrics [B, p, p] of their steps."""

    lower: Floats
    upper: Floats
    metric: Floats


def places(size: int) -> int:
    """How many lanes, at least, a surface of `size` parameters is made from."""
    return PLACES * size + MORE


def resampled(
    problem: GenericProblem,
    start: Floats,
    weights: Floats,
    *,
    lower: Floats,
    upper: Floats,
    tol: float,
    most: int,
) -> Solution:
    """Every row of weights [B, n] at its own optimum of `problem`, from start [B, p]: optima of
    all points, or of few subsets. B is `places` or more."""
    first, metric = _begun(problem, start, weights)
    walls = Walls(lower, upper, metric)
    step: Floats = np.asarray(np.linalg.solve(metric, -first[1][:, :, None]), dtype=float)[:, :, 0]
    lanes = np.random.default_rng(29).permutation(len(start))[: places(problem.size)]
    around = np.clip(start[lanes] + BEYOND * step[lanes], lower, upper)
    surface = Surface.of(problem, around[np.isfinite(around).all(axis=1)], tol)
    if surface is None:
        return _newton(problem, start, weights, walls, tol, most, first)
    return _on(surface, problem, start, step, weights, first, walls, tol, most)


def _begun(problem: GenericProblem, start: Floats, weights: Floats) -> tuple[Sums, Floats]:
    """f, gradient and Hessian of all lanes at the start, and a metric [B, p, p] for them: the
    curvature that the penalty has on average over the middle half of the residuals."""
    lanes, p = start.shape
    f, g, h = np.empty(lanes), np.empty((lanes, p)), np.empty((lanes, p, p))
    metric = np.empty((lanes, p, p))
    own, member = np.unique(start, axis=0, return_inverse=True)
    for theta, mine in ((theta, member.reshape(-1) == u) for u, theta in enumerate(own)):
        f[mine], g[mine], h[mine] = shared_start(problem, theta, weights[mine])
        w = weights[mine].mean(axis=0)
        y, slope = problem.model(theta[None])
        r = np.abs(problem.target - y[0])
        width = max(problem.delta, float(np.median(r[w > 0])))
        share = 1.0 if width == problem.delta else problem.delta / width
        near = np.where(r <= width, w * share, 0.0)
        metric[mine] = ridged((slope[0] * near) @ slope[0].T)
    return (f, g, h), metric


def _newton(
    problem: Problem,
    start: Floats,
    weights: Floats,
    walls: Walls,
    tol: float,
    most: int,
    first: Sums | None = None,
    damping: float = 0.1,
) -> Solution:
    return minimise(
        problem, start, weights, lower=walls.lower, upper=walls.upper, metric=walls.metric,
        tol=tol, max_iterations=most, damping=damping, first=first,
    )  # fmt: skip


def _on(
    surface: Surface,
    problem: GenericProblem,
    start: Floats,
    step: Floats,
    weights: Floats,
    first: Sums,
    walls: Walls,
    tol: float,
    most: int,
) -> Solution:
    """Down the surface first, from where `step` leads if that is lower, then by the law's own
    gradients. What is not there then gets a quarter of `most` steps on the law: ten times as dear,
    they bring home half of it."""
    begun = first[0].copy()
    there = np.clip(start + step, walls.lower, walls.upper)
    surface, own = surface.apart(weights)
    ahead = surface.evaluate(there, own)
    lower = ahead[0] < begun
    there[~lower] = start[~lower]
    for mine, other in zip(first, ahead, strict=True):
        mine[lower] = other[lower]
    near = _newton(surface, there, own, walls, 0.1 * tol, DOWN, first, damping=1e-2)
    here, hessian = near.theta, near.hessian
    f, g = problem.gradient(here, weights)
    done = np.zeros(len(weights), dtype=bool)
    decrement = np.full(len(weights), np.inf)
    look = np.flatnonzero(np.isfinite(f) & (f <= begun))
    for left in reversed(range(STEPS)):
        t, down = here[look], -g[look]
        free = ~(((t <= walls.lower) & (down < 0)) | ((t >= walls.upper) & (down > 0)))
        both = free[:, :, None] & free[:, None, :]
        step = cholesky_solve(
            hessian[look] * both + np.eye(t.shape[1]) * ~free[:, :, None], down * free
        )
        gain = np.einsum("bi,bi->b", step, down * free) / np.maximum(f[look], 1e-300)
        decrement[look] = np.where(np.isfinite(gain), 0.5 * gain, np.inf)
        done[look[gain <= tol]] = True
        look, step = look[gain > tol], step[gain > tol]
        if not left or not look.size:
            break
        trial = np.clip(here[look] + step, walls.lower, walls.upper)
        fn, gn = problem.gradient(trial, weights[look])
        better = np.isfinite(fn) & (fn < f[look])
        look = look[better]
        here[look], f[look], g[look] = trial[better], fn[better], gn[better]
    found = Solution(here, f, g, hessian, done, decrement, near.iterations)
    lost = np.flatnonzero(~done)
    if lost.size:
        beyond = ~(f[lost] <= begun[lost])
        there = np.where(beyond[:, None], start[lost], here[lost])
        walls = walls._replace(metric=walls.metric[lost])
        again = _newton(problem, there, weights[lost], walls, tol, most // 4, damping=1e-2)
        for name in ("theta", "f", "gradient", "hessian", "converged", "decrement"):
            getattr(found, name)[lost] = getattr(again, name)
    return found
