"""Which target runs to train so that a link's forecast is narrowest, within a cap on FLOPs.

A link of a few runs has three unknowns, log K, kappa and E_1. To first order the forecast's
variance is c' (prior + sum of d d' / noise^2)^-1 c, with d the derivatives of log y at a run and c
those at the target: c-optimal design (Elfving 1952, Ann. Math. Stat. 23:255). Runs are chosen one
by one, each the one that narrows most, then swapped while that helps. At most one run a budget
until every affordable budget has one: three runs spread over the range miss by 1 % where three of
the largest miss by 4 %, and eight of the smallest by 3 % (measured on the public sweep), because
the extremes see what the first-order design takes for granted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from fitting.errors import FittingError
from fitting.links import Floats
from fitting.loss_to_loss.floors import own_floor
from fitting.loss_to_loss.kinds import default_prior, kind_of
from fitting.loss_to_loss.pairs import budgets
from fitting.predict import check_level
from fitting.runs import Runs

# What is taken for known before the first target run; all guesses, wide on purpose.
LOG_K_SD = 1.0
E1_SD_SHARE = 0.5  # of the guessed floor
WIDE_KAPPA_SD = 0.3  # where the kind of link has no prior
NOISE = 0.005  # relative noise of a run about the link


@dataclass(frozen=True)
class RunPlan:
    """rows: of the source runs whose N and D to train on the target data, by increasing compute.
    half_width: relative half-width of the forecast's interval from these runs (parameter and run
    noise; drift beyond the pairs comes on top); before: without any. flops: what they cost."""

    rows: tuple[int, ...]
    N: tuple[float, ...]
    D: tuple[float, ...]
    flops: tuple[float, ...]
    budget_flops: float
    before: float
    half_width: float
    steps: tuple[float, ...]
    level: float

    def to_dict(self) -> dict[str, Any]:
        """{"runs": [{"N", "D", "flops", "half_width"}], "total_flops", "cap_flops", ...}."""
        return {
            "runs": [
                {"row": r, "N": n, "D": d, "flops": c}
                for r, n, d, c in zip(self.rows, self.N, self.D, self.flops, strict=True)
            ],
            "total_flops": sum(self.flops),
            "cap_flops": self.budget_flops,
            "half_width_before": self.before,
            "half_width": self.half_width,
            "half_width_after_each": list(self.steps),
            "level": self.level,
        }


def plan_runs(
    source: Runs,
    k: int,
    *,
    cap_flops: float = float("inf"),
    target_loss: float | None = None,
    kind: str = "train_to_train",
    have: Sequence[int] = (),
    E1: float | None = None,
    noise: float = NOISE,
    level: float = 0.9,
) -> RunPlan:
    """The k cells of the source's runs to train on the target data.

    cap_flops: their compute together. target_loss: the source loss at which the forecast is
    wanted (default: halfway in log(x - E0) from the best run to a tenth of its gap). have: rows
    that were already trained. E1: a guess of the target's floor (default: the source's).
    """
    if k < 1:
        raise FittingError("bad_option", f"k is {k}.", "Ask for at least one run.")
    if not cap_flops > 0:
        raise FittingError("bad_option", f"cap_flops is {cap_flops}.", "Give FLOPs above 0.")
    if target_loss is not None and not np.isfinite(target_loss):
        raise FittingError("bad_option", f"target_loss is {target_loss}.", "Give a loss.")
    check_level(level)
    runs = source.unmasked()
    compute = runs.compute()
    if compute is None or "N" not in runs.inputs or "D" not in runs.inputs:
        raise FittingError("missing_input", "The source runs have no N and D.", "Give both.")
    E0 = _floor(runs)
    x = np.asarray(runs.loss)
    best = float(x.min())
    wanted = E0 + (best - E0) / np.sqrt(10.0) if target_loss is None else float(target_loss)
    if wanted <= E0:
        raise FittingError(
            "infeasible", f"Target loss {wanted:.4g} is at or below the floor {E0:.4g}.",
            "Ask for a larger one.",
        )  # fmt: skip
    guess = E0 if E1 is None else float(E1)
    usable = x > E0
    belief = default_prior(kind_of(kind))
    sd = WIDE_KAPPA_SD if belief is None else belief[1]
    prior = np.diag([LOG_K_SD**-2, sd**-2, (E1_SD_SHARE * guess) ** -2])
    d = _slopes(np.append(x, wanted), E0, guess)
    information = prior + sum((np.outer(d[i], d[i]) / noise**2 for i in have), np.zeros_like(prior))
    group = budgets(compute)
    chosen = _greedy(d[:-1], d[-1], information, compute, group, usable, have, k, cap_flops, noise)
    if not chosen:
        raise FittingError(
            "infeasible",
            f"No run of the source costs at most {cap_flops:.4g} FLOPs: the cheapest takes "
            f"{compute[usable].min():.4g}.",
            "Raise the cap.",
        )
    half = float(ndtri(0.5 + 0.5 * level))
    steps = []
    total = information
    before = half * float(np.sqrt(_variance(d[-1], information) + noise**2))
    for row in chosen:
        total = total + np.outer(d[row], d[row]) / noise**2
        steps.append(half * float(np.sqrt(_variance(d[-1], total) + noise**2)))
    order = sorted(chosen, key=lambda row: float(compute[row]))
    return RunPlan(
        rows=tuple(int(r) for r in order),
        N=tuple(float(runs.inputs["N"][r]) for r in order),
        D=tuple(float(runs.inputs["D"][r]) for r in order),
        flops=tuple(float(compute[r]) for r in order),
        budget_flops=cap_flops,
        before=before,
        half_width=steps[-1],
        steps=tuple(steps),
        level=level,
    )


def _floor(runs: Runs) -> float:
    from fitting.loss_to_loss.pairs import pair

    return own_floor(pair(runs, runs, names=("source", "again")), 0)


def _slopes(x: Floats, E0: float, E1: float) -> Floats:
    """d log y / d (log K, kappa, E1) [points, 3] about kappa = K = 1."""
    gap = np.maximum(x - E0, 1e-9)
    y = gap + E1
    return np.stack([gap / y, gap * np.log(gap) / y, 1 / y], axis=1)


def _variance(c: Floats, information: Floats) -> float:
    return float(c @ np.linalg.solve(information, c))


def _greedy(
    d: Floats,
    c: Floats,
    information: Floats,
    compute: ArrayLike,
    group: NDArray[np.int64],
    usable: NDArray[np.bool_],
    have: Sequence[int],
    k: int,
    cap: float,
    noise: float,
) -> list[int]:
    """Rows, one by one, then swapped while a swap narrows the forecast."""
    cost = np.asarray(compute, dtype=float)
    spare = usable.copy()
    spare[list(have)] = False
    chosen: list[int] = []

    def after(rows: Sequence[int]) -> float:
        total = information + sum(np.outer(d[r], d[r]) for r in rows) / noise**2
        return _variance(c, np.asarray(total))

    cheapest = np.sort(cost[spare])
    possible = min(k, int((np.cumsum(cheapest) <= cap).sum()))

    def allowed(rows: Sequence[int], row: int) -> bool:
        """Within the cap, with enough left for the rest, and no budget twice while another that
        can be paid for has none."""
        rest = np.sort(cost[spare & ~np.isin(np.arange(cost.size), [*rows, row])])
        kept = rest[: max(possible - len(rows) - 1, 0)].sum()
        left = cap - cost[list(rows)].sum() - kept
        if not spare[row] or row in rows or cost[row] > left:
            return False
        taken = {int(group[r]) for r in (*rows, *have)}
        if int(group[row]) not in taken:
            return True
        open_ones = spare & (cost <= left) & ~np.isin(group, list(taken))
        return not open_ones.any()

    while len(chosen) < possible:
        rows = [r for r in range(len(d)) if allowed(chosen, r)]
        if not rows:
            break
        chosen.append(min(rows, key=lambda r: after([*chosen, r])))
    for _ in range(3 * k):
        best = (after(chosen), -1, -1)
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            for row in range(len(d)):
                if allowed(rest, row) and (value := after([*rest, row])) < best[0] * (1 - 1e-9):
                    best = (value, place, row)
        if best[1] < 0:
            break
        chosen[best[1]] = best[2]
    return chosen
