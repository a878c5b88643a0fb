"""What others do on the same data: their methods as published, each timed on a seeded part.

Each answers with CPU seconds for the whole, the lowest objective it saw, and what was timed. The
objective is always the sum over points of Huber(1e-3) of the log residual.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import minimize

from fitting import Runs

DELTA = 1e-3
HOFFMANN = np.array([np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28])


@dataclass(frozen=True)
class Timed:
    """seconds: of CPU, for the whole; objective: lowest seen; values: of each part that was run."""

    name: str
    seconds: float
    objective: float
    part: str
    values: tuple[float, ...] = ()


def cpu() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    mine, theirs = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def objective_of(runs: Runs, xp: Any = np) -> Callable[[Any], Any]:
    """f(a, b, e, alpha, beta) as Besiroglu et al. write it: a mere function of the raw logs."""
    logs = [np.log(runs.inputs["N"]), np.log(runs.inputs["D"])]
    target = np.log(runs.loss)

    def f(theta: Any) -> Any:
        a, b, e, alpha, beta = theta
        s = xp.exp(a - alpha * logs[0]) + xp.exp(b - beta * logs[1]) + xp.exp(e)
        r = target - xp.log(s)
        size = xp.abs(r)
        each = xp.where(size <= DELTA, 0.5 * r**2, DELTA * (size - 0.5 * DELTA))
        return xp.sum(each)

    return f


def _each(work: Callable[[Any], float], parts: list[Any], whole: int) -> tuple[float, list[float]]:
    started = time.process_time()
    with np.errstate(all="ignore"):
        found = [work(part) for part in parts]
    return (time.process_time() - started) * whole / len(parts), [float(x) for x in found]


def epoch_grid(runs: Runs, starts: int) -> Timed:
    """Besiroglu et al.'s 4,500 starts of L-BFGS-B with finite differences."""
    f = objective_of(runs)
    logs = (0, 5, 10, 15, 20, 25)
    grid = list(product(logs, logs, (-1, -0.5, 0, 0.5, 1), *[(0, 0.5, 1, 1.5, 2)] * 2))
    chosen = np.random.default_rng(0).choice(len(grid), starts, replace=False)
    seconds, found = _each(
        lambda s: minimize(f, s, method="L-BFGS-B").fun, [grid[i] for i in chosen], len(grid)
    )
    return Timed(
        f"Epoch's grid: {len(grid)} L-BFGS-B", seconds, np.nanmin(found), f"{starts} starts"
    )


def scipy_starts(runs: Runs, starts: int = 10) -> Timed:
    """A plain multi-start of SciPy's BFGS."""
    f = objective_of(runs)
    rng = np.random.default_rng(1)
    box = np.array([[2, 10], [2, 12], [-0.5, 1], [0.1, 0.8], [0.1, 0.8]])
    wide = list(box[:, 0] + (box[:, 1] - box[:, 0]) * rng.random((starts, 5)))
    seconds, found = _each(lambda s: minimize(f, s, method="BFGS").fun, wide, 100)
    return Timed("SciPy BFGS, 100 random starts", seconds, np.nanmin(found), f"{starts} starts")


def chinchilla_package(runs: Runs) -> Timed | None:
    """PyPI `chinchilla` on the grid of its README (3,125 starts), if it can be imported."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from chinchilla import Chinchilla
        from chinchilla._metrics import log_huber
    except ImportError:
        return None
    ends = {"E": (1, 2), "a": (1, 10), "b": (1, 10), "alpha": (0.1, 0.7), "beta": (0.1, 0.7)}
    with tempfile.TemporaryDirectory() as folder:
        peer = Chinchilla(
            folder,
            param_grid={k: list(v) for k, v in ends.items()},
            loss_fn=lambda y, p: log_huber(y, p, DELTA),
            log_level=50,
        )
        for n, d, loss in zip(runs.inputs["N"], runs.inputs["D"], runs.loss, strict=True):
            peer.append(C=6 * n * d, N=n, D=d, loss=loss)
        peer.visualizer.optim = lambda *a, **k: None  # no pictures in the time
        started = cpu()
        with np.errstate(all="ignore"):
            peer.fit(parallel=False)
        seconds = cpu() - started
    theta = [np.log(peer.A), np.log(peer.B), np.log(peer.E), peer.alpha, peer.beta]
    value = float(objective_of(runs)(np.array(theta, dtype=float)))
    return Timed(
        "chinchilla (PyPI), README grid of 3125", seconds * 3125 / 32, value, "its 32 corners"
    )


def bootstrap_loop(
    runs: Runs, counts: np.ndarray, start: np.ndarray, draws: int, autograd: bool
) -> Timed | None:
    """BFGS on each of the first resamples in turn, with autograd's gradient or differences."""
    xp: Any = np
    if autograd:
        try:
            import autograd.numpy as xp
            from autograd import grad
        except ImportError:
            return None

    def one(b: int) -> float:
        keep = np.repeat(np.arange(len(runs)), counts[b].astype(int))
        sample = Runs({k: v[keep] for k, v in runs.inputs.items()}, runs.loss[keep])
        f = objective_of(sample, xp)
        return float(minimize(f, start, method="BFGS", jac=grad(f) if autograd else None).fun)

    seconds, found = _each(one, list(range(draws)), len(counts))
    name = "Epoch's loop: BFGS with autograd" if autograd else "SciPy BFGS, warm"
    return Timed(name, seconds, float("nan"), f"{draws} draws", tuple(found))
