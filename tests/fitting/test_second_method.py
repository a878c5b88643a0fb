"""Every law under Huber's penalty, and the laws with two breaks under squares: SciPy agrees.

(The files of `laws/` hold the other laws to SciPy under squares.)
"""

import numpy as np
import pytest

from fitting import LAWS, Law, Objective, Runs, get_law
from fitting.engine import Engine
from tests.fitting.second_method import agrees_with_scipy, scipy_least_squares
from tests.fitting.test_every_law import truth

# Of the size of the noise: half of the points lie outside the zone of squares.
DELTA = 2e-3


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_huber(law: Law) -> None:
    agrees_with_scipy(law, truth(law), delta=DELTA)


def test_squares_with_two_breaks() -> None:
    agrees_with_scipy(LAWS["broken_2"], truth(LAWS["broken_2"]))


@pytest.mark.parametrize("seed", [2, 19, 26, 41, 62, 83])
def test_nine_poor_points_end_at_an_optimum(seed: int) -> None:
    """Three sizes, three budgets, losses that hardly know of them: the optimum lies far along a
    valley, often at a wall, and is reached all the same. SciPy, from there, finds nothing lower."""
    rng = np.random.default_rng(seed)
    n = np.repeat(np.array([1.3e4, 3e4, 9e4]) * rng.uniform(0.7, 1.4, 3), 3)
    d = np.tile([1e10, 2e10, 4e10], 3) / (6 * n)
    loss = (
        3.2
        - 0.1 * np.log(d / 1e4) * rng.uniform(0, 2)
        - 0.05 * np.log(n / 1e4) * rng.uniform(-1, 2)
    )
    runs = Runs(
        inputs={"N": n, "D": d}, loss=loss * np.exp(rng.normal(0, [0.002, 0.02, 0.1][seed % 3], 9))
    )
    law = get_law("chinchilla")
    found = Engine.of(law, runs, Objective()).cold()
    assert found.converged
    there = dict(zip((p.name for p in law.params), found.values, strict=True))
    objective, _ = scipy_least_squares(law, runs, [there], Objective().delta)
    assert found.objective <= objective * (1 + 1e-6)
