"""Priors: a parameter that the data leave open is held near where others have found it.

A prior standard deviation costs what one point does that misses the law by WEIGHT in log loss,
under squares: 0.5 (WEIGHT z)^2, z = (line - mean) / sd, added to the *sum* over points, so that
more points outweigh it. Resamples keep it as it is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fitting.law import Law
from fitting.links import Floats
from fitting.newton import Lanes

# In units of log loss: a guess.
WEIGHT = 1e-2


def quadratic(law: Law, slope: Floats, scale: float = 1.0) -> tuple[Floats, Floats, float] | None:
    """The priors' sum as 0.5 theta' Q theta - q' theta + c: (Q, q, c); None where no parameter has
    one. slope [p, p]: the law's line is slope @ theta. scale: of the residuals, 1 for log loss."""
    if all(p.prior is None for p in law.params):
        return None
    Q, q, c = np.zeros_like(slope), np.zeros(len(slope)), 0.0
    for j, p in enumerate(law.params):
        if p.prior is not None:
            weight = (WEIGHT * scale / p.prior.sd) ** 2
            Q += weight * np.outer(slope[j], slope[j])
            q += weight * p.prior.mean * slope[j]
            c += 0.5 * weight * p.prior.mean**2
    return Q, q, c


@dataclass(frozen=True)
class WithPrior:
    """A problem with a quadratic added to what each lane sums."""

    inner: Any
    Q: Floats
    q: Floats
    c: float

    @property
    def size(self) -> int:
        return int(self.inner.size)

    @property
    def points(self) -> int:
        return int(self.inner.points)

    @property
    def scales(self) -> tuple[int, ...]:
        return ()  # the prior is quadratic in the logarithm, not in the factor

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        f, g, h = self.inner.evaluate(theta, weights, index)
        pull = theta @ self.Q
        f = f + 0.5 * np.einsum("bi,bi->b", pull, theta) - theta @ self.q + self.c
        return f, g + pull - self.q, h + self.Q

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return np.asarray(self.inner.metric(theta, weights) + self.Q)
