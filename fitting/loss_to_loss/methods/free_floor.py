"""E_1 free: few target runs have no law of their own, so the link finds the target's floor.

y = K (x - E_0)^kappa + E_1 by least squares on the loss itself, E_1 in [0, min y] (the paper's
rule for a new data set, there by `curve_fit` from kappa = K = 1). Given kappa the rest is a
straight line, so only kappa is searched: a grid, then golden sections. No start values, no local
optimum.
"""

from dataclasses import dataclass

import numpy as np

from fitting.links import Floats
from fitting.loss_to_loss.methods.estimator import (
    Answer,
    Options,
    Shift,
    above_floors,
    at_bound,
    shift_of,
)
from fitting.loss_to_loss.pairs import Pairs

FLOOR_LAW = "chinchilla"
KAPPAS = np.geomspace(0.05, 8.0, 120)
GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


@dataclass(kw_only=True)
class FreeFloor(Answer):
    pairs: Pairs
    zero: Shift
    E1: float | None = None

    def resampled(self, weights: Floats) -> Floats:
        paired = self.pairs.paired
        E0 = self.zero.resampled(weights)
        return shifted_power(
            self.pairs.x[paired], self.pairs.y[paired], E0, weights[:, paired], self.E1
        )


def prepare(pairs: Pairs, options: Options) -> FreeFloor:
    zero, warned = shift_of(pairs, 0, options.E0, options.floor_law or FLOOR_LAW)
    used, dropped = above_floors(pairs, zero.value, -np.inf)
    x, y = pairs.x[used], pairs.y[used]
    best = shifted_power(x, y, np.array([zero.value]), np.ones((1, x.size)), options.E1)[0]
    if options.E1 is None:
        low = float(y.min())
        if best[3] <= 1e-9 * low:
            warned.append(at_bound("E1", float(best[3]), "zero"))
        elif best[3] >= low * (1 - 1e-9):
            warned.append(at_bound("E1", float(best[3]), "the smallest target loss"))
    return FreeFloor(
        best=best,
        floors={"E0": zero.how, "E1": "free" if options.E1 is None else "given"},
        certificate={
            "kappa_searched_from": float(KAPPAS[0]),
            "kappa_searched_to": float(KAPPAS[-1]),
        },
        warnings=[*warned, *dropped],
        pairs=pairs,
        zero=zero,
        E1=options.E1,
    )


def shifted_power(
    x: Floats, y: Floats, E0: Floats, weights: Floats, E1: float | None = None
) -> Floats:
    """[lanes, 4] for x, y [points], E0 [lanes], weights [lanes, points]; E1 fixed where given."""
    gap = x - E0[:, None]
    w = np.where(gap > 0, weights, 0.0)
    log_gap = np.log(np.where(gap > 0, gap, 1.0))
    low = np.min(np.where(w > 0, y, np.inf), axis=1)

    def line(kappa: Floats) -> tuple[Floats, Floats, Floats]:
        """Sum of squares, K and E1 [lanes] at kappa [lanes]."""
        t = np.exp(kappa[:, None] * log_gap)
        if E1 is not None:
            floor = np.full(len(w), float(E1))
        else:
            total = np.maximum(w.sum(axis=1), 1e-300)
            tm, ym = (w * t).sum(axis=1) / total, (w * y).sum(axis=1) / total
            dt = t - tm[:, None]
            with np.errstate(invalid="ignore", divide="ignore"):
                K = (w * dt * (y - ym[:, None])).sum(axis=1) / (w * dt * dt).sum(axis=1)
            floor = np.clip(np.nan_to_num(ym - K * tm), 0.0, low)
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = y - floor[:, None]
            K = np.maximum((w * t * rest).sum(axis=1) / (w * t * t).sum(axis=1), 0.0)
        r = rest - K[:, None] * t
        return (w * r * r).sum(axis=1), K, floor

    table = np.stack([line(np.full(len(w), kappa))[0] for kappa in KAPPAS], axis=1)
    best = np.argmin(np.where(np.isfinite(table), table, np.inf), axis=1)
    a = np.log(KAPPAS[np.maximum(best - 1, 0)])
    b = np.log(KAPPAS[np.minimum(best + 1, KAPPAS.size - 1)])
    c, d = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
    fc, fd = line(np.exp(c))[0], line(np.exp(d))[0]
    for _ in range(48):
        left = fc < fd
        a, b = np.where(left, a, c), np.where(left, d, b)
        new = np.where(left, b - GOLDEN * (b - a), a + GOLDEN * (b - a))
        fnew = line(np.exp(new))[0]
        c, d = np.where(left, new, d), np.where(left, c, new)
        fc, fd = np.where(left, fnew, fd), np.where(left, fc, fnew)
    kappa = np.exp(0.5 * (a + b))
    _, K, floor = line(kappa)
    return np.stack([kappa, K, E0, floor], axis=1)
