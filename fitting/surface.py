"""Resamples of many points, first on a polynomial surface, then on the law itself.

A resample of many runs ends near the fit of all of them, where the prediction of every point is a
polynomial of the parameters to within a millionth or so. The polynomials are fitted to values of
the law at some hundred places around the optimum; on them a Newton step is a few matrix products,
a tenth of what the law and its derivatives cost. Where each resample ends, the law is asked for
its true value and gradient: that certifies the optimum, or gives the next step. What is not there
after a few of these goes through Newton's method on the law, like everything else.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitting.generic import GenericProblem
from fitting.links import Floats
from fitting.newton import Lanes, Problem, Solution, cholesky_solve, joined, lane_weights, minimise

# A block of [lanes, points]: both sides long enough for a matrix product.
LANES, POINTS = 96, 512

# Numbers that are kept of all points together: 80 MB.
NUMBERS = 10_000_000

# Degree of the polynomials by the number of parameters (beyond: none), and places for each term.
DEGREES = {1: 6, 2: 6, 3: 5, 4: 5, 5: 4, 6: 3, 7: 3, 8: 3, 9: 3}
PLACES = 1.5

# Resamples a parameter that go ahead and say where the others end; the places lie this many times
# as far out. There the polynomials must be true to this share of Huber's width, root mean square,
# or of .01 for squares.
PILOTS = 4
BEYOND = 1.3
TRUE = 0.03

# Steps with true gradients.
STEPS = 4


@dataclass(frozen=True)
class Surface:
    """A generic problem whose predictions are polynomials in z = (theta - centre) @ whiten.

    What a point says is parts [n, k] @ shapes [k, q] @ monomials [q]: over the inputs of a law a
    dozen shapes make up the surfaces of all points. powers [q, p]: exponents of z in each monomial;
    pairs [n, k(k+1)/2]: products of parts.
    """

    centre: Floats
    whiten: Floats
    target: Floats
    parts: Floats
    pairs: Floats
    shapes: Floats
    powers: NDArray[np.int64]
    delta: float
    above: float

    @classmethod
    def of(cls, problem: GenericProblem, centre: Floats, around: Floats) -> "Surface | None":
        """Fitted about `centre` [p] where theta `around` [B, p] lie; None where there would be too
        many numbers, or where polynomials are not true enough."""
        p = problem.size
        powers = _powers(p)
        places = int(PLACES * len(powers))
        off = around - centre
        value, vector = np.linalg.eigh(off.T @ off / len(off))
        if places * problem.points > NUMBERS or not value[0] > 1e-12 * value[-1]:
            return None
        whiten = vector / np.sqrt(value)
        z = BEYOND * np.random.default_rng(29).standard_normal((places, p))
        basis = _monomials(z, powers)
        scale = np.abs(basis).max(axis=0)
        solve = np.linalg.pinv(basis / scale) / scale[:, None]
        off_surface = np.eye(places) - basis @ solve
        theta = centre + z @ np.linalg.inv(whiten)
        y = np.empty((places, problem.points))
        allowed = TRUE * min(problem.delta, 1e-2)
        for i in range(0, problem.points, POINTS):
            rows = slice(i, i + POINTS)
            y[:, rows] = problem.values(theta, rows)
            # of `places` values as many as there are monomials were fitted
            error = float(((off_surface @ y[:, rows]) ** 2).sum()) / (places - len(powers))
            if not np.sqrt(error / y[:, rows].shape[1]) <= allowed:
                return None
        squares, axes = np.linalg.eigh(y @ y.T)
        count = int((np.cumsum(squares) > y.size * (1e-5 * allowed) ** 2).sum())
        axes = axes[:, -count:]
        parts = np.ascontiguousarray((axes.T @ y).T)
        first, second = np.triu_indices(count)
        if parts.shape[0] * first.size > NUMBERS:
            return None
        return cls(
            centre, whiten, problem.target, parts, parts[:, first] * parts[:, second],
            (solve @ axes).T, powers, problem.delta, problem.above,
        )  # fmt: skip

    @property
    def size(self) -> int:
        return int(self.centre.size)

    @property
    def points(self) -> int:
        return int(self.target.size)

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self.evaluate(theta, weights)[2]

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        lanes, p = theta.shape
        count = len(self.shapes)
        f, g, h = np.zeros(lanes), np.zeros((lanes, p)), np.zeros((lanes, p, p))
        first, second = np.triu_indices(count)
        for b in (slice(i, min(i + LANES, lanes)) for i in range(0, lanes, LANES)):
            phi, slope, bend = (
                np.tensordot(one, self.shapes, (1, 1))
                for one in _derivatives((theta[b] - self.centre) @ self.whiten, self.powers)
            )  # [lanes, k], [lanes, p, k], [lanes, p, p, k]
            pull = np.zeros_like(phi)
            inside = np.zeros((len(phi), first.size))
            for i in (slice(k, k + POINTS) for k in range(0, self.points, POINTS)):
                r = self.target[i] - phi @ self.parts[i].T
                own = lane_weights(weights, b, i, index)
                w = np.ones_like(r) if own is None else own
                if self.above != 1.0:
                    w = w * np.where(r > 0, self.above, 1.0)
                psi = np.clip(r, -self.delta, self.delta)
                wpsi = w * psi
                f[b] += np.vecdot(wpsi, r - 0.5 * psi)
                pull += wpsi @ self.parts[i]
                inside += (w * (psi == r)) @ self.pairs[i]
            g[b] = -(slope @ pull[:, :, None])[:, :, 0]
            outer = np.empty((len(phi), count, count))
            outer[:, first, second] = outer[:, second, first] = inside
            h[b] = slope @ outer @ slope.transpose(0, 2, 1) - np.einsum("bjkq,bq->bjk", bend, pull)
        return f, g @ self.whiten.T, self.whiten @ h @ self.whiten.T


# f [B], gradient [B, p] and Hessian [B, p, p].
Sums = tuple[Floats, Floats, Floats]


class Walls(NamedTuple):
    """The box [p] that resamples stay in, and the metric [p, p] of their steps."""

    lower: Floats
    upper: Floats
    metric: Floats


def _some(sums: Sums, lanes: slice) -> Sums:
    """Copies, for `minimise` works in them."""
    f, g, h = sums
    return f[lanes].copy(), g[lanes].copy(), h[lanes].copy()


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


def resampled(
    problem: GenericProblem,
    theta: Floats,
    weights: Floats,
    first: Sums,
    *,
    lower: Floats,
    upper: Floats,
    metric: Floats,
    tol: float,
    most: int,
) -> Solution:
    """Every row of weights [B, n] at its own optimum of `problem`, from theta [p], the optimum of
    all points. first: f, gradient, Hessian of all rows there.

    The first rows go through Newton's method, and say how far apart resamples end.
    """
    walls = Walls(lower, upper, metric)
    start = np.tile(theta, (len(weights), 1))
    pilots = PILOTS * theta.size if theta.size in DEGREES else len(weights)
    places = 0 if theta.size not in DEGREES else int(PLACES * len(_powers(theta.size)))
    if len(weights) < pilots + places:
        pilots = len(weights)
    head, rest = slice(0, pilots), slice(pilots, None)
    found = _newton(problem, start[head], weights[head], walls, tol, most, _some(first, head))
    if pilots == len(weights):
        return found
    surface = Surface.of(problem, theta, found.theta[np.isfinite(found.f)])
    here = _some(first, rest)
    if surface is None:
        other = _newton(problem, start[rest], weights[rest], walls, tol, most, here)
    else:
        other = _on(surface, problem, start[rest], weights[rest], here, walls, tol, most)
    return joined(found, other)


def _on(
    surface: Surface,
    problem: GenericProblem,
    start: Floats,
    weights: Floats,
    first: Sums,
    walls: Walls,
    tol: float,
    most: int,
) -> Solution:
    """Down the surface first, then by the law's own gradients."""
    begun = first[0].copy()
    near = _newton(surface, start, weights, walls, 0.1 * tol, 30, first, damping=1e-2)
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
        again = _newton(problem, there, weights[lost], walls, tol, most, damping=1e-2)
        for name in ("theta", "f", "gradient", "hessian", "converged", "decrement"):
            getattr(found, name)[lost] = getattr(again, name)
    return found


