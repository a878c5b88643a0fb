"""Resamples of a paired design: whole cells, or whole budgets, never one set by itself.

Sets in one (N, D) share seed and recipe, and their residuals go together (.7 in public sweeps);
drawing each set's runs apart would break what a link lives from.
"""

import numpy as np
from numpy.typing import NDArray

from fitting.errors import FittingError
from fitting.intervals import resample_counts
from fitting.links import Floats
from fitting.loss_to_loss.pairs import Pairs

BY = ("cell", "budget")


def resampled_cells(pairs: Pairs, draws: int, seed: int, by: str = "cell") -> Floats:
    """How often each cell occurs in each resample, [draws, cells].

    cell: paired cells are drawn among themselves and single ones among themselves, so that every
    resample has as many pairs as the data. budget: whole budgets, then cells within them.
    """
    if by not in BY:
        raise FittingError("bad_option", f"resample is {by!r}.", f"Use one of: {', '.join(BY)}.")
    rng = np.random.default_rng([seed, 23])
    if by == "cell":
        return _within(pairs.paired, draws, rng)
    whole = resample_counts(pairs.budget, draws, rng)
    out = np.zeros_like(whole)
    for g in np.unique(pairs.budget):
        rows = np.flatnonzero(pairs.budget == g)
        times = whole[:, rows[0]].astype(int)
        chance = np.full(rows.size, 1.0 / rows.size)
        out[:, rows] = rng.multinomial(times * rows.size, chance)
    return out


def _within(strata: NDArray[np.bool_], draws: int, rng: np.random.Generator) -> Floats:
    out = np.zeros((draws, strata.size))
    for part in (True, False):
        rows = np.flatnonzero(strata == part)
        if rows.size:
            out[:, rows] = rng.multinomial(rows.size, np.full(rows.size, 1 / rows.size), size=draws)
    return out
