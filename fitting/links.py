"""Links: how a parameter's range is laid on the line on which the solver steps.

`LOG` keeps a parameter positive and makes a coefficient such as A = 478 a number of order one.
`bounded(lo, hi)` leaves the value as it is and gives the solver a wall: steps are projected on it,
and a parameter that ends there is *reported* as being at its bound. (A logistic map would hide
that: it flattens towards the wall, and a fit that ran away looks converged.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Link:
    """lower, upper: the range of the parameter itself. log: the solver steps in its logarithm."""

    name: str
    lower: float
    upper: float
    log: bool = False

    def to_line(self, value: ArrayLike) -> Floats:
        """Parameter -> solver coordinate, elementwise; NaN outside the range of a log link."""
        x = np.asarray(value, dtype=float)
        if not self.log:
            return x
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(x))

    def from_line(self, coordinate: ArrayLike) -> Floats:
        """Solver coordinate -> parameter, elementwise."""
        x = np.asarray(coordinate, dtype=float)
        return np.asarray(np.exp(x)) if self.log else x

    @property
    def walls(self) -> tuple[float, float]:
        """The range on the solver's line, for projection."""
        if not self.log:
            return self.lower, self.upper
        low = -np.inf if self.lower <= 0 else float(np.log(self.lower))
        return low, (np.inf if np.isinf(self.upper) else float(np.log(self.upper)))


IDENTITY = Link("identity", -np.inf, np.inf)
LOG = Link("log", 0.0, np.inf, log=True)


def bounded(lower: float, upper: float, *, log: bool = False) -> Link:
    """A parameter that must stay within [lower, upper]; `log` for one that spans decades."""
    if not lower < upper:
        raise ValueError(f"bounded({lower}, {upper}): the lower bound must be below the upper one")
    if log and lower <= 0:
        raise ValueError(f"bounded({lower}, {upper}, log=True) needs a positive lower bound")
    return Link("bounded", float(lower), float(upper), log)
