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

# A block of [lanes, points]: both sides long enough for a matrix product. Fewer lanes, more points.
LANES, POINTS = 200, 256

# Numbers of points within Huber's width that are gathered at a time, so that they stay in cache.
GATHERED = 60_000

# Numbers that are kept of all points together: 80 MB.
NUMBERS = 10_000_000

# Places for each parameter at which the law is asked about all points, and more of them to see how
# true the combinations are; the places lie this many times as far out as resamples are expected.
PLACES, MORE = 12, 8
BEYOND = 1.3

# The combinations must be true to this share of Huber's width, root mean square, or of .01 for
# squares. Points are picked until what is left is this share of that, times the root of the
# tolerance: what a step would gain goes with the square of what its gradient is wrong by.
TRUE, LEFT = 0.03, 0.1

# The dozen are picked among so many points.
AMONG = 2_000

# A point is left out whose loss is this many times the range of its predictions beyond them (and
# Huber's width): with less, lanes that go further than expected are lost to a pull without end.
SPARE = 2.0

# Steps on the surface, and steps with true gradients.
DOWN, STEPS = 60, 4

# Where points are more than twice as many, the law is asked about so many of them, drawn at random,
# where resamples end: its gradient of all points is known if what the surface's is wrong by would
# gain less than this share of the tolerance.
WITNESSES, SURE = 1_000, 0.01


class Line(NamedTuple):
    """A sum over points far outside Huber's width: value [B] - pull [B, k] @ what the few say. It
    holds while parts [m, k] @ what they say stays below bound [m]."""

    value: Floats
    pull: Floats
    parts: Floats
    bound: Floats


