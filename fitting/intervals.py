"""How sure a fit is: bootstrap over runs, sandwich, and what extrapolation inside the data shows.

| what | assumes | use |
|---|---|---|
| `bootstrap` | runs are independent draws | the default for parameters |
| `sandwich` | as above, and smoothness | when there is no time for resamples |
| `profile` (lmfit) | independent, identical, normal errors | the shape of one parameter's valley |
| `calibrate` | the future errs as the recent past did | prediction beyond the data |

The bootstrap alone covers a third of real held-out larger runs at a nominal 95 %: it knows how the
parameters scatter, not that the form is only nearly right. `calibrate` asks the training set: fit
the smaller runs, predict the larger ones, and see by how much a decade of compute misses.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fitting.engine import Engine, Optimum
from fitting.links import Floats

# 1 / Phi^-1(3/4): the median absolute deviation of a normal variable, as a standard deviation.
MAD_TO_SD = 1.4826022185056018


@dataclass(frozen=True)
class Calibration:
    """What widens a prediction beyond parameter noise; all in log loss.

    noise: standard deviation of one new run about the law, corrected for the fitted parameters.
    drift: root mean square error per decade of compute beyond the data, from the rolling origins.
    bias: mean signed error per decade (positive: larger runs came out worse than predicted).
    origins: how many cuts the training set allowed; 0 means that `drift` is a fallback.
    """

    noise: float
    drift: float
    bias: float
    origins: int
    freedom: float

    def spread(self, decades: Floats, level: float) -> Floats:
        """Half-width in log loss, at `level`, of all that is not parameter noise: [points]."""
        from scipy.special import stdtrit

        z = float(stdtrit(self.freedom, 0.5 + 0.5 * level))
        return np.asarray(z * np.sqrt(self.noise**2 + (self.drift * decades) ** 2))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def resample_counts(
    group: "np.typing.NDArray[np.int64]", draws: int, rng: np.random.Generator
) -> Floats:
    """How often each point occurs in each resample of runs: [draws, points].

    Whole runs are drawn with replacement, so the points of one curve come and go together.
    """
    names, member = np.unique(group, return_inverse=True)
    g = names.size
    picks = rng.integers(0, g, size=(draws, g))
    picks += np.arange(draws)[:, None] * g
    counts = np.bincount(picks.ravel(), minlength=draws * g).reshape(draws, g)
    return np.asarray(counts[:, member], dtype=float) if g < group.size else counts.astype(float)


def bootstrap(engine: Engine, best: Optimum, draws: int, seed: int) -> tuple[Floats, int]:
    """Parameters [kept, p] of `draws` resamples, each at its own optimum, and how many failed."""
    rng = np.random.default_rng([seed, 11])
    found = engine.warm(best.theta, resample_counts(engine.group, draws, rng))
    good = np.isfinite(found.f) & np.isfinite(found.theta).all(axis=1)
    return engine.values(found.theta[good]), int((~found.converged).sum())


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


def calibrate(engine: Engine, best: Optimum) -> Calibration:
    """Refit on the smaller runs, predict the larger ones, inside the training set."""
    r = residuals(engine, best.values)
    p = len(best.values)
    noise = robust_sd(r, p)
    if not np.isfinite(noise):
        noise = float(np.sqrt(np.mean(r * r)) * np.sqrt(r.size))
    x = distance(engine)
    levels = np.unique(np.round(x, 2))
    train, test, far = [], [], []
    for cut in levels[:-1]:
        inside = x <= cut + 0.005
        if inside.sum() < max(p + 2, 0.4 * x.size) or (~inside).sum() < 1:
            continue
        train.append(inside)
        test.append(~inside)
        far.append(np.maximum(x - cut, 0.0))
    if not train:
        return Calibration(noise, max(0.02, noise), 0.0, 0, float(max(r.size - p, 1)))
    if len(train) > 12:
        keep = np.unique(np.linspace(0, len(train) - 1, 12).astype(int))
        train, test, far = [[q[i] for i in keep] for q in (train, test, far)]
    weights = np.array(train, dtype=float)
    found = engine.warm(best.theta, weights)
    values = engine.values(found.theta)
    with np.errstate(all="ignore"):
        error = np.log(engine.loss) - np.log(engine.law.evaluate(engine.inputs, values))
    t, d = np.array(test), np.array(far)
    t &= np.isfinite(error)
    e, d = np.where(t, error, 0.0), np.where(t, d, 0.0)
    beyond = float((d**4).sum())
    if beyond <= 0:
        return Calibration(noise, max(0.02, noise), 0.0, 0, float(max(r.size - p, 1)))
    drift2 = float((np.maximum(e * e - noise**2, 0.0) * d**2).sum()) / beyond
    bias = float((e * d).sum() / (d**2).sum())
    return Calibration(noise, float(np.sqrt(drift2)), bias, len(train), float(max(r.size - p, 1)))


def sandwich(engine: Engine, best: Optimum) -> Floats:
    """Covariance [p, p] in solver coordinates, clustered by run: H^-1 (sum g_run g_run') H^-1."""
    groups = np.unique(engine.group, return_inverse=True)[1]
    problem = engine.problem()
    w = np.ones(engine.loss.size) if engine.weights is None else engine.weights
    count = int(groups.max()) + 1
    scores = np.empty((count, best.theta.size))
    for start in range(0, count, 512):
        some = np.arange(start, min(start + 512, count))
        own = (groups[None, :] == some[:, None]) * w
        scores[some] = problem.evaluate(np.tile(best.theta, (some.size, 1)), own)[1]
    h = best.hessian
    inverse = np.linalg.pinv(0.5 * (h + h.T), rcond=1e-14)
    return np.asarray(inverse @ (scores.T @ scores) @ inverse * count / max(count - 1, 1))
