"""The paper's own fit: both floors from the sets' laws, then a straight line in the logarithms.

log(y - E_1) = log K + kappa log(x - E_0), least squares, no weights, no error in x
(`utils_plotting.fit_power_law` of the authors' notebooks).
"""

from dataclasses import dataclass

import numpy as np

from fitting.links import Floats
from fitting.loss_to_loss.methods.estimator import Answer, Options, Shift, above_floors, shift_of
from fitting.loss_to_loss.pairs import Pairs

FLOOR_LAW = "kaplan_floor"


@dataclass(kw_only=True)
class PaperOls(Answer):
    pairs: Pairs
    shifts: tuple[Shift, Shift]

    def resampled(self, weights: Floats) -> Floats:
        E0, E1 = (shift.resampled(weights) for shift in self.shifts)
        paired = self.pairs.paired
        return straight_line(self.pairs.x[paired], self.pairs.y[paired], E0, E1, weights[:, paired])


def prepare(pairs: Pairs, options: Options) -> PaperOls:
    law = options.floor_law or FLOOR_LAW
    (zero, w0), (one, w1) = (
        shift_of(pairs, place, given, law) for place, given in enumerate((options.E0, options.E1))
    )
    used, dropped = above_floors(pairs, zero.value, one.value)
    best = straight_line(
        pairs.x[used], pairs.y[used], np.array([zero.value]), np.array([one.value]),
        np.ones((1, int(used.sum()))),
    )[0]  # fmt: skip
    return PaperOls(
        best=best,
        floors={"E0": zero.how, "E1": one.how},
        certificate={"closed_form": 1.0},
        warnings=[*w0, *w1, *dropped],
        pairs=pairs,
        shifts=(zero, one),
    )


def straight_line(x: Floats, y: Floats, E0: Floats, E1: Floats, weights: Floats) -> Floats:
    """[lanes, 4] for x, y [points], floors [lanes], weights [lanes, points].

    Points at or below a floor of their lane have no logarithm and leave that lane.
    """
    u, v, w = logarithms(x, y, E0, E1, weights)
    total = np.maximum(w.sum(axis=1), 1e-300)
    um, vm = (w * u).sum(axis=1) / total, (w * v).sum(axis=1) / total
    du, dv = u - um[:, None], v - vm[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = (w * du * dv).sum(axis=1) / (w * du * du).sum(axis=1)
    return np.stack([kappa, np.exp(vm - kappa * um), E0, E1], axis=1)


def logarithms(
    x: Floats, y: Floats, E0: Floats, E1: Floats, weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """log(x - E0), log(y - E1) and weights, [lanes, points]; weight 0 where there is none."""
    gx, gy = x - E0[:, None], y - E1[:, None]
    good = (gx > 0) & (gy > 0)
    u, v = np.log(np.where(good, gx, 1.0)), np.log(np.where(good, gy, 1.0))
    return u, v, np.where(good, weights, 0.0)
