"""CurvePrediction: losses with their intervals, and how far they reach beyond the curves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitting.curves.curve import check_size
from fitting.curves.registry import get_curve_law
from fitting.curves.schedule import Schedule
from fitting.errors import FittingError
from fitting.links import Floats

if TYPE_CHECKING:
    from fitting.curves.fit import CurveFit

# A prediction at a peak rate this many times beyond the fitted ones is refused in ranking, and
# flagged here: fitted at 5e-4 and 1e-3, 1e-4 was missed by .16 nats on public runs.
PEAK_SLACK = 1.05


FAR = 3.0  # times beyond the fitted curves, in summed learning rate


@dataclass(frozen=True)
class CurvePrediction:
    """step, value, lower, upper: [n]. reach: {"steps", "area"}: times beyond the fitted curves.

    per_law: {law: [n]}, for an ensemble. flags: words to the reader, {"code", "message"}.
    """

    step: NDArray[np.int64]
    value: Floats
    lower: Floats
    upper: Floats
    level: float
    reach: dict[str, float]
    per_law: dict[str, Floats]
    flags: tuple[dict[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        columns = zip(self.step, self.value, self.lower, self.upper, strict=True)
        return {
            "level": self.level,
            "final": {
                "step": int(self.step[-1]),
                "loss": float(self.value[-1]),
                "lower": float(self.lower[-1]),
                "upper": float(self.upper[-1]),
                "per_law": {k: float(v[-1]) for k, v in self.per_law.items()},
            },
            "curve": [
                {"step": int(s), "loss": float(v), "lower": float(lo), "upper": float(hi)}
                for s, v, lo, hi in columns
            ],
            "reach": self.reach,
            "warnings": [dict(one) for one in self.flags],
        }


def peak_flag(fit: "CurveFit", schedule: Schedule) -> dict[str, str] | None:
    """What to say where the peak rate is outside those of the fitted curves."""
    low, high = (float(x) for x in fit.data["peak_lr"])
    peak = schedule.peak_lr
    if low / PEAK_SLACK <= peak <= high * PEAK_SLACK:
        return None
    return {
        "code": "peak_lr_outside",
        "message": f"The peak learning rate {peak:g} is outside the fitted {low:g} to {high:g}; no "
        "law here knows what another peak rate does (errors of .05 to .16 nats were measured). "
        "Fit runs at that rate.",
    }


def far_flags(area: float) -> list[dict[str, str]]:
    """What to say of a run whose summed learning rate is `area` times that of the fitted ones."""
    if area <= FAR:
        return []
    return [
        {
            "code": "far",
            "message": f"The summed learning rate is {area:.3g} times that of the fitted curves; "
            f"beyond about {FAR:g} times nothing here was checked on real runs.",
        }
    ]


def as_fitted(data: Mapping[str, Any], schedule: Schedule) -> Schedule:
    """The schedule with a warm-up if the fitted ones have one, without one if they have none."""
    known = data.get("warms_up", ())  # fits of before have none
    return schedule.warmed_as(bool(known[0])) if len(known) == 1 else schedule


def warmup_flags(data: Mapping[str, Any], schedule: Schedule) -> list[dict[str, str]]:
    """What to say where the schedule's warm-up was not taken as it was given."""
    if as_fitted(data, schedule) is schedule:
        return []
    said = (
        "warms up and the fitted ones, as far as their rates are known, do not: it was read without"
        if schedule.warms_up
        else "does not warm up and the fitted ones do: it was read with a warm-up of one step"
    )
    return [
        {
            "code": "warmup_unlike",
            "message": f"The schedule {said}. A law of the curve holds the warm-up in its floor.",
        }
    ]


def log_losses(
    one: "CurveFit", schedule: Schedule, steps: NDArray[np.int64], size: float | None
) -> tuple[Floats, Floats]:
    """ln loss at the fitted values [n], and at the draws [draws, n], of a single-law fit."""
    law = get_curve_law(one.law)
    if law.needs_size and size is None:
        raise FittingError("missing_input", f"{law.name} needs N.", "Give the model's size.")
    check_size("to predict", size)
    found = law.features(as_fitted(one.data, schedule), steps, size, one.options)
    values = np.concatenate([one.values[None], one.draws])
    with np.errstate(all="ignore"):
        loss = np.log(np.maximum(law.formula(values, found)[0], 1e-9))
    return loss[0], loss[1:]


def predict_curve(
    fit: "CurveFit",
    schedule: Schedule,
    steps: ArrayLike | None,
    size: float | None,
    level: float | None,
) -> CurvePrediction:
    """See `CurveFit.predict`."""
    at = np.array([schedule.steps]) if steps is None else np.atleast_1d(np.asarray(steps))
    at = at.astype(np.int64)
    if not at.size or at.min() < 1 or at.max() > schedule.steps:
        raise FittingError(
            "bad_value",
            f"Steps {at.min() if at.size else 'none'} to {at.max() if at.size else 'none'} of a "
            f"schedule of {schedule.steps}.",
            "Steps count from 1 to the schedule's last.",
        )
    width = fit.level if level is None else level
    tail = 0.5 - 0.5 * width
    parts = [log_losses(one, schedule, at, size) for one in fit.each()]
    center = np.mean([best for best, _ in parts], axis=0)
    apart = np.std([best for best, _ in parts], axis=0)
    fewest = min(len(draws) for _, draws in parts)
    s1 = np.cumsum(schedule.rates())[at - 1]
    decades = np.maximum(np.log10(np.maximum(s1, 1e-300) / float(fit.data["area"])), 0.0)
    other = fit.calibration.half_width(decades, width)
    # the laws disagree: that is an error of form too, seen at this very schedule
    from scipy.special import ndtri

    other = np.sqrt(other**2 + (float(ndtri(1 - tail)) * apart) ** 2)
    below = above = np.zeros(at.size)
    if fewest:
        mean = np.mean([draws[:fewest] for _, draws in parts], axis=0)
        low, high = np.nanquantile(mean, [tail, 1 - tail], axis=0)
        below, above = np.maximum(center - low, 0.0), np.maximum(high - center, 0.0)
    flags = [flag for flag in (peak_flag(fit, schedule),) if flag]
    flags += warmup_flags(fit.data, schedule)
    if fit.status == "degenerate":
        flags.append({"code": "degenerate", "message": fit.message})
    reach = {
        "steps": float(at.max()) / float(fit.data["steps"]),
        "area": float(s1.max()) / float(fit.data["area"]),
    }
    flags += far_flags(reach["area"])
    return CurvePrediction(
        at,
        np.exp(center),
        np.exp(center - np.hypot(below, other)),
        np.exp(center + np.hypot(above, other)),
        width,
        reach,
        {one.law: np.exp(best) for one, (best, _) in zip(fit.each(), parts, strict=True)},
        tuple(flags),
    )
