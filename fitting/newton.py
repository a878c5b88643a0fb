"""Damped Newton over many problems at once: starts and resamples are one batch.

Each lane b minimises f(theta_b; w_b); all lanes share the points and differ in start and weights.
A step solves (H + lam M) s = -g with M a positive definite metric (the reweighted Gauss-Newton
matrix). Measuring the step in M makes the method blind to how the parameters are scaled, so that
ln A and alpha, correlated .9993 in raw coordinates, cost nothing; damping by the identity would.
A lane leaves the batch when its Newton decrement says that nothing is left to gain.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fitting.links import Floats

# One block of the [lanes, points] arrays holds about this many numbers: two dozen temporaries of
# 240 kB stay in the L2 cache of a present-day core.
BLOCK = 30_000


# A pivot of which cancellation has left less than this share is not a pivot.
PIVOT = 1e-15

# Share of its own diagonal that is added to a metric.
RIDGE = 1e-3

# A factor loses no more than this share of itself in one step.
LEAST_SHRINK = -0.99

# Which row of `weights` each lane uses; None: lane b uses row b.
Lanes = NDArray[np.intp] | None


class Problem(Protocol):
    """A sum over points of penalties, with derivatives in the parameters."""

    @property
    def size(self) -> int: ...

    @property
    def points(self) -> int: ...

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        """f [B], gradient [B, p], Hessian [B, p, p] at theta [B, p]; weights [n] or [B, n]."""
        ...

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        """Reweighted Gauss-Newton matrix [B, p, p]: positive semi-definite."""
        ...


class Pointwise(Protocol):
    """A problem that can also say what each of its points adds."""

    def pointwise(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """What each point adds at one theta [p], unweighted: f [n], g [n, p], H [n, p, p]."""
        ...


@dataclass(frozen=True)
class Solution:
    """theta [B, p], f [B], gradient and Hessian there, and whether each lane converged.

    decrement [B]: g H^-1 g / 2 relative to f, the share of f that one more step would gain.
    """

    theta: Floats
    f: Floats
    gradient: Floats
    hessian: Floats
    converged: NDArray[np.bool_]
    decrement: Floats
    iterations: int


def joined(one: Solution, other: Solution) -> Solution:
    """The lanes of both."""
    each = {
        name: np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("theta", "f", "gradient", "hessian", "converged", "decrement")
    }
    return Solution(**each, iterations=one.iterations + other.iterations)


def blocks(lanes: int, points: int) -> list[tuple[slice, slice]]:
    """(lane slice, point slice) pairs that cover lanes x points in cache-sized pieces."""
    rows = min(points, BLOCK)
    step = max(1, BLOCK // max(rows, 1))
    return [
        (slice(b, min(b + step, lanes)), slice(i, min(i + rows, points)))
        for b in range(0, lanes, step)
        for i in range(0, points, rows)
    ]


def ridged(metric: Floats) -> Floats:
    """Add what keeps a parameter that moves nothing from making the metric singular."""
    p = metric.shape[-1]
    trace = np.einsum("...ii->...", metric)[..., None, None] / p
    diagonal = np.einsum("...ii->...i", metric)
    ridge = np.eye(p) * (RIDGE * diagonal[..., None, :] + 1e-14 * trace + 1e-300)
    return np.asarray(metric + ridge)


def lane_weights(
    weights: Floats | None, lanes: slice, rows: slice, index: Lanes = None
) -> Floats | None:
    """The weights of one block: [n] shared, or [lanes, n] picked by `index`."""
    if weights is None or weights.ndim == 1:
        return None if weights is None else weights[rows]
    if index is None or index.size == len(weights):  # lanes leave, and keep their order
        return weights[lanes, rows]
    return np.asarray(weights[index[lanes], rows])


def pointwise_sums(
    r: Floats, first: Floats, second: Floats, delta: float, above: float
) -> tuple[Floats, Floats, Floats]:
    """`Pointwise.pointwise` from residuals [n] and the model's derivatives [n, p] and [n, p, p]."""
    side = np.where(r > 0, above, 1.0)
    psi = np.clip(r, -delta, delta)
    inside = side * (psi == r)
    pull = side * psi
    f = pull * (r - 0.5 * psi)
    outer = first[:, :, None] * first[:, None, :]
    return f, -pull[:, None] * first, inside[:, None, None] * outer - pull[:, None, None] * second


