"""Whether the curves pin the law down: collinear columns, walls, rates that never fall."""

from typing import Any

import numpy as np

from fitting.curves.problem import CurveProblem
from fitting.links import Floats
from fitting.newton import Solution

# Share of a drop column's variation that the rest of the law must not be able to imitate.
FEWEST_OWN = 0.01


def own_share(columns: Floats, j: int) -> float:
    """1 - R^2 of column j [p, n] regressed on the others: 0 where they imitate it wholly."""
    rest = np.delete(columns, j, axis=0).T
    scale = np.linalg.norm(rest, axis=0)
    rest = rest / np.where(scale > 0, scale, 1.0)
    target = columns[j]
    left = target - rest @ np.linalg.lstsq(rest, target, rcond=1e-12)[0]
    centred = target - target.mean()
    return float((left @ left) / max(centred @ centred, 1e-300))


def identifiability(
    problem: CurveProblem, theta: Floats, found: Solution
) -> tuple[list[dict[str, str]], bool]:
    """Warnings, and whether the fit is degenerate: the gain from annealing is not identified."""
    warned: list[dict[str, str]] = []
    law = problem.law
    loss, slopes = problem.model(theta[None])
    columns = slopes[0] / loss[0]
    drops = {"annealing": "C", "annealing_n": "C", "multi_power": "B", "functional": "b0"}
    degenerate = False
    name = drops.get(law.name)
    if name is not None:
        j = law.param_names.index(name)
        basic = [law.param_names.index(n) for n in law.linear if n not in (name, "b1")]
        basic += [law.param_names.index(n) for n in ("alpha", "s") if n in law.param_names]
        moving = float(np.ptp(columns[j])) > 1e-9 * float(np.abs(columns[j]).max() + 1e-300)
        share = own_share(columns[[*basic, j]], len(basic)) if moving else 0.0
        if share < FEWEST_OWN:
            degenerate = True
            warned.append(
                {
                    "code": "annealing_not_identified",
                    "message": "These curves do not tell the gain from annealing apart from the "
                    f"gain from training longer ({share:.2%} of it is its own). Add a run whose "
                    "rate steps down early (80% constant, then a tenth, then a hundredth), or "
                    "cool-downs branched off a constant run.",
                }
            )
    lower, upper = problem.walls
    for j, param in enumerate(law.params):
        held = theta[j] <= lower[j] + 1e-9 or theta[j] >= upper[j] - 1e-9
        if held:
            warned.append(
                {"code": "at_bound", "message": f"{param.name} ended at the edge of its range."}
            )
    return warned, degenerate


def conditions(problem: CurveProblem, theta: Floats) -> dict[str, Any]:
    """The condition number of the scaled information matrix, and each parameter's own share."""
    loss, slopes = problem.model(theta[None])
    columns = slopes[0] / loss[0]
    scale = np.linalg.norm(columns, axis=1)
    scaled = columns / np.where(scale > 0, scale, 1.0)[:, None]
    values = np.linalg.svd(scaled, compute_uv=False)
    return {
        "condition": float(values[0] / max(values[-1], 1e-300)),
        "own": {n: own_share(columns, j) for j, n in enumerate(problem.law.param_names)},
    }
