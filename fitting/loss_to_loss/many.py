"""More than two sets: one latent scale, every link between them, forecasts from all that is known.

joint = fit_joint({"web": web, "code": code, "new": six_runs})
joint.predict("new", {"web": 2.33, "code": 0.95})    # the others' losses of the large run
Links made here are invertible and transitive by construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.errors import FittingError
from fitting.intervals import Calibration, robust_sd
from fitting.links import Floats
from fitting.loss_to_loss.calibrate import Origin, cuts, pooled
from fitting.loss_to_loss.formula import PARAMS, chained
from fitting.loss_to_loss.kinds import NEAR_ONE, KappaPrior
from fitting.loss_to_loss.latent import (
    Latent,
    fit_latent,
    links_between,
    precisions,
    readings,
)
from fitting.loss_to_loss.pairs import Pairs, pair
from fitting.loss_to_loss.resample import resampled_cells
from fitting.predict import check_level
from fitting.runs import Runs

ORIGIN_RESAMPLES = 24
# Steps from the mean of what each set says by itself; four reach rounding.
GAUSS_NEWTON = 6


@dataclass(frozen=True)
class JointPrediction:
    """One target loss. used: the sets whose losses told; left_out: those at or below their floor.
    reach: times beyond the largest run of the target in compute."""

    target: str
    value: float
    lower: float
    upper: float
    level: float
    used: tuple[str, ...]
    left_out: tuple[str, ...]
    reach: float

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Joint:
    """Several sets on one scale. draws [draws, p]: theta of resampled cells. backtest, calibration:
    for each set, forecast from the others' true losses."""

    pairs: Pairs
    latent: Latent
    draws: Floats
    level: float
    calibration: dict[str, Calibration]
    backtest: dict[str, tuple[Origin, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return self.latent.names

    def params(self) -> dict[str, dict[str, float]]:
        """{set: {"E", "K", "kappa"}}, on the scale of the first set."""
        E, K, kappa = readings(self.latent.theta)
        return {
            name: {"E": float(E[i]), "K": float(K[i]), "kappa": float(kappa[i])}
            for i, name in enumerate(self.names)
        }

    def link(self, source: str, target: str) -> dict[str, float]:
        """{"kappa", "K", "E0", "E1"} from one set to another."""
        i, j = self._place(source), self._place(target)
        found = links_between(self.latent.theta[None], i, j)[0]
        return dict(zip(PARAMS, found.tolist(), strict=True))

    def r2(self) -> dict[str, float]:
        """Share of the variance of each set's own losses that the joint law explains."""
        rows = ~self.pairs.interpolated
        z = self.latent.z(self.pairs.N[rows], self.pairs.D[rows])
        return {
            name: _share(self.pairs.losses[rows, i], self.latent.losses(z)[:, i])
            for i, name in enumerate(self.names)
        }

    def predict(
        self,
        target: str,
        known: Mapping[str, float],
        *,
        flops: float | None = None,
        level: float | None = None,
    ) -> JointPrediction:
        """The target's loss of a run whose losses `known` {set: loss} were measured.

        The run's z is what these losses say, each as loudly as its noise allows; its N and D do
        not count, so a better recipe, which moves all sets alike, costs nothing. A loss at or
        below its set's floor says nothing and is left out, by name.
        """
        chosen = self.level if level is None else check_level(level)
        place = self._place(target)
        others = np.array([self._place(name) for name in known])
        if place in others:
            raise FittingError("bad_option", f"{target} is both known and asked for.", "Leave one.")
        losses = np.full((1, len(self.names)), np.nan)
        losses[0, others] = [float(v) for v in known.values()]
        E = readings(self.latent.theta)[0]
        low = [n for n, j in zip(known, others, strict=True) if not losses[0, j] > E[j]]
        if len(low) == len(known):
            raise FittingError(
                "infeasible",
                f"Every known loss is at or below the floor of its set: {', '.join(low)}.",
                "Refit with this run, or check that the losses are on the same text.",
            )
        theta = np.concatenate([self.latent.theta[None], self.draws])
        values = forecast(theta, self.latent.covariance, losses, place)[:, 0]
        value = float(values[0])
        seen = np.isfinite(self.pairs.losses[:, place])
        top = float(np.log10(self.pairs.compute[seen].max()))
        decades = (
            self._decades(theta[0], losses, place, top)
            if flops is None
            else max(float(np.log10(flops)) - top, 0.0)
        )
        spread = np.log(values[1:]) - np.log(value)
        spread = spread[np.isfinite(spread)]
        tail = 0.5 * (1 - chosen)
        bounds = np.quantile(spread, [tail, 1 - tail]) if spread.size else np.zeros(2)
        extra = float(self.calibration[target].spread(np.array([decades]), chosen)[0])
        return JointPrediction(
            target=target,
            value=value,
            lower=value * float(np.exp(-np.hypot(min(bounds[0], 0.0), extra))),
            upper=value * float(np.exp(np.hypot(max(bounds[1], 0.0), extra))),
            level=chosen,
            used=tuple(n for n in known if n not in low),
            left_out=tuple(low),
            reach=float(10**decades),
        )

    def _decades(self, theta: Floats, losses: Floats, place: int, top: float) -> float:
        """Decades beyond the target's runs, from how small z is, at the pace of the optimum."""
        z = latent_scale(theta[None], self.latent.covariance, losses, place)[0, 0]
        alpha, beta = theta[1], theta[3]
        rows = np.isfinite(self.pairs.losses[:, place])
        best = self.latent.z(self.pairs.N[rows], self.pairs.D[rows]).min()
        return float(max(np.log10(best / z) * (alpha + beta) / (alpha * beta), 0.0))

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise FittingError(
                "bad_option", f"There is no set {name!r}.", f"Sets: {', '.join(self.names)}."
            )
        return self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: the sets' readings, all links, backtests."""
        return {
            "sets": self.params(),
            "r2": self.r2(),
            "links": [
                {"source": a, "target": b, **self.link(a, b)}
                for a, b in permutations(self.names, 2)
            ],
            "calibration": {k: c.to_dict() for k, c in self.calibration.items()},
            "backtest": {k: [o.to_dict() for o in b] for k, b in self.backtest.items()},
            "certificate": self.latent.certificate,
            "level": self.level,
        }


def fit_joint(
    sets: Mapping[str, Runs],
    *,
    kappa_prior: KappaPrior | None = NEAR_ONE,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
) -> Joint:
    """Put two or more sets of runs of N and D on one latent scale.

    The first is the reference (its K and kappa are 1): give the one with most runs. A set may
    have as few as three runs; kappa_prior then says what they cannot.
    """
    if len(sets) < 2:
        raise FittingError("too_few_points", f"{len(sets)} sets.", "Give two or more.")
    check_level(level)
    names = list(sets)
    rest = {name: sets[name] for name in names[2:]}
    pairs = pair(sets[names[0]], sets[names[1]], names=(names[0], names[1]), others=rest)
    few = [n for i, n in enumerate(names) if np.isfinite(pairs.losses[:, i]).sum() < 3]
    if few:
        raise FittingError(
            "too_few_points", f"{', '.join(few)}: fewer than 3 runs.", "Add runs.", sets=few
        )
    latent = fit_latent(pairs, kappa_prior=kappa_prior)
    sample = latent.resampled(resampled_cells(pairs, draws, seed)) if draws else np.zeros((0, 0))
    sample = sample[np.isfinite(sample).all(axis=1)].reshape(-1, latent.theta.size)
    errors: dict[str, list[tuple[Floats, Floats, Floats]]] = {name: [] for name in names}
    tables: dict[str, list[Origin]] = {name: [] for name in names}
    several = np.isfinite(pairs.losses).sum(axis=1) >= 2
    log_C = np.log10(pairs.compute)
    for cut in cuts(pairs.budget, several):
        below = pairs.budget <= cut
        sub = pairs.select(below)
        if (np.isfinite(sub.losses).sum(axis=0) < 2).any():
            continue
        then = fit_latent(sub, kappa_prior=kappa_prior)
        lanes = np.concatenate(
            [then.theta[None], then.resampled(resampled_cells(sub, ORIGIN_RESAMPLES, seed))]
        )
        for place, name in enumerate(names):
            judged = ~below & np.isfinite(pairs.losses[:, place]) & several
            if not judged.any():
                continue
            found = _backtest(pairs, then, lanes, place, judged, log_C[below].max())
            if found is not None:
                errors[name].append(found[0])
                tables[name].append(found[1])
    calibration = {}
    for place, name in enumerate(names):
        r = _given_others(pairs, latent, place)
        noise = max(robust_sd(r, min(3, r.size - 1)), 1e-12) if r.size else 0.01
        past = errors[name]
        calibration[name] = pooled(
            [e for e, _, _ in past], [v for _, v, _ in past], [d for _, _, d in past],
            noise, float(max(r.size - 3, 1)),
        )  # fmt: skip
    return Joint(
        pairs, latent, sample, level, calibration, {n: tuple(t) for n, t in tables.items()}
    )


def latent_scale(
    theta: Floats, covariance: Floats, losses: Floats, without: int | None = None
) -> Floats:
    """z [lanes, cells] that losses [cells, sets] say, under theta [lanes, p]; NaN if none can.

    Whitened least squares in log z, by Gauss-Newton. Set number `without` does not count, nor do
    losses at or below their floor in the first lane; a lane that sees more such has no answer.
    """
    E, K, kappa = (part[:, None, :] for part in readings(theta))
    seen = np.isfinite(losses)
    if without is not None:
        seen = seen & (np.arange(losses.shape[1]) != without)
    seen = seen & (np.where(seen, losses, 0.0) > E[0])
    P = precisions(covariance, seen)
    known = np.where(seen, losses, 1.0)
    with np.errstate(all="ignore"):
        each = np.log((known - E) / K) / kappa
        x = np.where(seen, each, 0.0).sum(axis=2) / seen.sum(axis=1)
        for _ in range(GAUSS_NEWTON):
            above = K * np.exp(kappa * x[:, :, None])
            y = E + above
            r = np.where(seen, np.log(known) - np.log(y), 0.0)
            J = np.where(seen, kappa * above / y, 0.0)
            PJ = np.matmul(P, J[..., None])[..., 0]
            x = x + np.clip((PJ * r).sum(axis=2) / (PJ * J).sum(axis=2), -1.0, 1.0)
    return np.asarray(np.exp(x))


def forecast(theta: Floats, covariance: Floats, losses: Floats, place: int) -> Floats:
    """Loss of set `place` [lanes, cells] from the other sets' losses."""
    z = latent_scale(theta, covariance, losses, place)
    E, K, kappa = (part[:, place, None] for part in readings(theta))
    return np.asarray(E + K * z**kappa)


def transitivity(direct: Floats, first: Floats, second: Floats, x: Floats) -> Floats:
    """Relative difference between going 0 -> 2 at once and by way of 1, at source losses x.

    Each link [4] in the order of `formula.PARAMS`; zero for links of one joint fit.
    """
    from fitting.loss_to_loss.formula import at

    there = at(direct[None], x)[0]
    by_way = at(second[None], at(first[None], x)[0])[0]
    return np.asarray(by_way / there - 1.0)


def _backtest(
    pairs: Pairs,
    then: Latent,
    lanes: Floats,
    place: int,
    judged: NDArray[np.bool_],
    top: float,
) -> tuple[tuple[Floats, Floats, Floats], Origin] | None:
    """Errors, variances and decades [cells] of one set at one origin, and their summary."""
    size = judged.size
    error, variance = np.full(size, np.nan), np.full(size, np.nan)
    values = forecast(lanes, then.covariance, pairs.losses[judged], place)
    with np.errstate(all="ignore"):
        e = np.log(pairs.losses[judged, place]) - np.log(values[0])
        low, high = np.quantile(
            np.nan_to_num(np.log(values[1:]), nan=-np.inf), [0.16, 0.84], axis=0
        )
    error[judged], variance[judged] = e, (0.5 * (high - low)) ** 2
    log_C = np.log10(pairs.compute)
    good = np.isfinite(error)
    if not good.any():
        return None
    summary = Origin(
        up_to=float(10**top),
        ratio=float(10 ** (log_C[good].max() - top)),
        fitted=int((np.isfinite(pairs.losses[:, place]) & (log_C <= top)).sum()),
        predicted=int(good.sum()),
        mean=float(np.abs(error[good]).mean()),
        worst=float(error[good][np.argmax(np.abs(error[good]))]),
        bias=float(error[good].mean()),
    )
    return (error, variance, np.maximum(log_C - top, 0.0)), summary


def _given_others(pairs: Pairs, latent: Latent, place: int) -> Floats:
    """Log residuals of one set about what the others say, in the cells that have both."""
    rows = np.isfinite(pairs.losses[:, place]) & (np.isfinite(pairs.losses).sum(axis=1) >= 2)
    value = forecast(latent.theta[None], latent.covariance, pairs.losses[rows], place)[0]
    r = np.log(pairs.losses[rows, place]) - np.log(value)
    return np.asarray(r[np.isfinite(r)])


def _share(y: Floats, predicted: Floats) -> float:
    good = np.isfinite(y)
    y, predicted = y[good], predicted[good]
    return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


__all__ = ["Joint", "JointPrediction", "chained", "fit_joint", "forecast", "transitivity"]
