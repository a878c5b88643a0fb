"""Plan a trunk with cool-down branches: one constant run gives losses at many horizons.

Hägele et al. 2024 (arXiv 2405.18392): a constant rate and a cool-down of 10 to 20 % of the steps,
along 1 - sqrt, ends where a cosine of that length ends. A trunk of 50k steps with four branches
costs half of four runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fitting.curves.fit import CurveFit
from fitting.curves.schedule import Schedule
from fitting.errors import FittingError


@dataclass(frozen=True)
class Branch:
    """A run of `steps` in all that leaves the trunk after `from_step`; its loss if a fit says."""

    steps: int
    from_step: int
    schedule: Schedule
    loss: float | None
    lower: float | None
    upper: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps, "from_step": self.from_step, "cooldown_steps":
            self.steps - self.from_step, "loss": self.loss, "lower": self.lower,
            "upper": self.upper, "schedule": self.schedule.to_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class BranchPlan:
    """trained_steps: of trunk and branches together; separate_steps: of as many whole runs."""

    trunk_steps: int
    branches: tuple[Branch, ...]
    trained_steps: int
    separate_steps: int

    @property
    def saved(self) -> float:
        """The share of the training that branching saves."""
        return 1.0 - self.trained_steps / self.separate_steps

    def to_dict(self) -> dict[str, Any]:
        return {
            "trunk_steps": self.trunk_steps,
            "branches": [one.to_dict() for one in self.branches],
            "trained_steps": self.trained_steps,
            "separate_steps": self.separate_steps,
            "saved": self.saved,
        }


def plan_branches(
    horizons: Sequence[int],
    peak_lr: float,
    warmup_steps: int = 0,
    *,
    cooldown: float = 0.2,
    decay: str = "sqrt",
    final_fraction: float = 0.0,
    fit: CurveFit | None = None,
    size: float | None = None,
) -> BranchPlan:
    """One branch for each horizon (steps in all); with a fit also the loss it should end at."""
    ends = sorted({int(h) for h in horizons})
    if not ends or not 0.0 < cooldown < 1.0:
        raise FittingError(
            "bad_option", f"{len(ends)} horizons, cool-down {cooldown}.", "Share between 0 and 1."
        )
    branches = []
    for steps in ends:
        start = steps - max(1, round(cooldown * steps))
        if start < warmup_steps:
            raise FittingError(
                "infeasible",
                f"The branch to {steps} would start at {start}, inside the warm-up of "
                f"{warmup_steps}.",
                "Give longer horizons or a shorter warm-up.",
            )
        schedule = Schedule.wsd(steps, peak_lr, warmup_steps, steps - start, decay, final_fraction)
        loss = lower = upper = None
        if fit is not None:
            p = fit.predict(schedule, size=size)
            loss, lower, upper = (float(v[0]) for v in (p.value, p.lower, p.upper))
        branches.append(Branch(steps, start, schedule, loss, lower, upper))
    trunk = branches[-1].from_step
    trained = trunk + sum(one.steps - one.from_step for one in branches)
    return BranchPlan(trunk, tuple(branches), trained, sum(ends))
