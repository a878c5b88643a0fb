"""The latent scale z(N, D) behind several sets of losses, and how each set reads it.

log L_ic = log(E_i + K_i z_c^kappa_i) + residual, z = A / N^alpha + B / D^beta. The first set has
K = kappa = 1, which fixes the scale of z. Residuals within a cell have covariance Sigma.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitting.links import Floats
from fitting.loss_to_loss.kinds import KappaPrior
from fitting.newton import BLOCK, Lanes, Solution, lane_weights, minimise, ridged

if TYPE_CHECKING:
    from fitting.loss_to_loss.pairs import Pairs

SHARED = 4  # ln A, alpha, ln B, beta; then ln E, ln K, kappa of each set

# Rounds of estimating the residual covariance; a third changes nothing that can be seen.
ROUNDS = 2
# The covariance is drawn towards one variance and one correlation, as that many cells would.
SHRINK_CELLS = 10.0
# Before anything is known of the residuals: relative noise of a run (guess).
FIRST_NOISE = 0.005
# Starts of the common exponent and of the floor as a share of the smallest loss.
EXPONENTS = (0.25, 0.45, 0.8)
FLOOR_SHARES = (0.5, 0.85)


class Modelled(NamedTuple):
    """log loss [B, sets, cells] and what moves it: d ln z of the shared parameters [B, 4, cells],
    d ln L of ln z [B, sets, cells], and of a set's own three [B, sets, 3, cells]."""

    log_loss: Floats
    common: Floats
    by_z: Floats
    own: Floats