def shared_start(
    problem: Pointwise, theta: Floats, weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """f, gradient and Hessian of all lanes of weights [B, n] at one theta [p]: one product of the
    weights with what each point adds, at a fortieth of what evaluating every lane costs."""
    f, g, h = problem.pointwise(theta)
    p = g.shape[1]
    upper = np.triu_indices(p)
    sums = weights @ np.concatenate([f[:, None], g, h[:, *upper]], axis=1)
    hessian = np.empty((len(weights), p, p))
    hessian[:, *upper] = hessian[:, upper[1], upper[0]] = sums[:, 1 + p :]
    return sums[:, 0].copy(), sums[:, 1 : 1 + p].copy(), hessian


def cholesky_solve(matrix: Floats, rhs: Floats) -> Floats:
    """Solve matrix [B, p, p] x = rhs [B, p], vectorised over B; NaN where not positive definite.

    LAPACK through numpy loops over the batch in C at about 2 us a matrix; with p <= 8 this is
    p^3/6 operations on long vectors and several times faster. Few matrices go to LAPACK.
    """
    p = matrix.shape[-1]
    if len(matrix) < 16:
        try:
            np.linalg.cholesky(matrix)
            return np.asarray(np.linalg.solve(matrix, rhs[:, :, None])[:, :, 0], dtype=float)
        except np.linalg.LinAlgError:
            # one of them is not positive definite: one by one says which, in the same arithmetic
            each = [_solved(m, r) for m, r in zip(matrix, rhs, strict=True)]
            return np.array(each, dtype=float)
    a = np.ascontiguousarray(np.moveaxis(matrix, 0, -1))
    y = [np.empty(0)] * p
    low: list[list[Floats]] = [[np.empty(0)] * p for _ in range(p)]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for j in range(p):
            d = a[j, j].copy()
            for k in range(j):
                d -= low[j][k] * low[j][k]
            # a pivot that cancellation has eaten is not a pivot
            root = np.sqrt(np.where(d > PIVOT * a[j, j], d, np.nan))
            low[j][j] = root
            for i in range(j + 1, p):
                e = a[i, j].copy()
                for k in range(j):
                    e -= low[i][k] * low[j][k]
                low[i][j] = e / root
        for j in range(p):
            s = rhs[:, j].copy()
            for k in range(j):
                s -= low[j][k] * y[k]
            y[j] = s / low[j][j]
        for j in reversed(range(p)):
            s = y[j]
            for k in range(j + 1, p):
                s = s - low[k][j] * y[k]
            y[j] = s / low[j][j]
    return np.stack(y, axis=1)


def _solved(matrix: Floats, rhs: Floats) -> list[float]:
    """What `cholesky_solve` does, for one matrix [p, p], operation by operation: the same bits, in
    plain numbers, for which a call of numpy would take longer than the sum."""
    a: list[list[float]] = matrix.tolist()
    y: list[float] = rhs.tolist()
    p = len(y)
    low = [[0.0] * p for _ in range(p)]
    for j in range(p):
        d = a[j][j]
        for k in range(j):
            d -= low[j][k] * low[j][k]
        if not (d > PIVOT * a[j][j] and d > 0.0):
            return [math.nan] * p
        root = low[j][j] = math.sqrt(d)
        for i in range(j + 1, p):
            e = a[i][j]
            for k in range(j):
                e -= low[i][k] * low[j][k]
            low[i][j] = e / root
    for j in range(p):
        for k in range(j):
            y[j] -= low[j][k] * y[k]
        y[j] /= low[j][j]
    for j in reversed(range(p)):
        for k in range(j + 1, p):
            y[j] -= low[k][j] * y[k]
        y[j] /= low[j][j]
    return y


def minimise(
    problem: Problem,
    theta: Floats,
    weights: Floats | None = None,
    *,
    lower: Floats,
    upper: Floats,
    metric: Floats,
    tol: float = 1e-10,
    max_iterations: int = 60,
    damping: float = 0.1,
    refresh: int = 0,
    scales: tuple[int, ...] = (),
    first: tuple[Floats, Floats, Floats] | None = None,
) -> Solution:
    """Minimise every lane from theta [B, p] inside the box [lower, upper].

    weights: None, [n] for all lanes, or [B, n]. metric: [p, p] shared, or [B, p, p].
    tol: a lane stops when a step promises less than tol of its objective. refresh: take the metric
    anew every so many iterations (0: never), for lanes that start far from where they will end.
    scales: coordinates that are the logarithm of a factor in which the model is linear: there the
    quadratic is taken, and the step made, in the factor. first: f, gradient and Hessian at theta,
    where the caller has them.
    """
    lanes, p = theta.shape
    theta = np.clip(theta, lower, upper)
    own = weights is not None and weights.ndim == 2
    f, g, h = problem.evaluate(theta, weights) if first is None else first
    # residuals are known to about 1e-13: an objective below this is zero
    floor = 1e-26 * problem.points
    lam = np.full(lanes, damping)
    grow = np.full(lanes, 4.0)
    done = np.zeros(lanes, dtype=bool)
    decrement = np.full(lanes, np.inf)
    alive = np.flatnonzero(np.isfinite(f))
    eye = np.eye(p)
    factors = list(scales)
    iteration = 0
    while alive.size and iteration < max_iterations:
        iteration += 1
        if refresh and iteration % refresh == 0:
            metric = np.broadcast_to(metric, (lanes, p, p)).copy()
            mine = weights[alive] if weights is not None and weights.ndim == 2 else weights
            metric[alive] = ridged(problem.metric(theta[alive], mine))
        t, ga, ha = theta[alive], g[alive], h[alive]
        frozen = ((t <= lower) & (ga > 0)) | ((t >= upper) & (ga < 0))
        m = metric if metric.ndim == 2 else metric[alive]
        if factors:
            ha[:, factors, factors] -= ga[:, factors]
        system = ha + lam[alive, None, None] * m
        if frozen.any():
            free = (~frozen).astype(float)
            system = system * (free[:, :, None] * free[:, None, :])
            system = system + eye * frozen[:, :, None]
            ga = ga * free
        step = cholesky_solve(system, -ga)
        promise = -np.einsum("bi,bi->b", step, ga)
        solved = np.isfinite(promise)
        level = np.maximum(f[alive], floor)
        gain = np.where(solved, promise, np.inf) / level
        decrement[alive] = 0.5 * gain
        finished = (gain <= tol) & (lam[alive] <= 1e-2)
        step = np.where(solved[:, None], step, 0.0)
        if factors:
            step[:, factors] = np.log1p(np.maximum(step[:, factors], LEAST_SHRINK))
        trial = np.clip(t + step, lower, upper)
        moved = trial - t
        finished |= solved & ~(moved != 0).any(axis=1)
        try_these = solved & ~finished
        rows = alive[try_these]
        accepted = np.zeros(alive.size, dtype=bool)
        if rows.size:
            fn, gn, hn = problem.evaluate(trial[try_these], weights, rows if own else None)
            d = moved[try_these]
            predicted = -np.einsum("bi,bi->b", d, g[rows]) - 0.5 * np.einsum(
                "bi,bij,bj->b", d, h[rows], d
            )
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = (f[rows] - fn) / np.where(predicted > 0, predicted, np.inf)
                better = np.isfinite(fn) & (fn <= f[rows]) & np.isfinite(gn).all(axis=1)
            accepted[try_these] = better
            took = rows[better]
            theta[took], f[took] = trial[try_these][better], fn[better]
            g[took], h[took] = gn[better], hn[better]
            r = ratio[better]
            lam[took] *= np.where(r > 0.5, 0.1, np.where(r < 0.1, 3.0, 1.0))
            grow[took] = 4.0
        refused = alive[~accepted]
        lam[refused] *= grow[refused]
        grow[refused] = np.minimum(grow[refused] * 2.0, 64.0)
        # with all the damping in the world no step helps: this is the optimum as far as
        # floating point can tell, if what was promised is down at rounding
        stuck = ~accepted & (lam[alive] > 1e8)
        done[alive[finished | (stuck & (gain <= 1e-11))]] = True
        alive = alive[~(finished | stuck)]
    return Solution(theta, f, g, h, done, decrement, iteration)
