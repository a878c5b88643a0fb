"""A third domain's loss as a combination of the two: L_ood = a L_general + b L_domain + c.

The paper (its equation 6) has no constant; on a third domain unlike both that missed by .10 to .14
nats, and by .01 to .02 with one. Always with the constant, and the residual beside it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fitting.errors import FittingError
from fitting.links import Floats


@dataclass(frozen=True)
class OutOfDomain:
    """a, b, c; draws [draws, 3] over runs; residual: standard deviation of the losses about it."""

    a: float
    b: float
    c: float
    draws: Floats
    residual: float
    n_points: int

    def predict(
        self, general: ArrayLike, domain: ArrayLike, level: float = 0.9
    ) -> tuple[Floats, Floats, Floats]:
        """Value, lower, upper for the two losses: [n] each."""
        from scipy.special import ndtri

        x, y = np.atleast_1d(np.asarray(general, float)), np.atleast_1d(np.asarray(domain, float))
        value = self.a * x + self.b * y + self.c
        tail = 0.5 - 0.5 * level
        sample = self.draws @ np.stack([x, y, np.ones_like(x)])
        low, high = np.quantile(sample, [tail, 1 - tail], axis=0)
        other = float(ndtri(1 - tail)) * self.residual
        below, above = np.maximum(value - low, 0), np.maximum(high - value, 0)
        return value, value - np.hypot(below, other), value + np.hypot(above, other)

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "draws"}


def fit_out_of_domain(
    general: ArrayLike,
    domain: ArrayLike,
    loss: ArrayLike,
    run: ArrayLike,
    draws: int = 200,
    seed: int = 0,
) -> OutOfDomain:
    """Least squares over points [n] of the three losses; resamples whole runs (labels [n])."""
    x, y, z = (np.asarray(v, dtype=float) for v in (general, domain, loss))
    labels = np.unique(np.asarray(run), return_inverse=True)[1]
    if not x.shape == y.shape == z.shape == labels.shape or z.size < 4:
        raise FittingError(
            "too_few_points", f"{z.size} points of three losses.", "Give four or more, in step."
        )
    design = np.stack([x, y, np.ones_like(x)], axis=1)

    def solve(w: Floats) -> Floats:
        root = np.sqrt(w)
        return np.asarray(np.linalg.lstsq(design * root[:, None], z * root, rcond=1e-10)[0])

    best = solve(np.ones(z.size))
    rng = np.random.default_rng([seed, 47])
    weights = rng.exponential(size=(draws, int(labels.max()) + 1))[:, labels]
    sample = np.array([solve(w) for w in weights]).reshape(-1, 3)
    left = z - design @ best
    residual = float(np.sqrt((left**2).sum() / max(z.size - 3, 1)))
    a, b, c = (float(v) for v in best)
    return OutOfDomain(a, b, c, sample, residual, int(z.size))
