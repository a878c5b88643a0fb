"""Learning-rate sensitivity (Wortsman et al. 2023, arXiv 2309.14322), per model size.

The mean over a log-uniform grid of peak rates of min(loss, loss at initialisation) - best loss: how
much a wrong rate costs. Sizes are compared on the same grid only.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fitting.errors import FittingError


@dataclass(frozen=True)
class Sensitivity:
    """value in the loss's unit; best_lr and best_loss of the grid; edge: the best is at its end, so
    the true best may lie outside; span: decades of the grid."""

    value: float
    best_lr: float
    best_loss: float
    edge: bool
    span: float
    n_rates: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def lr_sensitivity(
    peak_lr: ArrayLike, loss: ArrayLike, initial_loss: float | None = None
) -> Sensitivity:
    """peak_lr [n], final loss [n] (not finite where the run diverged; then initial_loss counts)."""
    rates = np.asarray(peak_lr, dtype=float)
    losses = np.asarray(loss, dtype=float)
    if rates.ndim != 1 or rates.shape != losses.shape or rates.size < 3:
        raise FittingError(
            "too_few_points", f"{rates.size} rates and {losses.size} losses.", "At least three."
        )
    if (rates <= 0).any() or np.unique(rates).size != rates.size:
        raise FittingError("bad_value", "Rates must be positive and distinct.", "One run a rate.")
    if not np.isfinite(losses).any():
        raise FittingError("bad_value", "Every run diverged.", "Add lower rates.")
    if not np.isfinite(losses).all():
        if initial_loss is None:
            raise FittingError(
                "missing_input", "A run diverged.", "Give initial_loss: what it counts as."
            )
        losses = np.where(np.isfinite(losses), losses, initial_loss)
    if initial_loss is not None:
        losses = np.minimum(losses, initial_loss)
    best = int(np.argmin(losses))
    return Sensitivity(
        float(np.mean(losses - losses[best])), float(rates[best]), float(losses[best]),
        bool(rates[best] in (rates.min(), rates.max())),
        float(np.log10(rates.max() / rates.min())), int(rates.size),
    )  # fmt: skip
