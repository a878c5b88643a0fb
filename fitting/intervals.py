"""How sure a fit is: bootstrap over runs, sandwich, and what extrapolation inside the data shows.

| what | assumes | use |
|---|---|---|
| `bootstrap` | runs are independent draws | the default for parameters |
| by budget | the same, of each budget's runs | grids that were planned by budgets |
| `sandwich` | as above, and smoothness | when there is no time for resamples |
| `fitting.profile` | independent, identical, normal errors | the shape of one parameter's valley |
| `calibrate` | the future errs as the recent past did | prediction beyond the data |

The bootstrap alone covers a third of real held-out larger runs at a nominal 95 %: it knows how the
parameters scatter, not that the form is only nearly right. `calibrate` asks the training set: fit
the smaller runs, predict the larger ones, and see by how much a decade of compute misses.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.engine import Engine, Optimum, hopeless, many
from fitting.links import Floats
from fitting.surface import places

# 1 / Phi^-1(3/4): the median absolute deviation of a normal variable, as a standard deviation.
MAD_TO_SD = 1.4826022185056018


# What the interval of a prediction expects of the world beyond the data: the drift per decade of
# compute before looking, how many decades of evidence that is worth, what a decade of rolling
# origins is worth against it, and the share of a drift of one sign that goes on. Chosen on
# simulated truths only, by tests/benchmarks/calibrate.py; see docs/decisions/0044-*.
PRIOR_DRIFT = 0.025
PRIOR_WEIGHT = 16.0
SEEN_WEIGHT = 1.0
LEAN = 1.0

# Rolling origins, and resamples for the parameter noise of each: half as many say the same of laws
# that are dear to refit to many points (docs/decisions/0110-*).
MOST_ORIGINS = 8
ORIGIN_RESAMPLES, DEAR_RESAMPLES = 24, 12

# Counts of points in resamples that are held at a time, and numbers [resamples, points] that may be
# worked through in all: 1e8 take some 25 CPU seconds for a sum of powers (other laws, eight times
# as slow, are allowed an eighth). Fewer than FEWEST resamples say nothing about a 90% interval.
COUNTS = 4_000_000
TOGETHER = 20_000
WORK = 100_000_000
FEWEST = 40

# Calibration sees at most this many points: it asks about systematic error, not about noise. Laws
# that are not sums of powers, eight times as slow, see fewer.
CALIBRATION_POINTS, DEAR_POINTS = 2_000, 1_000


@dataclass(frozen=True)
class Calibration:
    """What widens a prediction beyond parameter noise; all in log loss.

    noise: standard deviation of one new run about the law; noise_freedom: points less parameters.
    drift: scale of the error per decade of compute beyond the data, the prior's and the rolling
    origins' together; drift_freedom: decades of evidence behind it, the prior's counted.
    seen: the rolling origins' own estimate (0: no more error than noise explains).
    bias: their pooled signed error per decade; positive: larger runs were worse than predicted.
    one_sided: share of the origins whose mean error has the sign of `bias`.
    origins: how many cuts the training set allowed; span: decades from the first cut to the end.
    lean: drift per decade, signed, that is expected to go on as the rolling origins saw it.
    """

    noise: float
    noise_freedom: float
    drift: float
    drift_freedom: float
    seen: float
    bias: float
    one_sided: float
    origins: int
    span: float
    lean: float = 0.0

    def sides(
        self, low: Floats, high: Floats, decades: Floats, level: float
    ) -> tuple[Floats, Floats]:
        """How far the interval reaches below and above the prediction, in log loss: [points] each.

        low, high: quantiles of the parameter noise at `level`. In quadrature with the scatter of
        single runs and the drift, and moved by the lean; the side that it leans away from keeps
        what is there without any drift.
        """
        from scipy.special import stdtrit

        upper = 0.5 + 0.5 * level
        one = float(stdtrit(self.noise_freedom, upper)) * self.noise
        far = float(stdtrit(self.drift_freedom, upper)) * self.drift * decades
        here = [np.hypot(np.maximum(q, 0.0), one) for q in (-low, high)]
        lean = self.lean * decades
        below, above = (
            np.maximum(np.hypot(near, far) + way * lean, near)
            for near, way in zip(here, (-1.0, 1.0), strict=True)
        )
        return below, above

    def spread(self, decades: Floats, level: float) -> Floats:
        """Half-width in log loss of all that is not parameter noise, without the lean: [points]."""
        from scipy.special import stdtrit

        upper = 0.5 + 0.5 * level
        one = float(stdtrit(self.noise_freedom, upper)) * self.noise
        far = float(stdtrit(self.drift_freedom, upper)) * self.drift
        return np.asarray(np.sqrt(one**2 + (far * decades) ** 2))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# Runs whose computes differ by less than this belong to one budget: planned 2e19 is rarely 2e19.
BUDGET_TOLERANCE = 0.1


def budget_labels(compute: Floats, tolerance: float = BUDGET_TOLERANCE) -> NDArray[np.int64]:
    """The budget of each point, counted from 0 upwards: a gap of more than `tolerance` in compute
    begins a new one."""
    order = np.argsort(compute, kind="stable")
    new = np.diff(np.log(compute[order]), prepend=np.log(compute[order[0]])) > np.log1p(tolerance)
    label = np.empty(order.size, dtype=np.int64)
    label[order] = np.cumsum(new)
    return label


def resample_counts(
    group: NDArray[np.int64],
    draws: int,
    rng: np.random.Generator,
    strata: NDArray[np.int64] | None = None,
) -> Floats:
    """How often each point occurs in each resample of runs: [draws, points].

    Whole runs are drawn with replacement, so the points of one curve come and go together.
    strata: [points], numbered from 0; the runs of each are drawn among themselves (a run that has
    points in several belongs to the highest).
    """
    names, member = np.unique(group, return_inverse=True)
    g = names.size
    if strata is not None:
        highest = np.zeros(g, dtype=np.int64)
        np.maximum.at(highest, member, strata)
        runs_drawn = np.empty((draws, g))
        for one in np.unique(highest):
            here = np.flatnonzero(highest == one)
            runs_drawn[:, here] = resample_counts(here, draws, rng)
        return np.asarray(runs_drawn[:, member])
    picks = rng.integers(0, g, size=(draws, g))
    counts = np.empty((draws, g))
    together = max(1, TOGETHER // g)  # a table that stays in cache
    for some in (slice(i, i + together) for i in range(0, draws, together)):
        mine = picks[some]
        mine += np.arange(len(mine))[:, None] * g
        counts[some] = np.bincount(mine.ravel(), minlength=mine.size).reshape(mine.shape)
    return counts[:, member] if g < group.size else counts


def affordable(engine: Engine, draws: int) -> int:
    """How many of `draws` resamples these points allow: about half a minute of one core."""
    work = WORK if engine.where is not None else WORK // 8
    return min(draws, max(FEWEST, work // engine.loss.size))


def bootstrap(
    engine: Engine,
    best: Optimum,
    draws: int,
    seed: int,
    strata: NDArray[np.int64] | None = None,
) -> tuple[Floats, int]:
    """Parameters [kept, p] of `draws` resamples, each at its own optimum, and how many failed.

    strata: see `resample_counts`.

    Resamples are drawn and refitted in blocks, so that a million points need no more memory than
    thousands do.
    """
    rng = np.random.default_rng([seed, 11])
    block = max(1, COUNTS // engine.loss.size)
    kept: list[Floats] = []
    failed = 0
    for start in range(0, draws, block):
        counts = resample_counts(engine.group, min(block, draws - start), rng, strata)
        found = engine.warm(best.theta, counts, persist=True)
        good = np.isfinite(found.f) & np.isfinite(found.theta).all(axis=1)
        kept.append(engine.values(found.theta[good]))
        failed += int((~found.converged).sum())
    return np.concatenate(kept), failed


def residuals(engine: Engine, values: Floats) -> Floats:
    """ln loss - ln prediction at every used point."""
    return np.asarray(np.log(engine.loss) - np.log(engine.law.evaluate(engine.inputs, values)))


def robust_sd(r: Floats, lost: int = 0) -> float:
    """Scale of residuals that outliers cannot set alone, corrected for `lost` fitted parameters.

    The larger of the scaled median deviation and the standard deviation of the inner 95 %.
    """
    n = r.size
    if n <= lost:
        return float("nan")
    inflate = np.sqrt(n / (n - lost))
    inner = np.sort(np.abs(r))[: max(1, int(np.ceil(0.95 * n)))]
    spread = float(np.sqrt(np.mean(inner**2)))
    return float(inflate * max(MAD_TO_SD * float(np.median(np.abs(r))), spread))


def distance(engine: Engine) -> Floats:
    """log10 of training compute, or of the product of the inputs where compute is not defined."""
    if "N" in engine.inputs and "D" in engine.inputs:
        return np.asarray(np.log10(6.0 * engine.inputs["N"]) + np.log10(engine.inputs["D"]))
    positive = [v for v in engine.inputs.values() if (v > 0).all()]
    return np.asarray(sum((np.log10(v) for v in positive), np.zeros(engine.loss.size)))


def calibrate(engine: Engine, best: Optimum, seed: int = 0) -> Calibration:
    """Refit on the smaller runs, predict the larger ones, inside the training set.

    At each origin (a cut in compute) the law is refitted to what lies below; the errors above, at
    distance d decades, have variance noise^2 + (parameter noise of that refit)^2 + (drift d)^2.
    The first two are known (the second from resamples of the refit), and the drift is what makes
    the scaled squares average one: Paule & Mandel's estimate (1982) of a variance between
    studies. It is then shrunk towards PRIOR_DRIFT, as an inverse-chi-square prior would. Where all
    of many points have no optimum, refits are not resampled, and all of their error counts as
    drift.
    """
    p = len(best.values)
    n = engine.loss.size
    noise = robust_sd(residuals(engine, best.values), p)
    if not np.isfinite(noise):  # as many parameters as points: the residuals know nothing
        noise = PRIOR_DRIFT
    freedom = float(max(n - p, 1))
    rng = np.random.default_rng([seed, 19])
    resamples = 0 if hopeless(engine, best) else ORIGIN_RESAMPLES
    most = CALIBRATION_POINTS if engine.where is not None else DEAR_POINTS
    if n > most:
        engine = engine.subset(np.sort(rng.choice(n, most, replace=False)))
        n = most
    if resamples and many(engine):  # but enough of them together to make a surface of
        resamples = min(resamples, max(DEAR_RESAMPLES, -(-places(p) // MOST_ORIGINS)))
    x = distance(engine)
    cuts = _origins(x, max(p + 2, int(0.4 * n)))
    if not cuts.size:
        return Calibration(noise, freedom, PRIOR_DRIFT, PRIOR_WEIGHT, 0.0, 0.0, 0.0, 0, 0.0)
    below = x[None, :] <= cuts[:, None]
    far = np.maximum(x[None, :] - cuts[:, None], 0.0)
    error, variance = _origin_errors(engine, best, below, resamples, rng)
    known = noise**2 + variance
    judged = ~below & np.isfinite(error) & np.isfinite(variance)
    share = judged / np.maximum(judged.sum(axis=1, keepdims=True), 1)
    seen = paule_mandel(error, known, far, share)
    with np.errstate(all="ignore"):  # where it was not judged the quotient is not read
        pull = np.where(judged, error * far / known, 0.0).sum(axis=1)
        grip = np.where(judged, far**2 / known, 0.0).sum(axis=1)
    slope = pull / np.maximum(grip, 1e-300)
    bias = float(pull.sum() / max(float(grip.sum()), 1e-300))
    span = float(x.max() - cuts[0])
    drift, total = mixed_drift(seen, span)
    lean = LEAN * float(np.sign(bias)) * min(abs(bias), seen)
    return Calibration(
        noise=noise,
        noise_freedom=freedom,
        drift=drift,
        drift_freedom=total,
        seen=seen,
        bias=bias,
        one_sided=float((np.sign(slope) == np.sign(bias)).mean()),
        origins=int(cuts.size),
        span=span,
        lean=lean,
    )


def mixed_drift(
    seen: float,
    span: float,
    prior: float = PRIOR_DRIFT,
    prior_weight: float = PRIOR_WEIGHT,
    seen_weight: float = SEEN_WEIGHT,
) -> tuple[float, float]:
    """The drift per decade, and its degrees of freedom: what was seen over `span` decades and what
    is expected before looking, mixed as an inverse-chi-square prior would."""
    if not span:
        return prior, prior_weight
    weight = seen_weight * max(1.0, span)
    total = prior_weight + weight
    return float(np.sqrt((prior_weight * prior**2 + weight * seen**2) / total)), total


def _origins(x: Floats, fewest: int) -> Floats:
    """Cuts in compute that leave at least `fewest` points below and something above."""
    ordered = np.sort(x)
    levels = np.unique(np.round(ordered, 2)) + 0.005
    inside = np.searchsorted(ordered, levels, side="right")
    levels = levels[(inside >= fewest) & (levels < ordered[-1] - 0.1)]
    if levels.size > MOST_ORIGINS:
        wanted = np.linspace(levels[0], levels[-1], MOST_ORIGINS)
        levels = np.unique(levels[np.abs(levels[:, None] - wanted).argmin(axis=0)])
    return np.asarray(levels)


def _origin_errors(
    engine: Engine,
    best: Optimum,
    below: NDArray[np.bool_],
    resamples: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """ln loss - ln prediction [origins, points] of each refit, and the variance of that
    prediction over resamples of the refit's own runs (0 where there are none)."""
    lanes = [below.astype(float)]
    for inside in below if resamples else ():
        counts = np.zeros((resamples, inside.size))
        counts[:, inside] = resample_counts(engine.group[inside], resamples, rng)
        lanes.append(counts)
    if resamples and many(engine):
        # an origin's resamples begin where it ends itself, often far from the fit of all points
        own = engine.warm(best.theta, lanes[0], tol=1e-6, most=60).theta
        begin = np.repeat(own, resamples, axis=0)
        others = engine.warm(begin, np.concatenate(lanes[1:]), tol=1e-6, most=10)
        theta = np.concatenate([own, others.theta])
    else:
        most = 30 if resamples else 60
        theta = engine.warm(best.theta, np.concatenate(lanes), tol=1e-6, most=most).theta
    with np.errstate(all="ignore"):
        predicted = np.log(
            np.asarray(engine.law.evaluate(engine.inputs, engine.values(theta)), dtype=float)
        )
        predicted = np.broadcast_to(predicted, (len(theta), engine.loss.size))
        error = np.log(engine.loss) - predicted[: len(below)]
        if not resamples:
            return error, np.zeros_like(error)
        draws = predicted[len(below) :].reshape(len(below), resamples, -1)
        low, high = np.quantile(np.nan_to_num(draws, nan=np.inf), [0.16, 0.84], axis=1)
    return error, (0.5 * (high - low)) ** 2


