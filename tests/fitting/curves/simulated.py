"""Continual pre-training runs with known truth: the coefficients that Wang et al. (2025) print."""

import numpy as np

from fitting.curves import Schedule
from fitting.curves.continual import ContinualCurve, convex, features_of

# 106M, validation on FineWeb (general) and Knowledge-Pile (domain): L0, A, alpha, B, E, beta, C1,
# C2 (their Table, equation 4, lambda .999).
PRINTED = {
    "general": (3.057, 0.490, 0.497, 0.366, 28.0, 0.189, 0.299, 0.298),
    "domain": (3.024, 0.412, 0.677, -0.666, 5662.0, 0.146, 0.278, 0.324),
}
LAMBDA = 0.999
PEAK = 2e-4


def true_loss(
    which: str,
    before: Schedule | None,
    schedule: Schedule,
    steps: np.ndarray,
    replay_ratio: float = 0.0,
    curvature: float = 4.0,
) -> np.ndarray:
    """Equation 4 as printed, and the convex replay factor where there is replay."""
    l0, a, alpha, b, e, beta, c1, c2 = PRINTED[which]
    f = features_of(schedule, before, steps, LAMBDA, "reset", 1.0 - replay_ratio)
    shift = b * (1 - (1 + e * f["s1"]) ** -beta)
    g = convex(f["new_share"], np.array(curvature if which == "general" else -curvature))[0]
    s1 = np.exp(f["log_s1"])
    return l0 + a * s1**-alpha - c1 * f["s2_before"] - c2 * f["s2"] + shift * g


def constant(steps: int) -> Schedule:
    return Schedule.constant(steps, PEAK, 500)


def runs(which: str, noise: float = 0.0, seed: int = 0) -> list[ContinualCurve]:
    """Two pre-training runs and six continual ones, 8,000 and 4,000 steps."""
    rng = np.random.default_rng(seed)
    annealed = Schedule.wsd(8_000, PEAK, 500, 2_000, "linear")
    cpt = 4_000
    plan = {
        "pt constant": (None, constant(8_000), 0.0),
        "pt wsd": (None, annealed, 0.0),
        "from 4k, constant": (constant(4_000), Schedule.constant(cpt, PEAK), 0.0),
        "from 8k, constant": (constant(8_000), Schedule.constant(cpt, PEAK), 0.0),
        "from 8k, cosine": (constant(8_000), Schedule.cosine(cpt, PEAK, 0, 0.1), 0.0),
        "annealed, wsd": (annealed, Schedule.wsd(cpt, PEAK, 200, 1_000, "linear"), 0.0),
        "annealed, half peak": (annealed, Schedule.cosine(cpt, PEAK / 2, 200, 0.0), 0.0),
        "from 6k, linear": (constant(6_000), Schedule.wsd(cpt, PEAK, 0, cpt, "linear"), 0.0),
    }
    found = []
    for name, (before, schedule, replay) in plan.items():
        steps = np.unique(np.r_[np.arange(20, 400, 20), np.arange(400, schedule.steps + 1, 50)])
        loss = true_loss(which, before, schedule, steps, replay)
        loss = loss + noise * rng.standard_normal(steps.size)
        found.append(ContinualCurve.of(name, steps, loss, schedule, before, replay))
    return found


def replayed(which: str, noise: float = 0.0, seed: int = 0) -> list[ContinualCurve]:
    """`runs` and three with replay .25, .5, .75."""
    rng = np.random.default_rng([seed, 1])
    found = runs(which, noise, seed)
    for ratio in (0.25, 0.5, 0.75):
        before, schedule = constant(8_000), Schedule.constant(4_000, PEAK)
        steps = np.arange(50, 4_001, 50)
        loss = true_loss(which, before, schedule, steps, ratio)
        loss = loss + noise * rng.standard_normal(steps.size)
        found.append(ContinualCurve.of(f"replay {ratio}", steps, loss, schedule, before, ratio))
    return found
