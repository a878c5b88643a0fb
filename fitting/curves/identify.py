"""Whether the curves pin the law down: collinear columns, walls, rates that never fall."""

from collections.abc import Sequence

import numpy as np

from fitting.curves import annealing
from fitting.curves.curve import Curve
from fitting.curves.problem import CurveProblem
from fitting.links import Floats

# Own share of annealing below which a fit is called degenerate: between real and simulated single
# cosines (at most .25) and the least of the step decays (.32). Settled by looking at them.
FEWEST_OWN = 0.28
ALPHA = 0.5  # about what every fit finds; the share hardly depends on it


def own_share(columns: Floats, j: int) -> float:
    """1 - R^2 of column j [p, n] regressed on the others: 0 where they imitate it wholly."""
    rest = np.delete(columns, j, axis=0).T
    scale = np.linalg.norm(rest, axis=0)
    rest = rest / np.where(scale > 0, scale, 1.0)
    target = columns[j]
    left = target - rest @ np.linalg.lstsq(rest, target, rcond=1e-12)[0]
    centred = target - target.mean()
    return float((left @ left) / max(centred @ centred, 1e-300))


def annealing_share(curves: Sequence[Curve], lam: float) -> float:
    """How much of S2's variation over these curves the rest of the annealing law cannot imitate.

    The same question for every law: does the rate fall in a way that training longer does not look
    like? About .15 to .25 for a cosine (in which both go together), .7 and more for a constant run
    with a cool-down, for step decays .3 to .7, 0 for a constant rate.
    """
    columns = []
    for curve in curves:
        found = annealing.features(curve.schedule, curve.step, None, {"momentum": lam})
        power = np.exp(-ALPHA * found["log_s1"])
        columns.append([np.ones(len(curve)), power, power * found["log_s1"], found["s2"]])
    table = np.concatenate([np.array(one) / c.loss for one, c in zip(columns, curves, strict=True)],
                           axis=1)  # fmt: skip
    size = float(np.abs(table[3]).max())
    area = max(float(c.schedule.rates().sum()) for c in curves)
    # what the warm-up leaves of S2 is the same for every later point: nothing to tell apart
    if np.ptp(np.concatenate([one[3] for one in columns])) < 1e-3 * area or size == 0:
        return 0.0
    return own_share(table, 3)


def identifiability(
    problem: CurveProblem, theta: Floats, curves: Sequence[Curve], lam: float
) -> tuple[list[dict[str, str]], bool]:
    """Warnings, and whether the fit is degenerate: the gain from annealing is not identified."""
    warned: list[dict[str, str]] = []
    share = annealing_share(curves, lam)
    degenerate = share < FEWEST_OWN
    if degenerate:
        warned.append(
            {
                "code": "annealing_not_identified",
                "message": "These curves do not tell the gain from annealing apart from the gain "
                f"from training longer (only {share:.0%} of it is its own; {FEWEST_OWN:.0%} is "
                "needed). Add a run whose rate steps down early (80% constant, then a third, then "
                "a tenth), or cool-downs branched off a constant run.",
            }
        )
    lower, upper = problem.walls
    for j, param in enumerate(problem.law.params):
        held = theta[j] <= lower[j] + 1e-9 or theta[j] >= upper[j] - 1e-9
        if held:
            warned.append(
                {"code": "at_bound", "message": f"{param.name} ended at the edge of its range."}
            )
    return warned, degenerate
