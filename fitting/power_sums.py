"""The fast path: ln S with S = [floor +] sum of coefficient * input**-exponent, exact Hessian.

Coordinates: a_k = ln coefficient_k - exponent_k * mean(ln x_k) (the term at the middle of the
data), e = ln floor. With z_k = ln x_k centred and p_k = exp(a_k - exponent_k z_k) / S, every first
and second derivative of ln S is a product of the p's with 1, z, z^2, so gradients and Hessians of
all lanes are thin matrix products of [lanes, points] arrays. Centring takes the condition number
of the Hessian on the Chinchilla data from 3.5e11 to about 1e1.
"""

from dataclasses import dataclass

import numpy as np

from fitting.law import Law
from fitting.links import Floats
from fitting.newton import blocks


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

    def evaluate(self, theta: Floats, weights: Floats | None) -> tuple[Floats, Floats, Floats]:
        return self._sums(theta, weights, exact=True)

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self._sums(theta, weights, exact=False)[2]

    def _sums(
        self, theta: Floats, weights: Floats | None, exact: bool
    ) -> tuple[Floats, Floats, Floats]:
        full = theta @ self.tie.T if self._tied else theta
        lanes = theta.shape[0]
        size = full.shape[1]
        f = np.zeros(lanes)
        g = np.zeros((lanes, size))
        h = np.zeros((lanes, size, size))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in blocks(lanes, self.points):
                w = None
                if weights is not None:
                    w = weights[b, i] if weights.ndim == 2 else weights[i]
                self._block(full[b], i, w, exact, f[b], g[b], h[b])
        if self._tied:
            return f, g @ self.tie, self.tie.T @ h @ self.tie
        return f, g, h

    def _block(
        self,
        theta: Floats,
        rows: slice,
        weights: Floats | None,
        exact: bool,
        f: Floats,
        g: Floats,
        h: Floats,
    ) -> None:
        """Add one block's sums to f, g, h (views)."""
        terms = self.logs.shape[0]
        z = [self.logs[k, rows] for k in range(terms)]
        slope = terms + int(self.floor)  # where the exponents begin
        share = []
        total = np.zeros((len(theta), z[0].size))
        if self.floor:
            total += np.exp(theta[:, terms, None])
        for k in range(terms):
            u = np.multiply.outer(theta[:, slope + k], -z[k])
            u += theta[:, k, None]
            np.exp(u, out=u)
            share.append(u)
            total += u
        r = np.log(total)
        np.subtract(self.target[rows], r, out=r)
        np.reciprocal(total, out=total)
        for u in share:
            u *= total
        if np.isinf(self.delta):
            psi = r
            inside = None
        else:
            psi = np.clip(r, -self.delta, self.delta)
            inside = psi == r
        w = weights
        if self.above != 1.0:
            side = np.where(r > 0, self.above, 1.0)
            w = side if w is None else side * w
        wpsi = psi.copy() if w is None else psi * w
        r -= 0.5 * psi
        r *= wpsi
        f += r.sum(axis=1)
        if exact:
            # sum w 1[inside] J J' - sum w psi (diagonal blocks - J J')
            if inside is None:
                c = wpsi + (1.0 if w is None else w)
            else:
                c = wpsi + (inside if w is None else inside * w)
        elif inside is None:
            c = np.broadcast_to(1.0 if w is None else w, wpsi.shape)
        else:
            r /= np.where(wpsi == 0, 1.0, wpsi)
            r += 0.5 * psi  # the residual again
            c = np.where(inside, 1.0, self.delta / np.maximum(np.abs(r), self.delta))
            c = c if w is None else c * w
        cp = [c * u for u in share]
        e = terms
        one_c = c.sum(axis=1)
        first = []  # sums of c p_k [1, z_k]
        for k in range(terms):
            m = (wpsi * share[k]) @ np.stack([np.ones_like(z[k]), z[k], z[k] * z[k]], axis=1)
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
            first.append(cp[k] @ np.stack([np.ones_like(z[k]), z[k]], axis=1))
        if self.floor:
            sums = wpsi.sum(axis=1)
            g[:, e] -= sums
            if exact:
                h[:, e, e] -= sums
        ss = one_c.copy()  # becomes sum c s^2 with s = 1 - sum p
        sp = [first[k].copy() for k in range(terms)]  # become sums of c s p_k [1, z_k]
        for k in range(terms):
            ss -= 2.0 * first[k][:, 0]
            for j in range(k, terms):
                stack = [np.ones_like(z[k]), z[k], z[j], z[k] * z[j]]
                m = (cp[k] * share[j]) @ np.stack(stack, axis=1)
                same = j == k
                ss += m[:, 0] * (1.0 if same else 2.0)
                sp[k] -= m[:, :2]
                if not same:
                    sp[j] -= m[:, [0, 2]]
                for row, col, value in (
                    (k, j, m[:, 0]),
                    (slope + k, j, -m[:, 1]),
                    (k, slope + j, -m[:, 2]),
                    (slope + k, slope + j, m[:, 3]),
                ):
                    h[:, row, col] += value
                    if not same:
                        h[:, col, row] += value
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
