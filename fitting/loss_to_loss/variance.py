"""What a link's interval is made of: floors, the rest of the link, source law, noise, drift.

Variances of the log target loss. The floors' part is what a linear regression of the draws'
forecasts on their (E0, E1) explains, the link's part is what is left: kappa and K move with the
floors, so a split that held one fixed while drawing the other would count them twice.
"""

from dataclasses import dataclass

import numpy as np

from fitting.intervals import Calibration
from fitting.links import Floats
from fitting.loss_to_loss.formula import at

PARTS = ("E", "link", "source_law", "noise", "drift")


@dataclass(frozen=True)
class VarianceSplit:
    """Variances of log target loss, each [points]."""

    E: Floats
    link: Floats
    source_law: Floats
    noise: Floats
    drift: Floats

    def at(self, point: int) -> dict[str, float]:
        """{part: variance} of one point."""
        return {name: float(getattr(self, name)[point]) for name in PARTS}

    def shares(self) -> dict[str, Floats]:
        """{part: share of the whole}, each [points]."""
        total = sum((getattr(self, name) for name in PARTS), np.zeros_like(self.E))
        return {name: np.asarray(getattr(self, name) / total) for name in PARTS}


def split(
    draws: Floats,
    x: Floats,
    value: Floats,
    calibration: Calibration,
    decades: Floats,
    source_sd: Floats,
) -> VarianceSplit:
    """The split at source losses x [points]; source_sd [points]: of log y, from the source law."""
    floors, rest = np.zeros_like(x), np.zeros_like(x)
    if len(draws) > 4:
        with np.errstate(all="ignore"):
            spread = np.log(at(draws, x)) - np.log(value)
        design = np.column_stack([np.ones(len(draws)), draws[:, 2:4] - draws[:, 2:4].mean(axis=0)])
        for i in range(x.size):
            good = np.isfinite(spread[:, i])
            if good.sum() < 5:
                continue
            column = spread[good, i]
            fitted = design[good] @ np.linalg.lstsq(design[good], column, rcond=None)[0]
            floors[i], rest[i] = fitted.var(), (column - fitted).var()
    noise = np.full_like(x, calibration.noise**2)
    return VarianceSplit(
        floors, rest, np.asarray(source_sd) ** 2, noise, (calibration.drift * decades) ** 2
    )
