"""Li et al. 2025, "Functional Scaling Laws", the ansatz for language models at fixed size.

L = L0 + c1 T^-s - sum_k (eta_(k-1) - eta_k) (b0 + b1 T_k^-s) [1 - (1 + c4 (T - T_k))^-g]

T is the intrinsic time (the sum of the rates; S1 elsewhere). Annealing pays less the later it
comes: the weight of a drop fades with the time T_k at which it happens. This form follows a public
reimplementation of the paper's appendix, not the authors' own code. b1 = c2, b0 = c2 c3 there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.curves import annealing, multi_power
from fitting.curves.features import area, sources
from fitting.curves.law import CurveLaw, Features
from fitting.curves.schedule import Schedule
from fitting.law import Param, Prior
from fitting.links import LOG, Floats, bounded


def features(
    schedule: Schedule, steps: NDArray[np.int64], size: float | None, options: Mapping[str, Any]
) -> Features:
    """ln S1 after each step, and each source's drop, ln S1 at it, and S1 since it [n, sources]."""
    s1 = np.maximum(area(schedule.rates())[steps - 1], 1e-12 * schedule.peak_lr)
    found = sources(schedule, options.get("sources", multi_power.SOURCES))
    # T^-s has no end at T = 0: a rise during the warm-up weighs as one at its end
    warm = float(schedule.rates()[: schedule.warmup_steps + 1].sum())
    return {
        "log_s1": np.log(s1),
        "drop": found.drop,
        "log_at": np.log(np.maximum(found.before + found.rate, warm)),
        "since": np.maximum(s1[:, None] - found.before, 0.0),
    }


def formula(values: Floats, found: Features) -> tuple[Floats, Floats]:
    """values [B, (L0, c1, s, b0, b1, c4, g)]."""
    lanes, n = len(values), found["log_s1"].size
    loss, slopes = np.empty((lanes, n)), np.empty((lanes, 7, n))
    k = max(found["drop"].size, 1)
    rows = max(1, min(n, multi_power.BLOCK // k))
    step = max(1, multi_power.BLOCK // (k * rows))
    for b in range(0, lanes, step):
        for i in range(0, n, rows):
            at = (slice(b, b + step), slice(None), slice(i, i + rows))
            loss[b : b + step, i : i + rows], slopes[at] = _block(
                values[b : b + step],
                {
                    **found,
                    "log_s1": found["log_s1"][i : i + rows],
                    "since": found["since"][i : i + rows],
                },
            )
    return loss, slopes


def _block(values: Floats, found: Features) -> tuple[Floats, Floats]:
    l0, c1, s, b0, b1, c4, g = (values[:, j, None] for j in range(7))
    power = np.exp(-s * found["log_s1"])
    drop, log_at = found["drop"], found["log_at"]
    early = np.exp(-s * log_at) * drop
    late = np.broadcast_to(drop, early.shape)
    fade = -log_at * early
    weight = b0 * late + b1 * early
    z = c4[:, :, None] * found["since"]
    log = np.log1p(z)
    q = np.exp(-g[:, :, None] * log)

    def over(kernel: Floats, per_source: Floats) -> Floats:
        return np.asarray(np.matmul(kernel, per_source[:, :, None])[:, :, 0])

    def fallen(per_source: Floats) -> Floats:
        return np.asarray(per_source.sum(axis=1, keepdims=True) - over(q, per_source))

    dg = over(log * q, weight)
    dlog_c4 = g * over(z / (1.0 + z) * q, weight)
    by_b0, by_b1 = fallen(late), fallen(early)
    loss = l0 + c1 * power - b0 * by_b0 - b1 * by_b1
    slopes = np.stack(
        [
            np.ones_like(power),
            power,
            -c1 * power * found["log_s1"] - b1 * fallen(fade),
            -by_b0,
            -by_b1,
            -dlog_c4 / c4,
            -dg,
        ],
        axis=1,
    )
    return loss, slopes


LAW = CurveLaw(
    name="functional",
    title="Functional scaling law",
    latex=r"L = L_0 + c_1 T^{-s} - \sum_k (\eta_{k-1} - \eta_k)(b_0 + b_1 T_k^{-s}) "
    r"\left[1 - (1 + c_4 (T - T_k))^{-g}\right]",
    source="Li et al. 2025, arXiv 2509.19189, as reimplemented in public from its appendix",
    about="As the multi-power law, with drops that pay less the later they come.",
    params=(
        annealing.L0,
        Param("c1", "size of what intrinsic time removes", (0.1, 2.0), LOG),
        Param("s", "exponent of intrinsic time", (0.2, 0.8), bounded(0.01, 3.0)),
        Param("b0", "what a drop brings, however late", (1.0, 1000.0), bounded(0.0, 1e9)),
        Param("b1", "what an early drop brings more", (1.0, 1000.0), bounded(0.0, 1e9)),
        Param("c4", "speed at which it comes", (1.0, 100.0), LOG, Prior(np.log(30.0), 1.5)),
        Param("g", "exponent of that", (0.3, 2.0), bounded(0.02, 5.0), Prior(0.5, 0.3)),
    ),
    features=features,
    formula=formula,
    linear=("L0", "c1", "b0", "b1"),
    starts=tuple(
        {"s": s, "c4": c4, "g": g}
        for s in (0.3, 0.5, 0.8)
        for c4, g in ((1.0, 1.0), (5.0, 0.5), (20.0, 0.5), (100.0, 0.5))
    ),
    options={"sources": multi_power.SOURCES},
)
