"""What a curve law's error is worth beyond its noise: asked inside the data, by leaving out.

Two questions. Leave one curve out and predict its end from the others: what an unseen schedule
costs (`form`). Cut all curves at a share of the steps and predict their ends: what each decade of
summed learning rate beyond the data costs (`drift`). Both are shrunk towards a guess, as three
curves allow no more than six answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fitting.curves.curve import Curve
from fitting.links import Floats

# Guesses, in log loss: about what held-out schedules, and doubled runs, cost on public curves
# (tests/fitting/curves/test_reproduce_*.py); worth so many observations.
PRIOR_FORM, PRIOR_DRIFT, PRIOR_WEIGHT = 0.0025, 0.012, 3.0
CUTS = (0.4, 0.6)
FEWEST_POINTS = 12
# The last share of a left-out curve on which it is judged.
END = 0.2


@dataclass(frozen=True)
class HeldOut:
    """One left-out end: mean of ln loss - ln prediction, and decades of S1 beyond what was fit."""

    run: str
    kind: str  # "curve" or "cut"
    error: float
    decades: float


@dataclass(frozen=True)
class CurveCalibration:
    """noise: sd of a point about its curve; form: of an unseen schedule; drift: per decade beyond;
    freedom: observations behind form and drift, the guess counted. All in log loss."""

    noise: float
    form: float
    drift: float
    freedom: float
    held_out: tuple[HeldOut, ...] = ()

    def half_width(self, decades: Floats, level: float) -> Floats:
        """Half-width in log loss of all that is not parameter noise: [points]."""
        from scipy.special import ndtri, stdtrit

        upper = 0.5 + 0.5 * level
        far = float(stdtrit(self.freedom, upper)) ** 2
        return np.sqrt(
            (float(ndtri(upper)) * self.noise) ** 2
            + far * (self.form**2 + (self.drift * decades) ** 2)
        )

    @property
    def score(self) -> float:
        """What ranks one law above another: root mean square error on the ends of left-out curves,
        or, where there are too few to leave one out, beyond the cuts."""
        errors = [one.error for one in self.held_out if one.kind == "curve"]
        errors = errors or [one.error for one in self.held_out]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "score": None if np.isnan(self.score) else self.score}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "CurveCalibration":
        held = tuple(HeldOut(**one) for one in document.get("held_out", ()))
        noise, form, drift, freedom = (
            float(document[k]) for k in ("noise", "form", "drift", "freedom")
        )
        return cls(noise, form, drift, freedom, held)


# Fits the curves and gives a predictor of the logarithm of the loss at a curve's points.
Refit = Callable[[Sequence[Curve]], Callable[[Curve], Floats]]


def reached(curves: Sequence[Curve]) -> float:
    """The largest S1 at a measured point."""
    return max(float(c.schedule.rates()[: int(c.step[-1])].sum()) for c in curves)


def held_out(curves: Sequence[Curve], refit: Refit) -> tuple[HeldOut, ...]:
    """Every question that these curves allow, answered by refits."""
    found = []
    if len(curves) >= 3:
        for j, one in enumerate(curves):
            rest = [c for k, c in enumerate(curves) if k != j]
            last = one.where(one.step >= (1 - END) * one.step[-1])
            error = float(np.mean(np.log(last.loss) - refit(rest)(last)))
            far = max(0.0, np.log10(reached([one]) / reached(rest)))
            found.append(HeldOut(one.name, "curve", error, far))
    longest = max(int(c.step[-1]) for c in curves)
    for share in CUTS:
        cut = share * longest
        early = [c.where(c.step <= cut) for c in curves]
        early = [c for c in early if len(c) >= FEWEST_POINTS]
        late = [c for c in curves if c.step[-1] > 1.3 * cut]
        if not early or not late:
            continue
        predict = refit(early)
        for one in late:
            last = one.where(one.step >= (1 - END) * one.step[-1])
            error = float(np.mean(np.log(last.loss) - predict(last)))
            far = max(0.0, np.log10(reached([one]) / reached(early)))
            found.append(HeldOut(one.name, "cut", error, far))
    return tuple(one for one in found if np.isfinite(one.error))


def settle(noise: float, found: Sequence[HeldOut]) -> CurveCalibration:
    """form from the left-out curves, drift from the cuts (less what form explains)."""
    noise = noise if np.isfinite(noise) else PRIOR_FORM  # as many parameters as points
    forms = np.array([one.error for one in found if one.kind == "curve"])
    weight = PRIOR_WEIGHT + forms.size
    form2 = (PRIOR_WEIGHT * PRIOR_FORM**2 + float((forms**2).sum())) / weight
    cuts = [(one.error, one.decades) for one in found if one.kind == "cut" and one.decades > 0.05]
    drifts = np.array([max(error**2 - form2, 0.0) / far**2 for error, far in cuts])
    # the ends of three curves after one cut err together: they count as one answer
    answers = min(len(cuts), len(CUTS))
    seen = float(drifts.mean()) if cuts else 0.0
    drift2 = (PRIOR_WEIGHT * PRIOR_DRIFT**2 + answers * seen) / (PRIOR_WEIGHT + answers)
    return CurveCalibration(
        noise, float(np.sqrt(form2)), float(np.sqrt(drift2)), weight + answers, tuple(found)
    )
