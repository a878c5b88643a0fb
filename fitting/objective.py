"""What a fit minimises: a sum over points of a penalty of the residual. Pure functions.

| kind | residual r | penalty | when |
|---|---|---|---|
| huber-log | ln L - ln Lhat | r^2/2 within delta, delta (abs r - delta/2) beyond | the default |
| squares-log | ln L - ln Lhat | r^2/2 | clean runs, narrower intervals |
| squares-raw | L - Lhat | r^2/2 | to agree with a peer that fits raw losses |
| huber-raw | L - Lhat | Huber, as above | likewise |
| lad-log | ln L - ln Lhat | abs r | Besiroglu et al.'s printed constants |
| one-sided-log | ln L - ln Lhat | Huber, over `asymmetry` where L > Lhat | under-tuned runs |

(An under-tuned run can only be worse than the law, so it should pull the law less.)

Always the *sum* over points (times weights), never the mean: a mean makes the gradient of 240
points so small that common tolerances stop at the start (the bug behind Hoffmann's constants).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from fitting.errors import FittingError
from fitting.links import Floats

ObjectiveKind = Literal[
    "huber-log", "squares-log", "squares-raw", "huber-raw", "lad-log", "one-sided-log"
]
KINDS: tuple[str, ...] = get_args(ObjectiveKind)

# Least absolute deviations are minimised as Huber with this delta, and reported as what they are.
LAD_DELTA = 1e-7


@dataclass(frozen=True)
class Objective:
    """kind: see the table above. delta: Huber's, in the residual's unit (1e-3 of log loss is what
    Hoffmann et al. used). asymmetry: how many times more an overestimate of the loss costs."""

    kind: ObjectiveKind = "huber-log"
    delta: float = 1e-3
    asymmetry: float = 10.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FittingError(
                "bad_option", f"Objective {self.kind!r} is not known.", f"Use: {', '.join(KINDS)}."
            )
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise FittingError("bad_option", f"delta is {self.delta}.", "It must be positive.")
        if not (np.isfinite(self.asymmetry) and self.asymmetry >= 1):
            raise FittingError("bad_option", f"asymmetry is {self.asymmetry}.", "At least 1.")

    @property
    def raw(self) -> bool:
        """True where the residual is of the loss itself, not of its logarithm."""
        return self.kind.endswith("-raw")

    @property
    def solver_delta(self) -> float:
        """The Huber width that the solver works with; infinite for squares."""
        if self.kind.startswith("squares"):
            return float("inf")
        return LAD_DELTA if self.kind == "lad-log" else self.delta

    @property
    def above(self) -> float:
        """The factor on the penalty of points that lie above the law."""
        return 1.0 / self.asymmetry if self.kind == "one-sided-log" else 1.0

    def value(self, loss: Floats, predicted: Floats, weights: Floats | None = None) -> Floats:
        """The objective [...] for losses [points] and predictions [..., points]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            r = loss - predicted if self.raw else np.log(loss) - np.log(predicted)
        each = np.abs(r) if self.kind == "lad-log" else penalty(r, self.solver_delta)
        if self.above != 1.0:
            each = np.where(r > 0, each * self.above, each)
        return np.asarray((each if weights is None else each * weights).sum(axis=-1))


def penalty(residual: Floats, delta: float) -> Floats:
    """Huber's penalty, elementwise; r^2/2 for an infinite delta."""
    if np.isinf(delta):
        return np.asarray(0.5 * residual * residual)
    clipped = np.clip(residual, -delta, delta)
    return np.asarray(clipped * (residual - 0.5 * clipped))