@dataclass(frozen=True)
class Surface:
    """A generic problem whose predictions are combinations of a few of them.

    few: the problem at the k points that are asked; what a point says is parts [n, k] @ what these
    say. low, high [n]: between which predictions lay where it was made. line: what points add that
    are left out, see `apart`.
    """

    few: GenericProblem
    target: Floats
    parts: Floats
    low: Floats
    high: Floats
    line: "Line | None" = None

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
        return cls(problem.subset(rows), problem.target, parts, y.min(axis=0), y.max(axis=0))

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
        side = np.where(over[far], 1.0, -1.0)
        middle = self.target[far] - np.where(over[far], 0.5 * delta, -0.5 * delta)
        near = ~far
        kept = replace(
            self,
            target=self.target[near],
            parts=self.parts[near],
            low=self.low[near],
            high=self.high[near],
            line=Line(
                w @ middle,
                w @ self.parts[far],
                self.parts[far] * side[:, None],
                self.target[far] * side - delta,
            ),
        )
        return kept, weights[:, near]

    def at(self, rows: NDArray[np.int64]) -> "Surface":
        """The same of some of the points."""
        return replace(
            self,
            target=self.target[rows],
            parts=self.parts[rows],
            low=self.low[rows],
            high=self.high[rows],
        )

    def strayed(self, theta: Floats) -> NDArray[np.bool_]:
        """Lanes [B] in which a point that was left out has come within Huber's width."""
        out = np.zeros(len(theta), dtype=bool)
        if self.line is not None:
            phi = self.few.values(theta, slice(None))
            for i in range(0, self.line.bound.size, POINTS):
                far = slice(i, i + POINTS)
                out |= ~(phi @ self.line.parts[far].T <= self.line.bound[far]).all(axis=1)
        return out

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
                    pull += self.line.pull[mine]
                    f[b] += self.line.value[mine] - np.vecdot(phi, pull)
                own = lane_weights(weights, b, slice(None), index)
                inside = np.empty((len(phi), self.points), dtype=bool)
                sided = np.empty(inside.shape) if above != 1.0 else None
                step = POINTS * max(1, LANES // len(phi))
                for i in (slice(k, k + step) for k in range(0, self.points, step)):
                    r = phi @ self.parts[i].T
                    np.subtract(self.target[i], r, out=r)
                    w = np.ones_like(r) if own is None else own[..., i]
                    if sided is not None:
                        w = sided[:, i] = w * np.where(r > 0, above, 1.0)
                    psi = np.clip(r, -delta, delta)
                    wpsi = w * psi
                    np.equal(psi, r, out=inside[:, i])
                    psi *= -0.5
                    psi += r
                    f[b] += np.vecdot(wpsi, psi)
                    pull += wpsi @ self.parts[i]
                g[b] = -(slope @ pull[:, :, None])[:, :, 0]
                h[b] = self._outer(slope, inside, own if sided is None else sided)
                h[b] -= np.einsum("bjkq,bq->bjk", bend, pull)
        return f, g, h

    def _outer(self, slope: Floats, inside: NDArray[np.bool_], weights: Floats | None) -> Floats:
        """The Gauss-Newton part of the Hessians [B, p, p], of the points `inside` [B, n] Huber's
        width: few of them where a law does not fit. slope [B, p, k]; weights [n] or [B, n]."""
        lanes, p, k = slope.shape
        out = np.empty((lanes, p, p))
        lane, point = np.nonzero(inside)
        heft = np.ones(point.size)
        if weights is not None:
            heft = np.broadcast_to(weights, inside.shape)[lane, point]
            drawn = heft != 0  # a third of the points are not in a resample
            lane, point, heft = lane[drawn], point[drawn], heft[drawn]
        ends = np.cumsum(np.bincount(lane, minlength=lanes))
        begins = np.concatenate([[0], ends[:-1]])
        most = int((ends - begins).max(initial=1))
        step = max(1, GATHERED // (k * most))
        for b in (slice(i, min(i + step, lanes)) for i in range(0, lanes, step)):
            mine = slice(int(begins[b.start]), int(ends[b.stop - 1]))
            place = np.arange(mine.start, mine.stop) - begins[lane[mine]]
            # padded with the first point, which then weighs nothing
            where = np.zeros((b.stop - b.start, most), dtype=np.int64)
            weight = np.zeros(where.shape)
            where[lane[mine] - b.start, place] = point[mine]
            weight[lane[mine] - b.start, place] = heft[mine]
            jac = slope[b] @ self.parts[where].transpose(0, 2, 1)
            out[b] = (jac * weight[:, None, :]) @ jac.transpose(0, 2, 1)
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


def _certified(
    problem: GenericProblem,
    whole: Surface,
    near_by: Surface,
    found: Solution,
    weights: Floats,
    tol: float,
) -> tuple[Floats, Floats]:
    """f [B] and gradient [B, p] where resamples ended on the surface `near_by`, a part of `whole`.

    The law is asked about all points; or, of very many, about some witnesses: where these, taken
    for all, say that the surface's gradient is right, it is taken.
    """
    n = problem.points
    if n <= 2 * WITNESSES:
        return problem.gradient(found.theta, weights)
    rows = np.sort(np.random.default_rng(31).choice(n, WITNESSES, replace=False))
    part, theirs = whole.at(rows).apart(weights[:, rows])
    _, true = problem.subset(rows).gradient(found.theta, weights[:, rows])
    off = (true - part.evaluate(found.theta, theirs)[1]) * (n / WITNESSES)
    with np.errstate(invalid="ignore", over="ignore"):
        wrong = np.vecdot(cholesky_solve(found.hessian, off), off) / found.f
    f, g = found.f.copy(), found.gradient.copy()
    doubt = np.flatnonzero(~(wrong <= SURE * tol) | near_by.strayed(found.theta))
    if doubt.size:
        f[doubt], g[doubt] = problem.gradient(found.theta[doubt], weights[doubt])
    return f, g


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
    whole = surface
    surface, own = whole.apart(weights)
    ahead = surface.evaluate(there, own)
    lower = ahead[0] < begun
    there[~lower] = start[~lower]
    for mine, other in zip(first, ahead, strict=True):
        mine[lower] = other[lower]
    near = _newton(surface, there, own, walls, 0.1 * tol, min(DOWN, 2 * most), first, damping=1e-2)
    here, hessian = near.theta, near.hessian
    f, g = _certified(problem, whole, surface, near, weights, tol)
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
