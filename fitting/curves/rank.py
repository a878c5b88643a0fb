"""Compare schedules by their predicted final loss, and search a small family for the best.

No law here may choose the peak learning rate: doubling every rate lowers the annealing law's loss
always, and the others were off by .05 to .16 nats at another peak. Schedules are therefore ranked
at one peak rate, inside the range of the fitted runs; anything else is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fitting.curves.fit import CurveFit
from fitting.curves.predict import log_losses, peak_flag
from fitting.curves.registry import RANKERS
from fitting.curves.schedule import Schedule
from fitting.errors import FittingError
from fitting.links import Floats

# WSD over cosine at 24k steps, 25M to 400M, Luo et al.'s runs.
CAUTION = {
    "code": "gain_overstated",
    "message": "Predicted gains between schedules were 1.8 to 3.4 times the measured ones on "
    "public runs: read them as an order, not as nats.",
}
PEAK_RULE = {
    "code": "peak_lr_not_chosen",
    "message": "No law of the curve may choose the peak learning rate: this holds it fixed.",
}

HOLDS = (*(round(0.05 * k, 2) for k in range(20)), 0.97)
POWERS = (0.5, 1.0, 1.25, 1.5, 2.0, 3.0)
FLOORS = (0.0, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Ranked:
    """name; loss with its interval; behind: by how much worse than the best, with its interval
    (resamples and laws move together, so a difference is known better than a level); tied: the
    difference may be nothing."""

    name: str
    loss: float
    lower: float
    upper: float
    behind: float
    behind_interval: tuple[float, float]
    tied: bool
    spec: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "loss": self.loss,
            "lower": self.lower,
            "upper": self.upper,
            "behind": self.behind,
            "behind_interval": list(self.behind_interval),
            "tied": self.tied,
            "schedule": dict(self.spec),
        }


@dataclass(frozen=True)
class Ranking:
    """Best first. by: the laws whose mean it is."""

    ranked: tuple[Ranked, ...]
    by: tuple[str, ...]
    level: float
    warnings: tuple[Mapping[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "ranked": [one.to_dict() for one in self.ranked],
            "by": list(self.by),
            "level": self.level,
            "warnings": [dict(one) for one in self.warnings],
        }


def rankers(fit: CurveFit) -> tuple[CurveFit, ...]:
    """The fits whose mean ranks schedules: the multi-power and functional laws where there are
    any (rank correlation 1.0 and .9 with real runs, the annealing law .6), else what there is."""
    some = tuple(one for one in fit.each() if one.law in RANKERS)
    return some or fit.each()


def one_peak(fit: CurveFit, schedules: Sequence[Schedule]) -> None:
    """Refuses schedules whose peak rates differ, or lie outside those of the fitted runs."""
    peaks = [s.peak_lr for s in schedules]
    if max(peaks) > 1.02 * min(peaks):
        raise FittingError(
            "infeasible",
            f"The schedules have peak rates from {min(peaks):g} to {max(peaks):g}.",
            "No law of the curve may choose the peak learning rate: rank schedules of one peak, "
            "and choose the peak by a sweep.",
        )
    flag = peak_flag(fit, schedules[0])
    if flag:
        raise FittingError(
            "infeasible", flag["message"], "Rank at a fitted rate; a sweep chooses the peak."
        )


def rank_schedules(
    fit: CurveFit,
    schedules: Mapping[str, Schedule],
    level: float | None = None,
    size: float | None = None,
) -> Ranking:
    """The schedules by their final loss, best first."""
    if not schedules:
        raise FittingError("too_few_points", "There is no schedule to rank.", "Give at least one.")
    names, some = list(schedules), list(schedules.values())
    one_peak(fit, some)
    width = fit.level if level is None else level
    tail = 0.5 - 0.5 * width
    used = rankers(fit)
    best, draws = [], []
    for schedule in some:
        at = np.array([schedule.steps])
        parts = [log_losses(one, schedule, at, size) for one in used]
        fewest = min(len(d) for _, d in parts)
        best.append(np.mean([b[0] for b, _ in parts]))
        draws.append(np.mean([d[:fewest, 0] for _, d in parts], axis=0))
    value: Floats = np.exp(np.array(best))
    sample = np.exp(np.array(draws))
    first = int(np.argmin(value))
    # an unseen schedule misses by `form`, each on its own
    own = float(fit.calibration.half_width(np.zeros(1), width)[0]) * float(value[first])
    found = []
    for j in np.argsort(value, kind="stable"):
        behind = float(value[j] - value[first])
        low = high = behind
        if sample.shape[1]:
            low, high = (float(q) for q in np.quantile(sample[j] - sample[first], [tail, 1 - tail]))
        low, high = behind - np.hypot(behind - low, own), behind + np.hypot(high - behind, own)
        if j == first:
            low = high = 0.0
        p = fit.predict(some[j], level=width, size=size)
        found.append(
            Ranked(
                names[j], float(value[j]), float(p.lower[0]), float(p.upper[0]), behind,
                (float(low), float(high)), bool(low <= 0), some[j].to_dict(),
            )
        )  # fmt: skip
    return Ranking(tuple(found), tuple(one.law for one in used), width, (PEAK_RULE, CAUTION))


def schedule_of(
    steps: int, peak_lr: float, warmup_steps: int, hold: float, power: float, floor: float
) -> Schedule:
    """Warm-up, constant until the share `hold` of the steps, then peak x (floor + (1 - floor)
    (1 - u)^power). The first share in which the rate may fall is after the warm-up."""
    start = max(round(hold * steps), warmup_steps)
    return Schedule.wsd(steps, peak_lr, warmup_steps, steps - start, "power", floor, power)


@dataclass(frozen=True)
class Optimised:
    """best: the schedule's three numbers and its loss; ties: those that may be as good; grid: how
    many were tried; against: {name: predicted gain over it}."""

    best: Mapping[str, float]
    schedule: Schedule
    ranking: Ranking
    ties: tuple[Mapping[str, float], ...]
    grid: int
    against: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "best": dict(self.best),
            "schedule": self.schedule.to_dict(),
            "ranking": self.ranking.to_dict(),
            "ties": [dict(one) for one in self.ties],
            "grid": self.grid,
            "predicted_gain": dict(self.against),
            "warnings": [dict(one) for one in self.ranking.warnings],
        }


def optimise_schedule(
    fit: CurveFit,
    steps: int,
    peak_lr: float,
    warmup_steps: int = 0,
    level: float | None = None,
    size: float | None = None,
) -> Optimised:
    """The best hold, power and floor on a grid of 504, at a fixed peak rate and length."""
    one_peak(fit, [Schedule.constant(steps, peak_lr, warmup_steps)])
    used = rankers(fit)
    at = np.array([steps])
    rows, losses = [], []
    for hold in HOLDS:
        for power in POWERS:
            for floor in FLOORS:
                schedule = schedule_of(steps, peak_lr, warmup_steps, hold, power, floor)
                parts = [log_losses(one, schedule, at, size)[0][0] for one in map(_bare, used)]
                rows.append({"hold": float(hold), "power": float(power), "floor": float(floor)})
                losses.append(float(np.exp(np.mean(parts))))
    loss = np.array(losses)
    first = int(np.argmin(loss))
    noise = fit.calibration.noise * loss[first]
    tied = np.argsort(loss, kind="stable")[: int((loss <= loss[first] + noise).sum())]
    chosen = schedule_of(steps, peak_lr, warmup_steps, **rows[first])
    others = {
        "cosine to a tenth": Schedule.cosine(steps, peak_lr, warmup_steps, 0.1),
        "linear to zero": schedule_of(steps, peak_lr, warmup_steps, 0.0, 1.0, 0.0),
        "wsd 20 %, 1 - sqrt": Schedule.wsd(steps, peak_lr, warmup_steps, steps // 5, "sqrt"),
    }
    ranking = rank_schedules(fit, {"best": chosen, **others}, level, size)
    by_name = {one.name: one.loss for one in ranking.ranked}
    return Optimised(
        {**rows[first], "loss": float(loss[first])},
        chosen,
        ranking,
        tuple({**rows[j], "loss": float(loss[j])} for j in tied),
        len(rows),
        {name: by_name[name] - by_name["best"] for name in others},
    )


def _bare(one: CurveFit) -> CurveFit:
    """Without its draws: a grid needs levels only."""
    from dataclasses import replace

    return replace(one, draws=one.draws[:0])
