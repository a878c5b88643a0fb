"""How far a link can be trusted beyond its pairs, asked of the pairs themselves.

A pairs bootstrap with E held fixed covers 0 of 30 real runs at 20 times the compute: it knows the
scatter of the line, not that floors drift and that no shifted power law is exact. So the origin
rolls (Tashman 2000): fit the pairs below a budget, floors and all, predict the target losses above
it from their true source losses, and see by how much a decade of compute misses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.errors import FittingError
from fitting.intervals import Calibration, paule_mandel, robust_sd
from fitting.links import Floats
from fitting.loss_to_loss.formula import at
from fitting.loss_to_loss.methods.estimator import Estimator
from fitting.loss_to_loss.pairs import Pairs
from fitting.loss_to_loss.resample import resampled_cells

# Error per decade of compute to expect before looking, and how many decades of evidence that is
# worth. From rolling origins *inside* the 30 pairs of the public sweep of Brandfonbrener et al.
# (2e17 to 4.84e19 FLOPs): root mean square .8 %; the runs held out at 1e21 had no part in it. The
# weight is a guess.
PRIOR_DRIFT = 0.008
PRIOR_WEIGHT = 2.0

ORIGIN_RESAMPLES = 24
MOST_ORIGINS = 6
# An origin needs this many pairs below it, in at least so many budgets: kappa, K and a floor are
# three unknowns, and two budgets cannot show that a line bends. Where three budgets are all there
# are, two must do: a harsh backtest is better than none.
FEWEST_PAIRS = 4
FEWEST_BUDGETS = 3


@dataclass(frozen=True)
class Origin:
    """One backtest. up_to: largest compute fitted to; ratio: largest compute predicted over it;
    errors in log loss: mean absolute, worst, and mean (positive: predicted too low)."""

    up_to: float
    ratio: float
    fitted: int
    predicted: int
    mean: float
    worst: float
    bias: float

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def calibrate_link(
    pairs: Pairs,
    best: Floats,
    prepare: Callable[[Pairs], Estimator],
    free_parameters: int,
    seed: int = 0,
) -> tuple[Calibration, tuple[Origin, ...]]:
    """What widens a link's forecast beyond parameter noise, and the backtests behind it."""
    paired = pairs.paired
    r = np.log(pairs.y[paired]) - np.log(at(best[None], pairs.x[paired])[0])
    r = r[np.isfinite(r)]
    lost = min(free_parameters, r.size - 1)
    noise = max(robust_sd(r, lost), 1e-12)
    freedom = float(max(r.size - free_parameters, 1))
    log_C = np.log10(pairs.compute)
    errors, variances, far, tables = [], [], [], []
    for cut in cuts(pairs.budget, pairs.paired):
        below = pairs.budget <= cut
        judged = paired & ~below
        top = log_C[below & paired].max()
        try:
            estimator = prepare(pairs.select(below))
        except FittingError:
            continue
        sub = pairs.select(below)
        drawn = estimator.resampled(resampled_cells(sub, ORIGIN_RESAMPLES, seed))
        with np.errstate(all="ignore"):
            e = np.log(pairs.y) - np.log(at(estimator.best[None], pairs.x)[0])
            spread = np.log(at(drawn, pairs.x))
            low, high = np.quantile(
                np.nan_to_num(spread, nan=-np.inf)[:, judged], [0.16, 0.84], axis=0
            )
        variance = np.full(e.size, np.nan)
        variance[judged] = (0.5 * (high - low)) ** 2
        good = judged & np.isfinite(e) & np.isfinite(variance)
        if not good.any():
            continue
        errors.append(np.where(good, e, np.nan))
        variances.append(variance)
        far.append(np.maximum(log_C - top, 0.0))
        tables.append(
            Origin(
                up_to=float(10**top),
                ratio=float(10 ** (log_C[good].max() - top)),
                fitted=int((paired & below).sum()),
                predicted=int(good.sum()),
                mean=float(np.abs(e[good]).mean()),
                worst=float(e[good][np.argmax(np.abs(e[good]))]),
                bias=float(e[good].mean()),
            )
        )
    calibration = pooled(errors, variances, far, noise, freedom)
    return calibration, tuple(tables)


def pooled(
    errors: list[Floats],
    variances: list[Floats],
    far: list[Floats],
    noise: float,
    freedom: float,
) -> Calibration:
    """The drift behind rolling-origin errors: per origin, log errors, their variances from
    parameter noise, and decades beyond the origin; each [points], NaN where nothing is judged."""
    if not errors:
        return Calibration(noise, freedom, PRIOR_DRIFT, PRIOR_WEIGHT, 0.0, 0.0, 0.0, 0, 0.0)
    error, variance, distance = np.array(errors), np.array(variances), np.array(far)
    known = noise**2 + np.nan_to_num(variance)
    judged = np.isfinite(error) & (distance > 0)
    share = judged / np.maximum(judged.sum(axis=1, keepdims=True), 1)
    e = np.nan_to_num(error)
    seen = paule_mandel(e, known, distance, share)
    pull = np.where(judged, e * distance / known, 0.0).sum(axis=1)
    grip = np.where(judged, distance**2 / known, 0.0).sum(axis=1)
    slopes = pull / np.maximum(grip, 1e-300)
    bias = float(pull.sum() / max(float(grip.sum()), 1e-300))
    span = float(np.where(judged, distance, 0.0).max())
    weight = max(1.0, span)
    total = PRIOR_WEIGHT + weight
    drift = float(np.sqrt((PRIOR_WEIGHT * PRIOR_DRIFT**2 + weight * seen**2) / total))
    one_sided = float((np.sign(slopes) == np.sign(bias)).mean())
    return Calibration(noise, freedom, drift, total, seen, bias, one_sided, len(errors), span)


def cuts(budget: NDArray[np.int64], paired: NDArray[np.bool_]) -> list[int]:
    """Budgets after which an origin may stand: enough pairs below, something above."""
    names = np.unique(budget[paired])
    fewest = max(min(FEWEST_BUDGETS, names.size - 1), 2)
    found = [
        int(g)
        for k, g in enumerate(names[:-1])
        if k + 1 >= fewest and int((paired & (budget <= g)).sum()) >= FEWEST_PAIRS
    ]
    if len(found) > MOST_ORIGINS:
        some = np.unique(np.linspace(0, len(found) - 1, MOST_ORIGINS).astype(int))
        found = [found[k] for k in some]
    return found
