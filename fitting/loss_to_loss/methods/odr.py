"""Noise in both losses: a straight line in the logarithms with errors in u and v.

Least squares shrinks kappa by r^2 where x is noisy (-.04 at 2 % noise). York's iteration (York
1966, Can. J. Phys. 44:1079; in the form of York et al. 2004, Am. J. Phys. 72:367) is the maximum
likelihood line for known standard deviations of both coordinates: relative noise s of a loss x is
s x / (x - E) of its log(x - E), so runs near the floor count less.
"""

from dataclasses import dataclass

import numpy as np

from fitting.links import Floats
from fitting.loss_to_loss.methods.estimator import Answer, Options, Shift, above_floors, shift_of
from fitting.loss_to_loss.methods.paper_ols import logarithms, straight_line
from fitting.loss_to_loss.pairs import Pairs

FLOOR_LAW = "chinchilla"


@dataclass(kw_only=True)
class Odr(Answer):
    pairs: Pairs
    shifts: tuple[Shift, Shift]
    ratio: float = 1.0

    def resampled(self, weights: Floats) -> Floats:
        E0, E1 = (shift.resampled(weights) for shift in self.shifts)
        paired = self.pairs.paired
        return york(
            self.pairs.x[paired], self.pairs.y[paired], E0, E1, weights[:, paired], self.ratio
        )[0]


def prepare(pairs: Pairs, options: Options) -> Odr:
    law = options.floor_law or FLOOR_LAW
    (zero, w0), (one, w1) = (
        shift_of(pairs, place, given, law) for place, given in enumerate((options.E0, options.E1))
    )
    used, dropped = above_floors(pairs, zero.value, one.value)
    best, change = york(
        pairs.x[used], pairs.y[used], np.array([zero.value]), np.array([one.value]),
        np.ones((1, int(used.sum()))), options.noise_ratio,
    )  # fmt: skip
    return Odr(
        best=best[0],
        floors={"E0": zero.how, "E1": one.how},
        certificate={"last_change_of_kappa": float(change[0])},
        warnings=[*w0, *w1, *dropped],
        pairs=pairs,
        shifts=(zero, one),
        ratio=options.noise_ratio,
    )


def york(
    x: Floats, y: Floats, E0: Floats, E1: Floats, weights: Floats, ratio: float = 1.0
) -> tuple[Floats, Floats]:
    """[lanes, 4] and the last change of kappa [lanes]. ratio: noise of y over noise of x."""
    u, v, w = logarithms(x, y, E0, E1, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        su2 = np.where(w > 0, (x / (x - E0[:, None])) ** 2, 1.0)
        sv2 = np.where(w > 0, (ratio * y / (y - E1[:, None])) ** 2, 1.0)
    kappa = straight_line(x, y, E0, E1, weights)[:, 0]
    change = np.full(len(w), np.inf)
    centre = (np.zeros(len(w)), np.zeros(len(w)))
    for _ in range(200):
        b = kappa[:, None]
        W = w / (sv2 + b * b * su2)
        total = np.maximum(W.sum(axis=1), 1e-300)
        centre = ((W * u).sum(axis=1) / total, (W * v).sum(axis=1) / total)
        du, dv = u - centre[0][:, None], v - centre[1][:, None]
        beta = W / np.where(w > 0, w, 1.0) * (du * sv2 + b * dv * su2)
        with np.errstate(invalid="ignore", divide="ignore"):
            new = (W * beta * dv).sum(axis=1) / (W * beta * du).sum(axis=1)
        change = np.abs(new - kappa)
        kappa = new
        if not (change > 1e-13 * np.abs(kappa)).any():
            break
    K = np.exp(centre[1] - kappa * centre[0])
    return np.stack([kappa, K, E0, E1], axis=1), change
