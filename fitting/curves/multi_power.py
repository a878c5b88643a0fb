"""Luo et al. 2025, "A Multi-Power Law for Loss Curve Prediction", equations 2 to 4.

L(t) = L0 + A S1(t)^-alpha - B sum_k (eta_(k-1) - eta_k) G(eta_k^-gamma S_k(t)),
G(x) = 1 - (1 + C x)^-beta,   S_k(t) = sum of eta from step k to t

S1 counts the warm-up, and the warm-up's rises are (negative) drops, as in the authors' code. Good
for ranking schedules. With three curves its seven parameters over-fit (their own code stops early,
near C = 1 and beta = gamma = .5, and predicts better for it), so three of them carry priors.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.curves import annealing
from fitting.curves.features import Sources, area, sources
from fitting.curves.law import CurveLaw, Features
from fitting.curves.schedule import Schedule
from fitting.law import Param, Prior
from fitting.links import LOG, Floats, bounded

SOURCES = 64


def features(
    schedule: Schedule, steps: NDArray[np.int64], size: float | None, options: Mapping[str, Any]
) -> Features:
    """ln S1 after each step, and each source's drop, ln rate, and S1 since it [n, sources]."""
    s1 = np.maximum(area(schedule.rates())[steps - 1], 1e-12 * schedule.peak_lr)
    found: Sources = sources(schedule, options.get("sources", SOURCES))
    since = np.maximum(s1[:, None] - found.before, 0.0)
    return {
        "log_s1": np.log(s1),
        "drop": found.drop,
        "log_rate": np.log(found.rate),
        "since": since,
    }


# Lanes x points x sources that are worked on at once: temporaries that stay in the cache.
BLOCK = 60_000


def formula(values: Floats, found: Features) -> tuple[Floats, Floats]:
    """values [B, (L0, A, alpha, B, C, beta, gamma)]."""
    lanes, n = len(values), found["log_s1"].size
    loss, slopes = np.empty((lanes, n)), np.empty((lanes, 7, n))
    k = max(found["drop"].size, 1)
    rows = max(1, min(n, BLOCK // k))
    step = max(1, BLOCK // (k * rows))
    for b in range(0, lanes, step):
        for i in range(0, n, rows):
            some = {
                "log_s1": found["log_s1"][i : i + rows],
                "since": found["since"][i : i + rows],
                "drop": found["drop"],
                "log_rate": found["log_rate"],
            }
            at = (slice(b, b + step), slice(None), slice(i, i + rows))
            loss[b : b + step, i : i + rows], slopes[at] = _block(values[b : b + step], some)
    return loss, slopes


def _block(values: Floats, found: Features) -> tuple[Floats, Floats]:
    l0, a, alpha, b, c, beta, gamma = (values[:, j, None] for j in range(7))
    power = np.exp(-alpha * found["log_s1"])
    drop, log_rate = found["drop"], found["log_rate"]
    z = (c * np.exp(-gamma * log_rate))[:, None, :] * found["since"]
    log = np.log1p(z)
    q = np.exp(-beta[:, :, None] * log)
    fallen = drop.sum() - q @ drop
    # a source that has not happened yet has z = 0, so q = 1: it counts as nothing
    log *= q
    dbeta = log @ drop
    z /= 1.0 + z
    z *= q
    dlog_c = beta * (z @ drop)
    dgamma = -beta * (z @ (drop * log_rate))
    loss = l0 + a * power - b * fallen
    slopes = np.stack(
        [
            np.ones_like(power),
            power,
            -a * power * found["log_s1"],
            -fallen,
            -b * dlog_c / c,
            -b * dbeta,
            -b * dgamma,
        ],
        axis=1,
    )
    return loss, slopes


LAW = CurveLaw(
    name="multi_power",
    title="Multi-power law",
    latex=r"L(t) = L_0 + A\, S_1^{-\alpha} - B \sum_{k \le t} (\eta_{k-1} - \eta_k) "
    r"\left[1 - (1 + C\, \eta_k^{-\gamma} S_k(t))^{-\beta}\right]",
    source="Luo et al. 2025, arXiv 2503.12811, eq. 2-4; priors ours",
    about="Every drop of the learning rate brings its own power-law gain. Ranks schedules best; "
    "for levels prefer the ensemble.",
    params=(
        annealing.L0,
        annealing.A,
        annealing.ALPHA,
        Param("B", "size of what a drop of the rate brings", (50.0, 1000.0), LOG),
        Param("C", "speed at which it comes", (0.5, 4.0), LOG, Prior(np.log(2.0), 1.0)),
        Param("beta", "exponent of that", (0.3, 0.9), bounded(0.02, 3.0), Prior(0.6, 0.2)),
        Param(
            "gamma", "how it depends on the rate", (0.3, 0.9), bounded(-0.5, 2.0), Prior(0.6, 0.2)
        ),
    ),
    features=features,
    formula=formula,
    linear=("L0", "A", "B"),
    starts=tuple(
        {"alpha": alpha, "C": c, "beta": beta, "gamma": gamma}
        for alpha in (0.3, 0.5, 0.8)
        for c, beta, gamma in ((1.0, 0.5, 0.5), (2.0, 0.6, 0.6), (0.5, 0.4, 0.7), (4.0, 0.6, 0.3))
    ),
    options={"sources": SOURCES},
)
