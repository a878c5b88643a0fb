"""Every resample at its own optimum, also where the noise is far wider than Huber's delta.

Second method: SciPy's BFGS with the analytic gradient, from the same start, on the same draw.
"""

import numpy as np
from scipy.optimize import minimize

from fitting import Objective, Runs, get_law
from fitting.engine import Engine
from fitting.intervals import resample_counts

LAW = get_law("chinchilla")
DELTA = 1e-3


def noisy_runs() -> Runs:
    """15 runs of five sizes, with 1% of noise: ten times the width of the Huber objective."""
    rng = np.random.default_rng(7)
    n = np.repeat(np.geomspace(3e4, 3e5, 5), 3)
    d = np.tile(np.geomspace(7e5, 3e6, 3), 5) * np.repeat(np.geomspace(1.2, 0.8, 5), 3)
    loss = 0.9 + 60 * n**-0.45 + 1000 * d**-0.5
    return Runs(inputs={"N": n, "D": d}, loss=loss * np.exp(0.01 * rng.standard_normal(15)))


def bfgs(runs: Runs, weights: np.ndarray, start: np.ndarray) -> float:
    """Objective that SciPy reaches in (ln A, ln B, ln E, alpha, beta), inputs centred."""
    x, y = (np.log(runs.inputs[k]) - np.log(runs.inputs[k]).mean() for k in ("N", "D"))

    def value(p: np.ndarray) -> tuple[float, np.ndarray]:
        u, v, e = np.exp(p[0] - p[3] * x), np.exp(p[1] - p[4] * y), np.exp(p[2])
        r = np.log(runs.loss) - np.log(u + v + e)
        pull = -weights * np.clip(r, -DELTA, DELTA) / (u + v + e)
        inside = np.abs(r) <= DELTA
        each = np.where(inside, r * r / 2, DELTA * (np.abs(r) - DELTA / 2))
        slopes = (u, v, np.full_like(u, e), -u * x, -v * y)
        gradient = np.array([(pull * s).sum() for s in slopes])
        return 1e6 * float((weights * each).sum()), 1e6 * gradient

    with np.errstate(over="ignore", invalid="ignore"):
        return 1e-6 * float(minimize(value, start, jac=True, method="BFGS").fun)


def test_no_resample_ends_visibly_above_bfgs() -> None:
    runs = noisy_runs()
    engine = Engine.of(LAW, runs, Objective("huber-log", delta=DELTA))
    best = engine.cold(seed=0)
    weights = resample_counts(engine.group, 60, np.random.default_rng(3))
    found = engine.warm(best.theta, weights, persist=True)
    E, A, B, alpha, beta = (
        best.values[LAW.param_names.index(k)] for k in ("E", "A", "B", "alpha", "beta")
    )
    centre = {k: np.log(runs.inputs[k]).mean() for k in ("N", "D")}
    start = np.array(
        [np.log(A) - alpha * centre["N"], np.log(B) - beta * centre["D"], np.log(E), alpha, beta]
    )
    peer = np.array([bfgs(runs, w, start) for w in weights])
    # one of the 60 stops 2e-5 above BFGS, on the floor of a valley; the others agree
    assert (found.f / peer).max() < 1 + 1e-4
    assert (found.f < peer * (1 + 1e-6)).sum() >= 59
    # and without the second try more of them are lost
    once = engine.warm(best.theta, weights)
    assert found.converged.sum() > once.converged.sum()
    assert (found.f <= once.f * (1 + 1e-12)).all()