@dataclass(frozen=True)
class LatentProblem:
    """The sum over cells of half the whitened squares, plus the prior; for `newton.minimise`.

    n, d [cells]: centred logarithms. logs [cells, sets]; seen: where there is a loss.
    precision [cells, sets, sets]: inverse covariance of the sets that a cell has, 0 elsewhere.
    prior: of every kappa but the first, which is 1.
    """

    n: Floats
    d: Floats
    logs: Floats
    seen: NDArray[np.bool_]
    precision: Floats
    prior: KappaPrior | None

    @property
    def sets(self) -> int:
        return int(self.logs.shape[1])

    @property
    def size(self) -> int:
        return SHARED + 3 * self.sets

    @property
    def points(self) -> int:
        return int(self.n.size)

    def model(self, theta: Floats) -> "Modelled":
        """What theta [B, p] says of every cell."""
        log_A, alpha, log_B, beta = (theta[:, j, None] for j in range(SHARED))
        small = np.exp(log_A - alpha * self.n)
        short = np.exp(log_B - beta * self.d)
        z = small + short
        log_z = np.log(z)
        E = np.exp(theta[:, SHARED::3, None])
        kappa = theta[:, SHARED + 2 :: 3, None]
        above = np.exp(theta[:, SHARED + 1 :: 3, None] + kappa * log_z[:, None])
        y = E + above
        share = above / y
        common = np.empty((len(theta), SHARED, self.points))
        np.divide(small, z, out=common[:, 0])
        np.multiply(common[:, 0], -self.n, out=common[:, 1])
        np.divide(short, z, out=common[:, 2])
        np.multiply(common[:, 2], -self.d, out=common[:, 3])
        own = np.empty((len(theta), self.sets, 3, self.points))
        np.divide(E, y, out=own[:, :, 0])
        own[:, :, 1] = share
        np.multiply(share, log_z[:, None], out=own[:, :, 2])
        return Modelled(np.log(y), common, share * kappa, own)

    def residuals(self, theta: Floats) -> Floats:
        """log loss less the model [cells, sets]; NaN where a set has no run."""
        return np.where(self.seen, self.logs - self.model(theta[None]).log_loss[0].T, np.nan)

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        lanes, p = theta.shape
        f, g, h = np.zeros(lanes), np.zeros((lanes, p)), np.zeros((lanes, p, p))
        step = max(1, BLOCK // (4 * self.points * self.sets))  # arrays of 4 and of 3 to a set
        precision = np.ascontiguousarray(self.precision.transpose(1, 2, 0))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b in (slice(k, k + step) for k in range(0, lanes, step)):
                w = lane_weights(weights, b, slice(None), index)
                P = precision if w is None else precision * w[..., None, None, :]
                f[b], g[b], h[b] = self._sums(self.model(theta[b]), P)
        self._add_prior(theta, f, g, h)
        return f, g, h

    def _sums(self, said: "Modelled", P: Floats) -> tuple[Floats, Floats, Floats]:
        """f, gradient and Gauss-Newton matrix of some lanes; P [(B,) sets, sets, cells]. The shared
        parameters move all sets by way of z alone: sums over cells of products of 4 and 3."""
        r = np.where(self.seen.T, self.logs.T - said.log_loss, 0.0)
        sets = range(self.sets)

        def dot(one: Any, other: Any) -> Floats:
            return np.asarray(sum(one[k] * other[:, k] for k in sets))

        Pr, Pq = (
            [dot([P[..., i, k, :] for k in sets], each) for i in sets] for each in (r, said.by_z)
        )
        pull, weight = dot(Pr, said.by_z), dot(Pq, said.by_z)
        f = 0.5 * dot(Pr, r).sum(axis=-1)
        g = np.empty((len(r), self.size))
        h = np.empty((len(r), self.size, self.size))
        shared = slice(0, SHARED)
        g[:, shared] = -np.matvec(said.common, pull)
        h[:, shared, shared] = (said.common * weight[:, None]) @ said.common.transpose(0, 2, 1)
        for i in sets:
            mine = slice(SHARED + 3 * i, SHARED + 3 * i + 3)
            own = said.own[:, i]
            g[:, mine] = -np.matvec(own, Pr[i])
            cross = (own * Pq[i][:, None]) @ said.common.transpose(0, 2, 1)
            h[:, mine, shared], h[:, shared, mine] = cross, cross.transpose(0, 2, 1)
            for k in range(i, self.sets):
                other = slice(SHARED + 3 * k, SHARED + 3 * k + 3)
                both = (own * P[..., i, None, k, :]) @ said.own[:, k].transpose(0, 2, 1)
                h[:, mine, other], h[:, other, mine] = both, both.transpose(0, 2, 1)
        return f, g, h

    def _add_prior(self, theta: Floats, f: Floats, g: Floats, h: Floats) -> None:
        if self.prior is None:
            return
        mean, sd = self.prior
        for i in range(1, self.sets):
            at = SHARED + 3 * i + 2
            off = (theta[:, at] - mean) / sd**2
            f += 0.5 * off * (theta[:, at] - mean)
            g[:, at] += off
            h[:, at, at] += 1.0 / sd**2

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        """Gauss-Newton is exact enough here to be its own metric; weights do not matter to it."""
        return self.evaluate(theta, None)[2]


@dataclass(frozen=True)
class Latent:
    """A fitted latent scale. theta [4 + 3 sets]; covariance [sets, sets] of the residuals."""

    problem: LatentProblem
    names: tuple[str, ...]
    theta: Floats
    lower: Floats
    upper: Floats
    covariance: Floats
    centre: tuple[float, float]
    certificate: dict[str, float]

    def resampled(self, weights: Floats) -> Floats:
        """theta [lanes, p] at the optimum of weights [lanes, cells]; NaN where there is none."""
        start = np.tile(self.theta, (len(weights), 1))
        found = _descend(self.problem, start, weights, self.lower, self.upper, 1e-8, 40)
        out = found.theta.copy()
        out[~np.isfinite(found.f)] = np.nan
        return out

    def z(self, N: Floats, D: Floats) -> Floats:
        """The latent scale at N, D, in the units of the first set's loss above its floor."""
        n, d = np.log(N) - self.centre[0], np.log(D) - self.centre[1]
        log_A, alpha, log_B, beta = self.theta[:SHARED]
        return np.asarray(np.exp(log_A - alpha * n) + np.exp(log_B - beta * d))

    def losses(self, z: Floats) -> Floats:
        """Losses [..., sets] at z [...]."""
        E, K, kappa = readings(self.theta)
        return np.asarray(E + K * np.asarray(z)[..., None] ** kappa)


def readings(theta: Floats) -> tuple[Floats, Floats, Floats]:
    """E, K, kappa [..., sets] from theta [..., p]."""
    own = theta[..., SHARED:]
    return np.exp(own[..., 0::3]), np.exp(own[..., 1::3]), own[..., 2::3]


def links_between(theta: Floats, source: int, target: int) -> Floats:
    """Link parameters [lanes, 4] from set `source` to set `target`."""
    E, K, k = readings(theta)
    kappa = k[:, target] / k[:, source]
    scale = K[:, target] * K[:, source] ** -kappa
    return np.stack([kappa, scale, E[:, source], E[:, target]], axis=1)


def fit_latent(
    pairs: "Pairs",
    *,
    kappa_prior: KappaPrior | None = None,
    E0: float | None = None,
    E1: float | None = None,
    rounds: int = ROUNDS,
) -> Latent:
    """The latent scale of all sets of the pairs, from several starts, whitened in `rounds`."""
    rows = ~pairs.interpolated
    seen = pairs.measured[rows]
    logs = np.where(seen, np.log(np.where(seen, pairs.losses[rows], 1.0)), 0.0)
    n, d = np.log(pairs.N[rows]), np.log(pairs.D[rows])
    centre = (float(n.mean()), float(d.mean()))
    sets = logs.shape[1]
    covariance = np.eye(sets) * FIRST_NOISE**2
    problem = LatentProblem(
        n - centre[0], d - centre[1], logs, seen, precisions(covariance, seen), kappa_prior
    )
    low = np.array([logs[seen[:, i], i].min() for i in range(sets)])
    lower, upper = _walls(problem, low, E0, E1)
    starts = _starts(problem, low)
    found = _descend(problem, starts, None, lower, upper, 1e-6, 80)
    theta = found.theta[np.argmin(np.where(np.isfinite(found.f), found.f, np.inf))]
    agree = int((found.f <= np.nanmin(found.f) * (1 + 1e-4)).sum())
    for _ in range(rounds):
        covariance = residual_covariance(problem.residuals(theta))
        problem = LatentProblem(
            problem.n, problem.d, logs, seen, precisions(covariance, seen), kappa_prior
        )
        found = _descend(problem, theta[None], None, lower, upper, 1e-13, 100)
        theta = found.theta[0]
    full = problem
    if not rows.all():  # interpolated cells carry no weight: keep the weights' shape
        full = _padded(problem, pairs, rows, centre)
    free = lower < upper
    h = found.hessian[0][np.ix_(free, free)]
    eigen = np.linalg.eigvalsh(h / np.sqrt(np.outer(np.diag(h), np.diag(h))))
    certificate = {
        "converged": float(found.converged[0]),
        "decrement": float(found.decrement[0]),
        "condition": float(eigen[-1] / eigen[0]) if eigen[0] > 0 else -1.0,
        "starts": float(len(starts)),
        "agreeing": float(agree),
        "sets": float(sets),
    }
    return Latent(full, pairs.names, theta, lower, upper, covariance, centre, certificate)


def residual_covariance(residuals: Floats) -> Floats:
    """Covariance [sets, sets] of residuals [cells, sets] with gaps, shrunk and kept positive.

    Towards one pooled variance and one correlation: six runs do not tell a variance.
    """
    seen = np.isfinite(residuals)
    r = np.where(seen, residuals, 0.0)
    count = seen.T.astype(float) @ seen
    square = r.T @ r
    pooled = float(np.trace(square) / max(np.trace(count), 1.0))
    off = ~np.eye(len(count), dtype=bool)
    shared = float(count[off].sum()) * pooled
    rho = float(np.clip(square[off].sum() / shared, 0.0, 0.98)) if shared > 0 else 0.0
    target = pooled * ((1 - rho) * np.eye(len(count)) + rho)
    mixed = (square + SHRINK_CELLS * target) / (count + SHRINK_CELLS)
    value, vector = np.linalg.eigh(mixed)
    value = np.maximum(value, 1e-3 * value.max() + 1e-18)
    return np.asarray((vector * value) @ vector.T)


def precisions(covariance: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Inverse covariance of the sets that each cell has, [cells, sets, sets]; 0 elsewhere."""
    out = np.zeros((len(seen), *covariance.shape))
    for pattern in np.unique(seen, axis=0):
        i = np.flatnonzero(pattern)
        if i.size:
            cells = np.flatnonzero((seen == pattern).all(axis=1))
            out[np.ix_(cells, i, i)] = np.linalg.inv(covariance[np.ix_(i, i)])
    return out


def _padded(
    problem: LatentProblem,
    pairs: "Pairs",
    rows: NDArray[np.bool_],
    centre: tuple[float, float],
) -> LatentProblem:
    cells = rows.size
    logs = np.zeros((cells, problem.sets))
    logs[rows] = problem.logs
    seen = np.zeros((cells, problem.sets), dtype=bool)
    seen[rows] = problem.seen
    precision = np.zeros((cells, problem.sets, problem.sets))
    precision[rows] = problem.precision
    return LatentProblem(
        np.log(pairs.N) - centre[0], np.log(pairs.D) - centre[1], logs, seen, precision,
        problem.prior,
    )  # fmt: skip


def _walls(
    problem: LatentProblem, low: Floats, E0: float | None, E1: float | None
) -> tuple[Floats, Floats]:
    """The box; a floor stays below every loss of its set, the first set's K and kappa are 1."""
    lower, upper = np.full(problem.size, -25.0), np.full(problem.size, 25.0)
    lower[[1, 3]], upper[[1, 3]] = 0.01, 3.0
    for i in range(problem.sets):
        at = SHARED + 3 * i
        lower[at], upper[at] = low[i] - 12.0, low[i] - 1e-6
        lower[at + 2], upper[at + 2] = 0.05, 8.0
    lower[SHARED + 1 : SHARED + 3] = upper[SHARED + 1 : SHARED + 3] = (0.0, 1.0)
    for i, given in enumerate((E0, E1)):
        if given is not None:
            at = SHARED + 3 * i
            lower[at] = upper[at] = np.log(max(given, 1e-12))
    return lower, upper


def _starts(problem: LatentProblem, low: Floats) -> Floats:
    """Both shortages equal, one exponent, floors at a share of each set's smallest loss."""
    out = []
    mean = np.array(
        [np.exp(problem.logs[problem.seen[:, i], i]).mean() for i in range(problem.sets)]
    )
    for exponent in EXPONENTS:
        for share in FLOOR_SHARES:
            theta = np.zeros(problem.size)
            E = share * np.exp(low)
            above = mean - E
            theta[[0, 2]] = np.log(0.5 * above[0])
            theta[[1, 3]] = exponent
            theta[SHARED::3] = np.log(E)
            theta[SHARED + 1 :: 3] = np.log(above / above[0])
            theta[SHARED + 2 :: 3] = 1.0
            out.append(theta)
    return np.array(out)


def _descend(
    problem: LatentProblem,
    theta: Floats,
    weights: Floats | None,
    lower: Floats,
    upper: Floats,
    tol: float,
    most: int,
) -> Solution:
    return minimise(
        problem, theta, weights, lower=lower, upper=upper, tol=tol, max_iterations=most,
        metric=ridged(problem.metric(np.clip(theta[:1], lower, upper), None))[0], refresh=5,
    )  # fmt: skip
