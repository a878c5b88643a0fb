"""The fast path: ln S with S = [floor +] sum of coefficient * input**-exponent, exact Hessian.

Coordinates: a_k = ln coefficient_k - exponent_k * mean(ln x_k) (the term at the middle of the
data), e = ln floor. With z_k = ln x_k centred and p_k = exp(a_k - exponent_k z_k) / S, every first
and second derivative of ln S is a product of the p's with 1, z, z^2, so gradients and Hessians of
all lanes are thin matrix products of [lanes, points] arrays. Centring takes the condition number
of the Hessian on the Chinchilla data from 3.5e11 to about 1e1.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.law import Law
from fitting.links import Floats
from fitting.newton import BLOCK, Lanes, blocks, lane_weights, pointwise_sums

# Terms of the exponential series: x^18 / 18! is 1.6e-16 at x = 1.
SERIES = 18


@dataclass(frozen=True)
class PowerSumProblem:
    """logs [K, n]: centred ln x_k of each term. target: ln loss, [n] or [B, n] where each lane has
    losses of its own. delta: Huber's width.

    tie [full, p]: theta_full = tie @ theta, where full = (a_1..a_K, [e,] exponent_1..exponent_K);
    the identity unless terms share an exponent. above: factor on points above the law.
    """

    logs: Floats
    target: Floats
    floor: bool
    tie: Floats
    delta: float
    above: float = 1.0

    @property
    def size(self) -> int:
        return int(self.tie.shape[1])

    @property
    def points(self) -> int:
        return int(self.target.shape[-1])

    @property
    def _tied(self) -> bool:
        return bool(self.tie.shape[0] != self.tie.shape[1])

    @cached_property
    def _ones(self) -> Floats:
        return np.ones(self.points)

    @property
    def scales(self) -> tuple[int, ...]:
        """The coefficients' coordinates, if they are logarithms of the coefficients."""
        return tuple(range(self.logs.shape[0] + int(self.floor)))

    @cached_property
    def _powers(self) -> list[Floats]:
        """For each term [n, 4]: 1, z, z^2, 0 (BLAS likes four columns better than three)."""
        return [np.stack([self._ones, z, z * z, 0 * z], axis=1) for z in self.logs]

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], Floats]:
        """For each pair k <= j of terms [n, 4]: 1, z_k, z_j, z_k z_j; 1, z, z^2, 0 for k = j."""
        out = {}
        for k, z in enumerate(self.logs):
            out[k, k] = self._powers[k]
            for j in range(k + 1, len(self.logs)):
                y = self.logs[j]
                out[k, j] = np.stack([self._ones, z, y, z * y], axis=1)
        return out

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        return self._sums(theta, weights, index, exact=True)

    def pointwise(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        full = self.tie @ theta
        terms, size = self.logs.shape[0], self.tie.shape[0]
        e, slope = terms, terms + int(self.floor)
        u = [np.exp(full[k] - full[slope + k] * self.logs[k]) for k in range(terms)]
        total = sum(u) + (np.exp(full[e]) if self.floor else 0.0)
        first = np.zeros((self.points, size))  # of ln S
        second = np.zeros((self.points, size, size))
        for k in range(terms):
            share, z = u[k] / total, self.logs[k]
            first[:, k], first[:, slope + k] = share, -share * z
            second[:, k, k] = share
            second[:, k, slope + k] = second[:, slope + k, k] = -share * z
            second[:, slope + k, slope + k] = share * z * z
        if self.floor:
            first[:, e] = second[:, e, e] = np.exp(full[e]) / total
        second -= first[:, :, None] * first[:, None, :]
        return pointwise_sums(
            self.target - np.log(total), first @ self.tie, self.tie.T @ second @ self.tie,
            self.delta, self.above,
        )  # fmt: skip

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self._sums(theta, weights, None, exact=False)[2]

    def _sums(
        self, theta: Floats, weights: Floats | None, index: Lanes, exact: bool
    ) -> tuple[Floats, Floats, Floats]:
        full = theta @ self.tie.T if self._tied else theta
        lanes, terms = theta.shape[0], self.logs.shape[0]
        pieces = blocks(lanes, self.points)
        most = max((b.stop - b.start) * (i.stop - i.start) for b, i in pieces)
        # allocated once: fresh temporaries of this size would be paged in again in every block
        buffers = np.empty((terms + 5, most))
        tables = None
        if lanes >= 32 and self.points <= BLOCK:
            tables = [self._series(full, k) for k in range(terms)]
        f = np.zeros(lanes)
        sums = np.zeros((lanes, 2 + 8 * terms + 2 * terms * (terms + 1)))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in pieces:
                w = lane_weights(weights, b, i, index)
                near = None
                if tables is not None and i.stop - i.start == self.points:
                    near = [(c[b], table, far[b]) for c, table, far in tables]
                target = lane_weights(self.target, b, i, index)
                self._block(full[b], i, target, w, exact, buffers, near, f[b], sums[b])
            size = full.shape[1]
            both = sums @ assembly(terms, self.floor, exact)
        g, h = both[:, :size], both[:, size:].reshape(lanes, size, size)
        if self._tied:
            return f, g @ self.tie, self.tie.T @ h @ self.tie
        return f, g.copy(), h.copy()

    def _series(self, full: Floats, k: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """exp(a - alpha z) of many lanes as one matrix product: exponents of resamples lie close
        together, so with d = alpha - their centre it is sum over m of [e^a (-d)^m / m!] times
        [e^(-centre z) z^m], a product of [lanes, m] and [m, points] that costs a tenth of an
        exponential. Also says which lanes are too far out for that (|d z| > 1)."""
        z = self.logs[k]
        alpha = full[:, self.logs.shape[0] + int(self.floor) + k]
        centre = float(np.median(alpha))
        d = centre - alpha
        far = ~(np.abs(d) * float(np.abs(z).max()) <= 1.0)
        x = float(np.abs(np.where(far, 0.0, d)).max()) * float(np.abs(z).max())
        terms = next((m for m in range(4, SERIES) if x**m < 1e-17 * factorial(m)), SERIES)
        m = np.arange(1, terms)
        left = np.empty((len(full), terms))
        left[:, 0] = np.exp(full[:, k])
        np.multiply.accumulate(np.where(far, 0.0, d)[:, None] / m, axis=1, out=left[:, 1:])
        left[:, 1:] *= left[:, :1]
        right = np.empty((terms, z.size))
        right[0] = np.exp(-centre * z)
        right[1:] = z
        np.multiply.accumulate(right, axis=0, out=right)
        return left, right, far

    def _block(
        self,
        theta: Floats,
        rows: slice,
        target: Any,
        w: Floats | None,
        exact: bool,
        buffers: Floats,
        near: list[tuple[Floats, Floats, NDArray[np.bool_]]] | None,
        f: Floats,
        sums: Floats,
    ) -> None:
        """Add one block to f [lanes] and to the sums [lanes, ...] that `assembly` lists (views).

        target, w: [n] or [lanes, n]; w may be None.
        Few buffers, each used for several things in turn: they should stay in the cache.
        """
        terms = self.logs.shape[0]
        shape = (theta.shape[0], rows.stop - rows.start)
        n = shape[0] * shape[1]
        scratch = [row[:n].reshape(shape) for row in buffers]
        share, (total, r, wpsi, cp, psi) = scratch[:terms], scratch[terms:]
        ones = self._ones[rows]
        e, slope = terms, terms + int(self.floor)
        for k in range(terms):
            u = share[k]
            if near is None:
                np.multiply(-theta[:, slope + k, None], self.logs[k, rows], out=u)
                u += theta[:, k, None]
                np.exp(u, out=u)
            else:
                left, right, far = near[k]
                np.matmul(left, right, out=u)
                if far.any():
                    line = np.multiply.outer(-theta[far, slope + k], self.logs[k, rows])
                    u[far] = np.exp(line + theta[far, k, None])
            if k == 0:
                np.add(u, np.exp(theta[:, e, None]) if self.floor else 0.0, out=total)
            else:
                total += u
        np.log(total, out=r)
        np.subtract(target, r, out=r)
        np.reciprocal(total, out=total)
        for u in share:
            u *= total
        squares = np.isinf(self.delta)
        if squares:
            psi = r
        else:
            np.clip(r, -self.delta, self.delta, out=psi)
        if self.above != 1.0:
            side = np.where(r > 0, self.above, 1.0)
            w = side if w is None else side * w
        if w is None:
            np.copyto(wpsi, psi)
        else:
            np.multiply(psi, w, out=wpsi)
        f += np.einsum("ij,ij->i", wpsi, r)
        f -= 0.5 * np.einsum("ij,ij->i", wpsi, psi)
        c = total
        if squares:
            c.fill(1.0)
        elif exact:
            np.equal(psi, r, out=c, casting="unsafe")
        else:
            np.abs(r, out=c)
            np.maximum(c, self.delta, out=c)
            np.divide(self.delta, c, out=c)
        if w is not None:
            c *= w
        if exact:  # sum w 1[inside] J J' - sum w psi (diagonal blocks - J J')
            c += wpsi
        spare = r
        if self.floor:
            sums[:, 0] += c @ ones
            sums[:, 1] += wpsi @ ones
        column = 2
        for k in range(terms):
            powers = self._powers[k][rows]
            np.multiply(wpsi, share[k], out=spare)
            sums[:, column : column + 4] += spare @ powers
            np.multiply(c, share[k], out=cp)
            if self.floor:
                sums[:, column + 4 : column + 8] += cp @ powers
            column += 8
            for j in range(k, terms):
                np.multiply(cp, share[j], out=spare)
                sums[:, column : column + 4] += spare @ self._pairs[k, j][rows]
                column += 4


@cache
def assembly(terms: int, floor: bool, exact: bool) -> Floats:
    """The matrix that makes gradient and Hessian (flat) of the sums over points.

    The sums, with c the weight of J J' in the Hessian and s = 1 - sum p the floor's share: of c; of
    w psi; then for each term k of w psi p_k and of c p_k, each times 1, z_k, z_k^2, 0; and for each
    j from k on of c p_k p_j, times the columns of `_pairs`. exact: with the curvature of ln S.
    """
    count = 2 + 8 * terms + 2 * terms * (terms + 1)
    size = 2 * terms + int(floor)
    e, slope = terms, terms + int(floor)  # where the floor and the exponents stand
    unit = np.eye(count)
    g, h = np.zeros((size, count)), np.zeros((size, size, count))
    pull, single, pairs = [], [], {}
    column = 2
    for k in range(terms):
        pull.append(unit[column : column + 4])
        single.append(unit[column + 4 : column + 8])
        column += 8
        for j in range(k, terms):
            pairs[k, j] = unit[column : column + 4]
            column += 4
    for k in range(terms):
        g[k], g[slope + k] = -pull[k][0], pull[k][1]
        for j in range(k, terms):
            both = pairs[k, j]
            last, other = (both[2], both[1]) if j == k else (both[3], both[2])
            h[k, j] = h[j, k] = both[0]
            h[slope + k, j] = h[j, slope + k] = -both[1]
            h[slope + j, k] = h[k, slope + j] = -other
            h[slope + k, slope + j] = h[slope + j, slope + k] = last
        if exact:
            h[k, k] -= pull[k][0]
            h[k, slope + k] += pull[k][1]
            h[slope + k, k] += pull[k][1]
            h[slope + k, slope + k] -= pull[k][2]
    if floor:
        rest = unit[1] - sum(one[0] for one in pull)
        g[e] = -rest
        h[e, e] = unit[0] - (rest if exact else 0.0)
        for k in range(terms):
            crossed, slant = single[k][0].copy(), single[k][1].copy()  # of c s p_k 1 and z_k
            h[e, e] -= 2.0 * single[k][0]
            for j in range(terms):
                both = pairs[min(k, j), max(k, j)]
                h[e, e] += both[0]
                crossed -= both[0]
                slant -= both[1 if k <= j else 2]
            h[k, e] = h[e, k] = crossed
            h[slope + k, e] = h[e, slope + k] = -slant
    out = np.concatenate([g, h.reshape(size * size, count)]).T.copy()
    out.flags.writeable = False
    return out


@dataclass(frozen=True)
class Coordinates:
    """The affine map between a law's own line (ln A, ..., alpha) and centred coordinates.

    theta_law = theta @ back.T and theta = theta_law @ there.T (both linear: the means enter
    through the exponents alone).
    """

    tie: Floats
    there: Floats
    back: Floats
    means: Floats
    logs: Floats


def coordinates(law: Law, inputs: dict[str, Floats]) -> Coordinates:
    """Centred coordinates of a power-sum law on these inputs."""
    powers = law.powers
    assert powers is not None
    names = law.param_names
    terms = powers.terms
    exponents = list(dict.fromkeys(e for _, _, e in terms))
    own = [c for c, _, _ in terms] + ([powers.floor] if powers.floor else []) + exponents
    logs = np.stack([np.log(inputs[x]) for _, x, _ in terms])
    means = logs.mean(axis=1)
    p = len(own)
    full = 2 * len(terms) + int(powers.floor is not None)
    tie = np.zeros((full, p))
    slope = full - len(terms)
    tie[:slope, :slope] = np.eye(slope)
    for k, (_, _, exponent) in enumerate(terms):
        tie[slope + k, own.index(exponent)] = 1.0
    there = np.zeros((p, p))
    for row, name in enumerate(own):
        there[row, names.index(name)] = 1.0
    for k, (_, _, exponent) in enumerate(terms):
        there[k, names.index(exponent)] = -means[k]
    return Coordinates(
        tie, there, np.asarray(np.linalg.inv(there), dtype=float), means, logs - means[:, None]
    )
