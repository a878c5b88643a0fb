"""What the law says with a floor, where the runs show none.

A loss of real data levels off somewhere: text has an entropy. Where a fit finds no floor, or many
resamples find none, that is not knowledge of where, and draws that pile up at zero are no interval:
a law with a floor below what was reached predicts more beyond the data. So the best law with a
floor at a fixed share of the smallest loss stands beside the fit, and predictions reach up to it.
It adapts by itself: where size or data have a small exponent, which does a floor's work over the
data, the two laws hardly differ; where they part, the runs did not decide between them.
"""

from dataclasses import replace

import numpy as np

from fitting.engine import Engine
from fitting.intervals import CALIBRATION_POINTS, DEAR_POINTS
from fitting.links import Floats

# The floor that is tried, as a share of the smallest loss. Chosen on simulated truths only, by
# tests/benchmarks/calibrate.py --floor; see docs/decisions/0100-*.
FLOOR_SHARE = 0.7

# A floor below this share of the smallest loss has vanished.
VANISHED = 1e-3

# The floor is open where so many of the draws have none: as the ends of a 90% interval are.
OPEN = 0.05


def floor_is_open(engine: Engine, draws: Floats) -> bool:
    """Whether these runs leave it open if there is a floor at all. draws: [draws, p]."""
    name = engine.law.powers.floor if engine.law.powers else None
    if name is None or not len(draws):
        return False
    floor = draws[:, engine.law.param_names.index(name)]
    return bool((floor < VANISHED * float(engine.loss.min())).mean() >= OPEN)


def with_floor(
    engine: Engine, draws: Floats, seed: int = 0, share: float = FLOOR_SHARE
) -> Floats | None:
    """Parameters [p] of the best law whose floor is `share` of the smallest loss; None where the
    floor is not open, or no such law was found."""
    powers = engine.law.powers
    if powers is None or powers.floor is None or not floor_is_open(engine, draws):
        return None
    lowest = float(engine.loss.min())
    most = CALIBRATION_POINTS if engine.where is not None else DEAR_POINTS
    if engine.loss.size > most:  # it asks about the form, not about noise
        rng = np.random.default_rng([seed, 37])
        engine = engine.subset(np.sort(rng.choice(engine.loss.size, most, replace=False)))
    if engine.where is not None:
        place, at = len(powers.terms), float(np.log(share * lowest))
    else:
        place = engine.law.param_names.index(powers.floor)
        at = float(engine.law.params[place].link.to_line(np.array(share * lowest)))
    lower, upper = engine.lower.copy(), engine.upper.copy()
    lower[place] = upper[place] = at
    found = replace(engine, lower=lower, upper=upper).cold(seed=seed)
    return found.values if np.isfinite(found.objective) else None
