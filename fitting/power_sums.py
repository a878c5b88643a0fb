"""The fast path: ln S with S = [floor +] sum of coefficient * input**-exponent, exact Hessian.

Coordinates: a_k = ln coefficient_k - exponent_k * mean(ln x_k) (the term at the middle of the
data), e = ln floor. With z_k = ln x_k centred and p_k = exp(a_k - exponent_k z_k) / S, every first
and second derivative of ln S is a product of the p's with 1, z, z^2, so gradients and Hessians of
all lanes are thin matrix products of [lanes, points] arrays. Centring takes the condition number
of the Hessian on the Chinchilla data from 3.5e11 to about 1e1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fitting.law import Law
from fitting.links import Floats
from fitting.newton import BLOCK, Lanes, blocks, lane_weights

# Terms of the exponential series: x^18 / 18! is 1.6e-16 at x = 1.
SERIES = 18


@dataclass(frozen=True)
class PowerSumProblem:
    """logs [K, n]: centred ln x_k of each term. target [n]: ln loss. delta: Huber's width.

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
        return int(self.target.size)

    @property
    def _tied(self) -> bool:
        return bool(self.tie.shape[0] != self.tie.shape[1])

    @cached_property
    def _ones(self) -> Floats:
        return np.ones(self.points)

    @cached_property
    def _powers(self) -> list[Floats]:
        """For each term [n, 3]: 1, z, z^2."""
        return [np.stack([self._ones, z, z * z], axis=1) for z in self.logs]

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], Floats]:
        """For each pair k <= j of terms [n, 3 or 4]: 1, z_k, z_j, z_k z_j (once each)."""
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

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self._sums(theta, weights, None, exact=False)[2]

    def _sums(
        self, theta: Floats, weights: Floats | None, index: Lanes, exact: bool
    ) -> tuple[Floats, Floats, Floats]:
        full = theta @ self.tie.T if self._tied else theta
        lanes = theta.shape[0]
        size = full.shape[1]
        f = np.zeros(lanes)
        g = np.zeros((lanes, size))
        h = np.zeros((lanes, size, size))
        pieces = blocks(lanes, self.points)
        most = max((b.stop - b.start) * (i.stop - i.start) for b, i in pieces)
        # allocated once: fresh temporaries of this size would be paged in again in every block
        buffers = np.empty((2 * self.logs.shape[0] + 6, most))
        tables = None
        if lanes >= 32 and self.points <= BLOCK:
            tables = [self._series(full, k) for k in range(self.logs.shape[0])]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in pieces:
                w = lane_weights(weights, b, i, index)
                near = None
                if tables is not None and i.stop - i.start == self.points:
                    near = [(c[b], table, far[b]) for c, table, far in tables]
                self._block(full[b], i, w, exact, buffers, near, f[b], g[b], h[b])
        if self._tied:
            return f, g @ self.tie, self.tie.T @ h @ self.tie
        return f, g, h

    def _series(self, full: Floats, k: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """exp(a - alpha z) of many lanes as one matrix product: exponents of resamples lie close
        together, so with d = alpha - their centre it is sum over m of [e^a (-d)^m / m!] times
        [e^(-centre z) z^m], a product of [lanes, SERIES] and [SERIES, points] that costs a tenth
        of an exponential. Also says which lanes are too far out for that (|d z| > 1)."""
        terms = self.logs.shape[0]
        z = self.logs[k]
        alpha = full[:, terms + int(self.floor) + k]
        centre = float(np.median(alpha))
        d = centre - alpha
        far = ~(np.abs(d) * float(np.abs(z).max()) <= 1.0)
        m = np.arange(1, SERIES)
        left = np.empty((len(full), SERIES))
        left[:, 0] = np.exp(full[:, k])
        np.multiply.accumulate(np.where(far, 0.0, d)[:, None] / m, axis=1, out=left[:, 1:])
        left[:, 1:] *= left[:, :1]
        right = np.empty((SERIES, z.size))
        right[0] = np.exp(-centre * z)
        right[1:] = z
        np.multiply.accumulate(right, axis=0, out=right)
        return left, right, far

    def _block(
        self,
        theta: Floats,
        rows: slice,
        w: Floats | None,
        exact: bool,
        buffers: Floats,
        near: list[tuple[Floats, Floats, NDArray[np.bool_]]] | None,
        f: Floats,
        g: Floats,
        h: Floats,
    ) -> None:
        """Add one block's sums to f, g, h (views). w: [n], [lanes, n] or None."""
        terms = self.logs.shape[0]
        shape = (theta.shape[0], rows.stop - rows.start)
        n = shape[0] * shape[1]
        scratch = [row[:n].reshape(shape) for row in buffers]
        share, cp = scratch[:terms], scratch[terms : 2 * terms]
        total, r, psi, wpsi, c, spare = scratch[2 * terms :]
        ones = self._ones[rows]
        e, slope = terms, terms + int(self.floor)  # where the floor and the exponents stand
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
        np.subtract(self.target[rows], r, out=r)
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
        np.multiply(psi, -0.5, out=spare)
        spare += r
        f += np.einsum("ij,ij->i", wpsi, spare)
        if exact:
            # sum w 1[inside] J J' - sum w psi (diagonal blocks - J J')
            np.copyto(c, wpsi)
            if squares:
                c += 1.0 if w is None else w
            else:
                inside = (psi == r).astype(float)
                c += inside if w is None else np.multiply(inside, w, out=inside)
        else:
            if squares:
                c.fill(1.0)
            else:
                np.abs(r, out=c)
                np.maximum(c, self.delta, out=c)
                np.divide(self.delta, c, out=c)
            if w is not None:
                c *= w
        one_c = c @ ones
        first = []  # sums of c p_k [1, z_k]
        for k in range(terms):
            np.multiply(wpsi, share[k], out=spare)
            m = spare @ self._powers[k][rows]
            g[:, k] -= m[:, 0]
            g[:, slope + k] += m[:, 1]
            if self.floor:
                g[:, e] += m[:, 0]
            if exact:
                h[:, k, k] -= m[:, 0]
                h[:, k, slope + k] += m[:, 1]
                h[:, slope + k, k] += m[:, 1]
                h[:, slope + k, slope + k] -= m[:, 2]
                if self.floor:
                    h[:, e, e] += m[:, 0]
            np.multiply(c, share[k], out=cp[k])
            if self.floor:
                first.append(cp[k] @ self._powers[k][rows, :2])
        if self.floor:
            sums = wpsi @ ones
            g[:, e] -= sums
            if exact:
                h[:, e, e] -= sums
        ss = one_c  # becomes sum c s^2 with s = 1 - sum p
        sp = [m.copy() for m in first]  # become sums of c s p_k [1, z_k]
        for k in range(terms):
            if self.floor:
                ss -= 2.0 * first[k][:, 0]
            for j in range(k, terms):
                same = j == k
                np.multiply(cp[k], share[j], out=spare)
                m = spare @ self._pairs[k, j][rows]
                if self.floor:
                    ss += m[:, 0] * (1.0 if same else 2.0)
                    sp[k] -= m[:, :2]
                    if not same:
                        sp[j] -= m[:, [0, 2]]
                last = m[:, 2] if same else m[:, 3]
                other = m[:, 1] if same else m[:, 2]
                h[:, k, j] += m[:, 0]
                h[:, slope + k, j] -= m[:, 1]
                h[:, k, slope + j] -= other
                h[:, slope + k, slope + j] += last
                if not same:
                    h[:, j, k] += m[:, 0]
                    h[:, j, slope + k] -= m[:, 1]
                    h[:, slope + j, k] -= other
                    h[:, slope + j, slope + k] += last
        if self.floor:
            h[:, e, e] += ss
            for k in range(terms):
                h[:, k, e] += sp[k][:, 0]
                h[:, e, k] += sp[k][:, 0]
                h[:, slope + k, e] -= sp[k][:, 1]
                h[:, e, slope + k] -= sp[k][:, 1]


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
