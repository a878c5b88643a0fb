"""What a continual fit says before a run: recoverable or not, turning length, and the best plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from fitting.curves.continual import LAW_OPEN, Transfer
from fitting.curves.continual_fit import ContinualFit
from fitting.curves.schedule import Schedule
from fitting.errors import FittingError
from fitting.links import Floats

# How far ahead a turning point is looked for, in lengths of the longest fitted run: a law that was
# fitted on 2,000 steps says nothing about 200,000.
HORIZON = 20


@dataclass(frozen=True)
class Forgetting:
    """What a transfer does to the general loss at a constant rate.

    asymptote: where the general loss goes in the end, L0 + B g(r) (None where beta is at its floor
    and the shift has no end). recoverable: it goes below where it started. turning_length: steps
    until it is back there (None: not within `horizon`), with its interval over resamples (ends None
    likewise). critical_step: constant-rate pre-training steps from which on it is never recovered.
    """

    start_loss: float
    asymptote: float | None
    recoverable: bool | None
    turning_length: int | None
    turning_interval: tuple[int | None, int | None]
    critical_step: float | None
    horizon: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "start_loss": self.start_loss,
            "asymptote": self.asymptote,
            "recoverable": self.recoverable,
            "turning_length": self.turning_length,
            "turning_interval": list(self.turning_interval),
            "critical_step": self.critical_step,
            "horizon": self.horizon,
        }


def forgetting(
    fit: ContinualFit, before: Schedule, peak_lr: float, replay_ratio: float = 0.0
) -> Forgetting:
    """For the general loss, continued at a constant rate `peak_lr` after `before`."""
    if fit.role != "general":
        raise FittingError("bad_option", f"This fit is of the {fit.role} loss.", "Give the other.")
    horizon = HORIZON * int(fit.data["steps"])
    steps = np.unique(np.round(np.geomspace(1, horizon, 600)).astype(np.int64))
    transfer = Transfer(before, Schedule.constant(horizon, peak_lr), replay_ratio)
    best, draws = fit.log_losses(fit.features(transfer, steps))
    old = Transfer(None, before)
    start, starts = fit.log_losses(fit.features(old, np.array([before.steps])))

    def turning(curve: Floats, level: float) -> int | None:
        risen = curve > level
        if not risen.any():
            return 0
        back = np.flatnonzero(~risen & (np.arange(steps.size) > int(np.argmax(risen))))
        return int(steps[back[0]]) if back.size else None

    lengths = [turning(d, float(s[0])) for d, s in zip(draws, starts, strict=True)]
    tail = 0.5 - 0.5 * fit.level
    ends = np.array([np.inf if n is None else n for n in lengths])
    interval: list[int | None] = [None, None]
    if ends.size:
        for j, q in enumerate((tail, 1 - tail)):
            end = float(np.quantile(ends, q, method="nearest"))
            interval[j] = int(end) if np.isfinite(end) else None
    params = fit.params
    asymptote = recoverable = critical = None
    if params["beta"] > 0.01:  # below, the shift is a logarithm: it has no end
        lift = params["B_beta"] / params["beta"]
        if "a2" in params:
            far = Transfer(before, Schedule.constant(horizon, peak_lr), replay_ratio)
            lift *= _factor(fit, far)
        asymptote = params["L0"] + lift
        recoverable = bool(np.exp(start[0]) > asymptote)
        if lift > 0:
            critical = float((params["A"] / lift) ** (1 / params["alpha"]) / before.peak_lr)
    return Forgetting(
        float(np.exp(start[0])), asymptote, recoverable, turning(best, float(start[0])),
        (interval[0], interval[1]), critical, horizon,
    )  # fmt: skip


def _factor(fit: ContinualFit, transfer: Transfer) -> float:
    """g(r) of the fitted replay form: the ratio of the shift to that without its factor."""
    from fitting.curves import continual

    forms = {
        "continual_replay_convex": continual.convex,
        "continual_replay_general": continual.printed_general,
        "continual_replay_domain": continual.printed_domain,
    }
    r, a = np.array(1.0 - transfer.replay_ratio), np.array(fit.params["a2"])
    return float(forms[fit.law](r, a)[0])


@dataclass(frozen=True)
class Plan:
    """One way to continue, and what it does to the two losses (against the pre-trained model)."""

    loss_potential: float
    peak_lr: float
    replay_ratio: float
    steps: int
    general: float
    domain: float
    rise: float
    objective: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "loss_potential": self.loss_potential,
            "peak_lr": self.peak_lr,
            "replay_ratio": self.replay_ratio,
            "steps": self.steps,
            "general_loss": self.general,
            "domain_loss": self.domain,
            "general_rise": self.rise,
            "objective": self.objective,
        }


@dataclass(frozen=True)
class Planned:
    """best, and per choice the interval of where resamples have their own best; front: plans that
    nothing beats on both losses; as_good: plans within the law's own error of the best; reach:
    of the best, by role."""

    best: Plan
    general_interval: tuple[float, float]
    domain_interval: tuple[float, float]
    chosen_interval: Mapping[str, tuple[float, float]]
    front: tuple[Plan, ...]
    as_good: int
    tried: int
    level: float
    reach: Mapping[str, Mapping[str, float]]
    warnings: tuple[Mapping[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "best": self.best.to_dict(),
            "general_interval": list(self.general_interval),
            "domain_interval": list(self.domain_interval),
            "chosen_interval": {k: list(v) for k, v in self.chosen_interval.items()},
            "front": [one.to_dict() for one in self.front],
            "as_good": self.as_good,
            "tried": self.tried,
            "level": self.level,
            "reach": {role: dict(values) for role, values in self.reach.items()},
            "warnings": [dict(one) for one in self.warnings],
        }


def pretrained(steps: int, peak_lr: float, warmup_steps: int, potential: float) -> Schedule:
    """Pre-training that ends at `potential` of its peak rate: a linear cool-down over the last
    fifth, none for 1."""
    if potential >= 1.0:
        return Schedule.constant(steps, peak_lr, warmup_steps)
    return Schedule.wsd(steps, peak_lr, warmup_steps, steps // 5, "linear", potential)


def plan_continual(
    general: ContinualFit,
    domain: ContinualFit,
    *,
    general_weight: float,
    before: Schedule | Mapping[float, Schedule],
    steps: Sequence[int],
    peak_lrs: Sequence[float] | None = None,
    replay_ratios: Sequence[float] | None = None,
    warmup_steps: int = 0,
    decay: str = "cosine",
    final_fraction: float = 0.0,
    most_general_rise: float | None = None,
    level: float = 0.9,
) -> Planned:
    """Least general_weight x general loss + (1 - general_weight) x domain loss.

    before: the pre-training schedule, or several {loss potential: schedule} to choose from (see
    `pretrained`). peak_lrs, replay_ratios: those to try; default: a grid inside the fitted ranges.
    Values outside them are left out, with a warning. most_general_rise: a cap on the general loss
    above that of the pre-trained model, in the loss's own unit.
    """
    if not 0.0 <= general_weight <= 1.0:
        raise FittingError("bad_option", f"general_weight is {general_weight}.", "0 to 1.")
    if general.role != "general" or domain.role != "domain":
        raise FittingError(
            "bad_option",
            f"The fits are of the {general.role} and the {domain.role} loss.",
            "Give the general fit first, the domain fit second.",
        )
    for one in (general, domain):
        _refuse_open(one)
    befores = dict(before) if isinstance(before, Mapping) else {before.loss_potential: before}
    low = max(f.data["peak_lr"][0] for f in (general, domain))
    high = min(f.data["peak_lr"][1] for f in (general, domain))
    ratios = [[1 - share for share in f.data["new_share"]] for f in (general, domain)]
    least, most = max(map(min, ratios)), min(map(max, ratios))
    peaks = list(np.geomspace(low, high, 7)) if peak_lrs is None else list(peak_lrs)
    mixes = list(np.linspace(least, most, 7 if most > least else 1))
    mixes = mixes if replay_ratios is None else list(replay_ratios)
    inside_peaks = [p for p in peaks if low / 1.05 <= p <= high * 1.05]
    inside_mixes = [r for r in mixes if least - 1e-6 <= r <= most + 1e-6]
    if not inside_peaks or not inside_mixes or not steps or not befores:
        raise FittingError(
            "infeasible", "Nothing that was asked for lies inside the fitted ranges.",
            f"Peak rates {low:g} to {high:g}, replay ratios {least:g} to {most:g}.",
        )  # fmt: skip
    long_enough = [int(count) for count in steps if count >= warmup_steps]
    if not long_enough:
        raise FittingError(
            "infeasible", f"{max(steps)} steps are fewer than the {warmup_steps} of the warm-up.",
            "Plan longer runs, or a shorter warm-up.",
        )  # fmt: skip
    warned = [
        {"code": "left_out", "message": f"{count} {what} were left out."}
        for count, what in (
            (len(peaks) - len(inside_peaks),
             f"peak rates outside the fitted {low:g} to {high:g}"),
            (len(mixes) - len(inside_mixes),
             f"replay ratios outside the fitted {least:g} to {most:g}"),
            (len(steps) - len(long_enough), "lengths shorter than the warm-up"),
        )
        if count
    ]  # fmt: skip
    schedules = {
        (count, peak): Schedule.wsd(
            count, float(peak), warmup_steps, count - warmup_steps, decay, final_fraction
        )
        for count, peak in product(long_enough, inside_peaks)
    }
    starts = {potential: _end_of(general, past) for potential, past in befores.items()}
    plans: list[Plan] = []
    samples: list[Floats] = []  # the objective of each plan, by resample
    for potential, (count, peak), ratio in product(befores, schedules, inside_mixes):
        transfer = Transfer(befores[potential], schedules[count, peak], float(ratio))
        at = np.array([count])
        g, gs = general.log_losses(general.features(transfer, at))
        d, ds = domain.log_losses(domain.features(transfer, at))
        old, new = float(np.exp(g[0])), float(np.exp(d[0]))
        rise = old - starts[potential]
        if most_general_rise is not None and rise > most_general_rise:
            continue
        score = general_weight * old + (1 - general_weight) * new
        plans.append(
            Plan(float(potential), float(peak), float(ratio), count, old, new, rise, score)
        )
        fewest = min(len(gs), len(ds))
        olds, news = np.exp(gs[:fewest, 0]), np.exp(ds[:fewest, 0])
        samples.append(general_weight * olds + (1 - general_weight) * news)
    if not plans:
        raise FittingError(
            "infeasible", f"No plan keeps the general loss within {most_general_rise} of where it "
            "was.", "Allow more, or more replay, or lower peak rates.",
        )  # fmt: skip
    scores = np.array([p.objective for p in plans])
    best = plans[int(np.argmin(scores))]
    transfer = Transfer(
        befores[best.loss_potential], schedules[best.steps, best.peak_lr], best.replay_ratio
    )
    bands = [f.predict(transfer, level=level) for f in (general, domain)]
    own = general_weight * general.calibration.form * best.general
    own = float(np.hypot(own, (1 - general_weight) * domain.calibration.form * best.domain))
    said = [*warned, *(flag for band in bands for flag in band.flags)]
    return Planned(
        best,
        (float(bands[0].lower[0]), float(bands[0].upper[0])),
        (float(bands[1].lower[0]), float(bands[1].upper[0])),
        _chosen_by_resamples(plans, np.array(samples), level),
        _front(plans),
        int((scores <= best.objective + own).sum()),
        len(plans),
        level,
        {f.role: dict(band.reach) for f, band in zip((general, domain), bands, strict=True)},
        tuple({(one["code"], one["message"]): one for one in said}.values()),
    )


def _refuse_open(fit: ContinualFit) -> None:
    if fit.law == LAW_OPEN.name:
        raise FittingError(
            "infeasible",
            f"The fit of {fit.domain} is of a model whose pre-training is unknown: it predicts "
            "near the fitted runs, and cannot plan.",
            "Plan with fits of models whose pre-training schedule is known.",
        )


def _end_of(fit: ContinualFit, past: Schedule) -> float:
    """The loss that pre-training ended at."""
    features = fit.features(Transfer(None, past), np.array([past.steps]))
    return float(np.exp(fit.log_losses(features)[0][0]))


def _chosen_by_resamples(
    plans: Sequence[Plan], samples: Floats, level: float
) -> dict[str, tuple[float, float]]:
    """Per choice, the interval of what is best by each resample; samples: objectives
    [plans, resamples]. Empty without resamples."""
    if not samples.size:
        return {}
    tail = 0.5 - 0.5 * level
    winners = [plans[int(j)] for j in np.argmin(samples, axis=0)]
    chosen = {}
    for name in ("loss_potential", "peak_lr", "replay_ratio", "steps"):
        values = np.array([float(getattr(one, name)) for one in winners])
        low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
        chosen[name] = (float(low), float(high))
    return chosen


def _front(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The plans that no other beats on both losses, by rising general loss."""
    front: list[Plan] = []
    for plan in sorted(plans, key=lambda one: (one.general, one.domain)):
        if not front or plan.domain < front[-1].domain:
            front.append(plan)
    return tuple(front)
