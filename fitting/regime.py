"""Have the runs reached the power-law regime? Does an exponent hold when small runs are left out?

In the regime every exponent is the same, within its error, whichever runs it is read from. Before
it (the initial transient, warm-up that a short run feels) a fitted exponent drifts as the small
runs go: in our own trainer's 35 points of 8 to 64 steps beta falls from 1.61 to .72 without the
ten of fewest tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.engine import Engine, Optimum
from fitting.intervals import resample_counts, residuals, robust_sd
from fitting.links import Floats

# Shares of the points that are left out, those of fewest tokens first.
CUTS = (0.15, 0.3)

# An exponent moves if it leaves what resamples of the larger runs reach, by so much: published ones
# of trained-out runs span .2 to .7, so that a move of .3 is more than two such sets would differ by
# (a guess). Less is common in sound sets: beta of Besiroglu et al.'s 240 rows goes .37, .26, .19.
MOVE = 0.3

RESAMPLES = 40
MOST_POINTS = 2_000


@dataclass(frozen=True)
class Moved:
    """name: the exponent; values: of all runs, then of those with more tokens, cut by cut; times:
    |change| over its reach; scatter: of the runs about the law, of all runs about the fit to all
    and of the last cut's about theirs, standard deviations of log loss."""

    name: str
    values: tuple[float, ...]
    times: float
    scatter: tuple[float, float]


def moved_exponents(
    engine: Engine, best: Optimum, exponents: Sequence[str], seed: int = 0
) -> list[Moved]:
    """The exponents of a law of N and D that change one way as the runs of few tokens go.

    The uncertainty is that of the refit to the fewest runs; the fits share runs, so that their
    difference is surer than that, never less sure.
    """
    n, p = engine.loss.size, len(best.values)
    if engine.where is None or not exponents or not {"N", "D"} <= set(engine.inputs):
        return []
    rng = np.random.default_rng([seed, 23])
    if n > MOST_POINTS:
        engine = engine.subset(np.sort(rng.choice(n, MOST_POINTS, replace=False)))
    D = engine.inputs["D"]
    kept = [D >= (1 - 1e-9) * np.quantile(D, cut) for cut in CUTS]
    if not _enough(engine, kept[-1], p) or kept[-1].all():
        return []
    own = np.ones(D.size) if engine.weights is None else engine.weights
    refits = engine.cold_many(np.array(kept, dtype=float) * own, seed=seed)
    values = np.array([best.values, *(one.values for one in refits)])
    steps = np.diff(values, axis=0)
    one_way = np.abs(np.sign(steps).sum(axis=0)) == len(steps)
    change = np.abs(values[-1] - values[0])
    where = [engine.law.param_names.index(name) for name in exponents]
    where = [j for j in where if one_way[j] and change[j] > MOVE]
    if not where:
        return []
    toward = np.sign(values[0] - values[-1])
    reach = _reach(engine, refits[-1], kept[-1], toward, rng)
    scatter = (
        robust_sd(residuals(engine, best.values), p),
        robust_sd(residuals(engine, refits[-1].values)[kept[-1]], p),
    )
    names = engine.law.param_names
    return [
        Moved(names[j], tuple(values[:, j].tolist()), float(change[j] / reach[j]), scatter)
        for j in where
        if change[j] > reach[j] > 0
    ]


def _enough(engine: Engine, kept: NDArray[np.bool_], p: int) -> bool:
    """Runs, sizes and token counts enough for a fit of their own."""
    return bool(
        np.unique(engine.group[kept]).size >= min(p, 4)
        and int(kept.sum()) >= 2 * p
        and min(np.unique(engine.inputs[k][kept]).size for k in ("N", "D")) >= 3
    )


def _reach(
    engine: Engine, best: Optimum, kept: NDArray[np.bool_], toward: Floats, rng: np.random.Generator
) -> Floats:
    """How far [p] the refits to resamples of the kept runs reach towards the fit to all: where
    nineteen of twenty end. Their scatter is skewed where the floor is weakly held, so that a
    standard error would be too small on that side."""
    counts = np.zeros((RESAMPLES, kept.size))
    counts[:, kept] = resample_counts(engine.group[kept], RESAMPLES, rng)
    draws = engine.values(engine.warm(best.theta, counts, tol=1e-6, most=40).theta)
    return np.asarray(np.quantile(toward * (draws - best.values), 0.95, axis=0))
