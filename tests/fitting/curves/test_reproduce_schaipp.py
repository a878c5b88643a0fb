"""Schaipp et al. 2025, 124M on SlimPajama at peak 1e-3: forecasts of runs that no fit has seen."""

import numpy as np
import pytest

from fitting.curves import Curve, CurveFit, choose_law, fit_curves
from tests.fitting.curves.public import CONSTANT, SCHAIPP, need, schaipp, schaipp_horizon

# Three runs of at most 25k steps; the 30 others of the grid are predicted.
TRAIN_25K = (CONSTANT, "r139", "r050")  # constant until 25k, cosine to 0, linear 20 %
# Three runs of at most 15k steps; the 25 runs of 25k, 35k and 50k steps are predicted.
TRAIN_15K = (CONSTANT, "r049", "r081")  # constant until 12k, linear 20 %, linear 60 %


def errors(found: CurveFit, targets: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Signed error at each target's last measured point, and whether its interval holds it."""
    e, inside = [], []
    for curve in targets:
        p = found.predict(curve.schedule, curve.step[-1:])
        e.append(p.value[0] - curve.loss[-1])
        inside.append(p.lower[0] <= curve.loss[-1] <= p.upper[0])
    return np.array(e), np.array(inside)


@pytest.fixture(scope="module", autouse=True)
def _data() -> None:
    need("curves/lr_scheduling/curves.csv.gz")


def test_thirty_unseen_runs_from_three_of_25k_steps() -> None:
    pool = [schaipp(CONSTANT, 25_000), *(schaipp(name) for name in TRAIN_25K[1:])]
    targets = [schaipp(name) for name in SCHAIPP if name not in TRAIN_25K]
    assert len(targets) == 30
    e, inside = errors(fit_curves("annealing_ensemble", pool), targets)
    assert np.abs(e).mean() <= 0.009
    assert inside.mean() >= 0.8


def test_twenty_five_longer_runs_from_three_of_15k_steps() -> None:
    pool = [schaipp(CONSTANT, 12_000), *(schaipp(name) for name in TRAIN_15K[1:])]
    targets = [schaipp(name) for name in SCHAIPP if schaipp_horizon(name) >= 25_000]
    assert len(targets) == 25
    e, inside = errors(fit_curves("annealing_ensemble", pool), targets)
    assert np.abs(e).mean() <= 0.012
    assert inside.mean() >= 0.8
    chosen, scores = choose_law(pool)  # by held-out error inside the pool alone
    assert scores[chosen.law] == min(scores.values())
    e, inside = errors(chosen, targets)
    assert np.abs(e).mean() <= 0.010
    assert inside.mean() >= 0.8