def _powers(p: int) -> NDArray[np.int64]:
    """Exponents [q, p] of all monomials up to the degree for p parameters."""
    rows = [
        np.bincount(names, minlength=p)
        for degree in range(DEGREES[p] + 1)
        for names in (
            np.array(one, dtype=np.int64) for one in combinations_with_replacement(range(p), degree)
        )
    ]
    return np.array(rows)


def _ladder(z: Floats, top: int) -> Floats:
    """z to the powers 0 .. top: [B, p, top + 1]."""
    out = np.ones((*z.shape, top + 1))
    for k in range(1, top + 1):
        out[..., k] = out[..., k - 1] * z
    return out


def _monomials(z: Floats, powers: NDArray[np.int64]) -> Floats:
    """[B, q] at z [B, p]."""
    ladder = _ladder(z, int(powers.max()))
    return np.asarray(np.prod(ladder[:, np.arange(z.shape[1]), powers], axis=-1))


def _derivatives(z: Floats, powers: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """The monomials at z [B, p], their slopes [B, q, p] and second derivatives [B, q, p, p]."""
    p = z.shape[1]
    q = len(powers)
    ladder = _ladder(z, int(powers.max()))
    columns = np.arange(p)
    slope, bend = np.empty((len(z), q, p)), np.empty((len(z), q, p, p))

    def at(exponents: NDArray[np.int64]) -> Floats:
        return np.asarray(
            np.prod(ladder[:, columns, np.maximum(exponents, 0)], axis=-1), dtype=float
        )

    one = np.eye(p, dtype=np.int64)
    for j in range(p):
        slope[:, :, j] = powers[:, j] * at(powers - one[j])
        for k in range(j, p):
            times = powers[:, j] * (powers[:, k] - (j == k))
            bend[:, :, j, k] = bend[:, :, k, j] = times * at(powers - one[j] - one[k])
    return at(powers), slope, bend