def paule_mandel(error: Floats, known: Floats, far: Floats, share: Floats) -> float:
    """The drift for which the mean of error^2 / (known + drift^2 far^2) is one; 0 if it is below
    one without any. Each ratio counts at most 9: one diverged run is not a drift."""
    e2 = np.where(share > 0, error, 0.0) ** 2
    v = np.maximum(np.where(share > 0, known, 1.0), 1e-300)  # exact losses have no variance
    origins = max(int((share.sum(axis=1) > 0).sum()), 1)

    def mean(drift: float) -> float:
        return float((share * np.minimum(e2 / (v + (drift * far) ** 2), 9.0)).sum()) / origins

    low, high = 0.0, 1.0
    if mean(low) <= 1.0:
        return 0.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if mean(middle) > 1.0 else (low, middle)
    return high


def sandwich(engine: Engine, best: Optimum) -> Floats:
    """Covariance [p, p] in solver coordinates, clustered by run: H^-1 (sum g_run g_run') H^-1."""
    groups = np.unique(engine.group, return_inverse=True)[1]
    gradients = engine.problem(alone=True).pointwise(best.theta)[1]
    if engine.weights is not None:
        gradients = engine.weights[:, None] * gradients
    count = int(groups.max()) + 1
    scores = np.zeros((count, best.theta.size))
    np.add.at(scores, groups, gradients)
    h = best.hessian
    inverse = np.linalg.pinv(0.5 * (h + h.T), rcond=1e-14)
    return np.asarray(inverse @ (scores.T @ scores) @ inverse * count / max(count - 1, 1))
