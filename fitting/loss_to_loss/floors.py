"""The irreducible loss E of each set, from its own (N, D) law: the two shifts of a link.

E decides everything: moving E_1 by .1 nat moves kappa by .14 and the forecast at 20x by 3 %, with
the same R^2. So E is fitted again in every resample, never held fixed while the rest is drawn.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.engine import Engine
from fitting.errors import FittingError
from fitting.laws import get_law
from fitting.links import Floats
from fitting.objective import Objective
from fitting.runs import Runs

if TYPE_CHECKING:
    from fitting.loss_to_loss.pairs import Pairs

# A law of five parameters on fewer points is multi-modal: its floor is not worth having.
FEWEST_FOR_A_FLOOR = 8


@dataclass(frozen=True)
class Floor:
    """One set's own law, ready to be refitted under other weights. rows [cells]: its runs."""

    engine: Engine
    theta: Floats
    value: float
    rows: NDArray[np.bool_]

    @property
    def at_bound(self) -> str | None:
        """ "zero" or "the smallest loss" where E has run there; None where it has not."""
        low = float(self.engine.loss.min())
        if self.value < 1e-3 * low:
            return "zero"
        return "the smallest loss" if self.value > low * (1 - 1e-4) else None

    def resampled(self, weights: Floats) -> Floats:
        """E [lanes] for weights [lanes, cells]."""
        found = self.engine.warm(self.theta, weights[:, self.rows], tol=1e-8, most=60)
        place = self.engine.law.param_names.index("E")
        return np.asarray(self.engine.values(found.theta)[:, place])


def floor_of(pairs: "Pairs", place: int, law: str = "chinchilla") -> Floor:
    """The floor of set number `place` of the pairs."""
    rows = pairs.measured[:, place]
    if int(rows.sum()) < FEWEST_FOR_A_FLOOR:
        raise FittingError(
            "too_few_points",
            f"The set {pairs.names[place]} has {int(rows.sum())} runs; its own floor needs at "
            f"least {FEWEST_FOR_A_FLOOR}.",
            "Use the joint method, or give "
            + ("E0." if place == 0 else "E1, or leave it free (free_E1)."),
            points=int(rows.sum()),
        )
    runs = Runs({"N": pairs.N[rows], "D": pairs.D[rows]}, pairs.losses[rows, place])
    engine = Engine.of(get_law(law), runs, Objective())
    best = engine.cold()
    value = float(best.values[engine.law.param_names.index("E")])
    return Floor(engine, best.theta, value, rows)


def own_floor(pairs: "Pairs", place: int) -> float:
    """E of one set from its own law."""
    return floor_of(pairs, place).value
