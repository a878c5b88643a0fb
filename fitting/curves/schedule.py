"""Schedules: the learning rate of every step, or the few numbers that regenerate it exactly.

Step t counts from 1, and `rates()[t - 1]` is the rate that step t used. The loss "at step t" is the
loss after t updates. The shapes are those of the trainer (`workers/proxy/schedule.py`): a test
holds the two together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fitting.errors import FittingError
from fitting.links import Floats

KINDS = ("constant", "wsd", "wsd-s", "cosine", "linear", "step", "cyclic", "stages", "array")
DECAYS = ("linear", "sqrt", "cosine", "exponential", "power")
MOST_STEPS = 20_000_000
MOST_RATE = 1e6  # more is a wrong column; the square of more overflows


def fallen(form: str, u: Floats, power: float = 1.0) -> Floats:
    """How much of the way from start to end is done at share u in [0, 1] of a decay: [steps].

    sqrt is Hägele et al.'s "1 - sqrt" (2024, arXiv 2405.18392); power is 1 - (1 - u)^power.
    """
    if form == "linear":
        return u
    if form == "sqrt":
        return np.sqrt(u)
    if form == "cosine":
        return np.asarray(0.5 * (1.0 - np.cos(np.pi * u)))
    if form == "power":
        return np.asarray(1.0 - (1.0 - u) ** power)
    raise FittingError("bad_option", f"decay {form!r} is not known.", f"Use: {', '.join(DECAYS)}.")


def _length(steps: int) -> int:
    """Held before the rates are made: a wrong unit must not fill the memory."""
    if not 1 <= steps <= MOST_STEPS:
        raise FittingError(
            "bad_value", f"A schedule of {steps:.8g} steps.", f"Give 1 to {MOST_STEPS:,} steps."
        )
    return steps


def _stage(steps: int, start: float, end: float, form: str, power: float) -> Floats:
    """`steps` rates on the way from `start` (not included) to `end` (the last of them)."""
    u = np.arange(1, steps + 1) / max(steps, 1)
    if form == "constant":
        return np.full(steps, end)
    if form == "exponential":
        if start <= 0 or end <= 0:
            raise FittingError(
                "bad_option",
                f"An exponential decay from {start:g} to {end:g} does not exist.",
                "Give final_fraction a positive value, or another decay.",
            )
        return np.asarray(start ** (1 - u) * end**u)
    return np.asarray(start + (end - start) * fallen(form, u, power))


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule. Make one with a class method, or from a dictionary.

    spec: what regenerates it: {"kind", "steps", "peak_lr", "warmup_steps", ...}; see `from_dict`.
    """

    spec: Mapping[str, Any]
    _rates: Floats

    @classmethod
    def constant(cls, steps: int, peak_lr: float, warmup_steps: int = 0) -> "Schedule":
        return cls.from_dict(
            {"kind": "constant", "steps": steps, "peak_lr": peak_lr, "warmup_steps": warmup_steps}
        )

    @classmethod
    def cosine(
        cls, steps: int, peak_lr: float, warmup_steps: int = 0, final_fraction: float = 0.0
    ) -> "Schedule":
        return cls.from_dict(
            {
                "kind": "cosine",
                "steps": steps,
                "peak_lr": peak_lr,
                "warmup_steps": warmup_steps,
                "final_fraction": final_fraction,
            }
        )

    @classmethod
    def wsd(
        cls,
        steps: int,
        peak_lr: float,
        warmup_steps: int = 0,
        cooldown_steps: int = 0,
        decay: str = "sqrt",
        final_fraction: float = 0.0,
        power: float = 1.0,
    ) -> "Schedule":
        return cls.from_dict(
            {
                "kind": "wsd",
                "steps": steps,
                "peak_lr": peak_lr,
                "warmup_steps": warmup_steps,
                "cooldown_steps": cooldown_steps,
                "decay": decay,
                "final_fraction": final_fraction,
                "power": power,
            }
        )

    @classmethod
    def array(cls, rates: ArrayLike) -> "Schedule":
        """The rates themselves, [steps]."""
        return cls.from_dict({"kind": "array", "rates": np.asarray(rates, dtype=float)})

    @classmethod
    def from_points(
        cls, steps: ArrayLike, rates: ArrayLike, until: int | None = None
    ) -> "Schedule":
        """Straight lines between logged (step, rate) pairs; flat before the first.

        Good where the rate is logged often. A jump between two rows lands somewhere between them:
        give the schedule itself where that matters.
        """
        at = np.asarray(steps, dtype=float)
        rate = np.asarray(rates, dtype=float)
        if at.ndim != 1 or at.shape != rate.shape or not at.size:
            raise FittingError("shape", f"{at.shape} steps and {rate.shape} rates do not pair up.")
        if not (np.isfinite(at).all() and (at >= 0).all()):
            raise FittingError("bad_value", "A step is negative or not finite.", "Count from 1.")
        order = np.argsort(at, kind="stable")
        last = _length(int(at.max()) if until is None else int(until))
        return cls.array(np.interp(np.arange(1, last + 1), at[order], rate[order]))

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> "Schedule":
        """From {"kind", "steps", "peak_lr", ...}:

        | kind | more |
        |---|---|
        | constant | warmup_steps |
        | wsd | warmup_steps, cooldown_steps, decay (sqrt), power, final_fraction |
        | cosine, linear | warmup_steps, final_fraction |
        | wsd-s | warmup_steps, cooldown_steps (of the last), periods [ends], final_fraction |
        | step | warmup_steps, boundaries [steps], factors [of the peak]; or drops [pairs] |
        | cyclic | warmup_steps, cycles, decay (cosine), final_fraction: restarts at the peak |
        | stages | stages [{"steps", "to" (rate), "form" ("linear"), "power"}], "from" (0) |
        | array | rates |

        A warm-up starts from initial_fraction (0) of the peak.
        """
        given = {k: v for k, v in spec.items() if v is not None}
        kind = given.get("kind")
        if kind not in KINDS:
            raise FittingError(
                "bad_option", f"Schedule kind {kind!r} is not known.", f"Use: {', '.join(KINDS)}."
            )
        try:
            rates = _BUILD[str(kind)](given)
        except FittingError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            said = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
            raise FittingError(
                "bad_document",
                f"The {kind} schedule {said}.",
                f"A schedule of kind {kind} takes {_TAKES[str(kind)]}.",
            ) from None
        _length(rates.size)
        bad = ~np.isfinite(rates) | (rates < 0) | (rates > MOST_RATE)
        if bad.any():
            step = int(np.flatnonzero(bad)[0]) + 1
            raise FittingError(
                "bad_value",
                f"The learning rate of step {step} is {rates[step - 1]}.",
                f"Rates are not negative and at most {MOST_RATE:g}.",
                step=step,
            )
        if not rates.max() > 0:
            raise FittingError("bad_value", "Every learning rate is 0.", "Nothing is learned so.")
        rates.setflags(write=False)
        if kind == "array":
            given = {"kind": "array", "rates": rates}
        return cls(given, rates)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes; an array that is long pieces of straight lines stays an array."""
        found = dict(self.spec)
        if found["kind"] == "array":
            found["rates"] = self._rates.tolist()
        return found

    def rates(self) -> Floats:
        """[steps], read-only: the rate of steps 1, 2, ..."""
        return self._rates

    @property
    def steps(self) -> int:
        return int(self._rates.size)

    @property
    def peak_lr(self) -> float:
        return float(self._rates.max())

    @property
    def warmup_steps(self) -> int:
        """Steps until the highest rate is reached, that one counted; 0 if the first has it."""
        first = int(np.argmax(self._rates))
        return first + 1 if first else 0

    def _first_peak(self) -> int:
        """Index of the first step at the rate from which it first falls."""
        falls = np.flatnonzero(np.diff(self._rates) < 0)
        return int(np.argmax(self._rates[: falls[0] + 1 if falls.size else None]))

    @property
    def warms_up(self) -> bool:
        """Whether the first rate is less than half of the first peak."""
        return bool(self._rates[0] < 0.5 * self._rates[self._first_peak()])

    def warmed_as(self, warms_up: bool) -> "Schedule":
        """This schedule with a warm-up, of one step, or without one; itself where it is so.

        The laws read the rise of a warm-up as annealing undone, a constant that a fit's floor
        takes up: with a warm-up that the fitted curves have not, or without the one that they
        have, a prediction would be off by that constant (.12 nats of a public run of 3.20).
        """
        if self.warms_up == warms_up:
            return self
        rates, peak = self._rates.copy(), self._first_peak()
        if warms_up:
            rates[0] = 1e-3 * rates[peak]
        else:
            rates[:peak] = rates[peak]
        return Schedule.array(rates)

    @property
    def kind(self) -> str:
        return str(self.spec["kind"])

    @property
    def loss_potential(self) -> float:
        """Final rate over peak rate (Wang et al. 2025): 1 not annealed at all, 0 to the end."""
        return float(self._rates[-1]) / self.peak_lr

    def until(self, steps: int) -> "Schedule":
        """The first `steps` steps as a schedule of their own."""
        return Schedule.array(self._rates[:steps])

    def then(self, more: "Schedule") -> "Schedule":
        """This one followed by another."""
        return Schedule.array(np.concatenate([self._rates, more.rates()]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and np.array_equal(self._rates, other._rates)

    def __hash__(self) -> int:
        return hash(self._rates.tobytes())


def _warmed(given: Mapping[str, Any]) -> tuple[int, int, float, Floats]:
    """steps, warm-up steps, peak rate and the rates of the warm-up."""
    steps, peak = _length(int(given["steps"])), float(given["peak_lr"])
    warm = int(given.get("warmup_steps", 0))
    if not 0 <= warm <= steps or not (math.isfinite(peak) and peak > 0):
        raise FittingError(
            "bad_option",
            f"{steps} steps, {warm} of them warm-up, at a peak rate of {peak}.",
            "Steps and the peak rate are positive, and the warm-up is no longer than the run.",
        )
    low = float(given.get("initial_fraction", 0.0))
    return steps, warm, peak, _rise(peak, warm, low)


def _rise(peak: float, warm: int, low: float) -> Floats:
    """A warm-up of `warm` steps from the share `low` of the peak, which its last step has."""
    return np.asarray(peak * (low + (1.0 - low) * np.arange(1, warm + 1) / max(warm, 1)))


def _constant(given: Mapping[str, Any]) -> Floats:
    steps, warm, peak, head = _warmed(given)
    return np.concatenate([head, np.full(steps - warm, peak)])


def _decayed(given: Mapping[str, Any], start: int, form: str) -> Floats:
    steps, warm, peak, head = _warmed(given)
    start = min(max(start, warm), steps)
    floor = peak * float(given.get("final_fraction", 0.0))
    tail = _stage(steps - start, peak, floor, form, float(given.get("power", 1.0)))
    return np.concatenate([head, np.full(start - warm, peak), tail])


def _wsd(given: Mapping[str, Any]) -> Floats:
    steps, fall = int(given["steps"]), int(given.get("cooldown_steps", 0))
    if not 0 <= fall <= steps:
        raise FittingError(
            "bad_option",
            f"A cool-down of {fall} of {steps} steps.",
            "It is not negative and no longer than the run.",
        )
    start = steps - fall
    return _decayed(given, start, str(given.get("decay", "sqrt")))


def _step(given: Mapping[str, Any]) -> Floats:
    rates = _constant(given)
    peak = float(given["peak_lr"])
    drops = given.get("drops")
    at, factors = zip(*drops, strict=True) if drops else (given["boundaries"], given["factors"])
    if len(at) != len(factors) or any(b >= a for b, a in pairwise([0, *at, rates.size])):
        raise FittingError(
            "bad_option",
            f"Boundaries {list(at)} with {len(factors)} factors in {rates.size} steps.",
            "Give one factor of the peak for each boundary, boundaries ascending within the run.",
        )
    for boundary, factor in zip(at, factors, strict=True):
        rates[int(boundary) :] = peak * float(factor)
    return rates


def _cyclic(given: Mapping[str, Any]) -> Floats:
    steps, warm, peak, head = _warmed(given)
    cycles, form = int(given["cycles"]), str(given.get("decay", "cosine"))
    if not 1 <= cycles <= steps:
        raise FittingError("bad_option", f"{cycles} cycles in {steps} steps.", "Give 1 or more.")
    floor = peak * float(given.get("final_fraction", 0.0))
    edges = np.linspace(warm, steps, cycles + 1).round().astype(int)
    power = float(given.get("power", 1.0))
    lengths = np.diff(edges)
    return np.concatenate([head, *(_stage(int(n), peak, floor, form, power) for n in lengths)])


def _periods(given: Mapping[str, Any]) -> Floats:
    """Wen et al. 2024's WSD-S: every period warms up, holds, and cools down along 1 - sqrt."""
    steps, warm, peak, head = _warmed(given)
    floor, cooldown = float(given.get("final_fraction", 0.0)), int(given["cooldown_steps"])
    parts, begin = [], 0
    for end in (int(one) for one in given["periods"]):
        if end > steps:
            raise FittingError("bad_option", f"A period ends at {end} of {steps}.", "Within them.")
        fall = max(1, round(cooldown * end / steps))
        hold = end - begin - warm - fall
        if hold < 0:
            raise FittingError(
                "bad_option", f"The period that ends at {end} is shorter than its warm-up and "
                "cool-down.", "Give longer periods.",
            )  # fmt: skip
        rise = _rise(peak, warm, floor) if begin else head
        tail = _stage(fall, peak, floor * peak, "sqrt", 1.0)
        parts += [rise, np.full(hold, peak), tail]
        begin = end
    if begin != steps:
        raise FittingError("bad_option", f"Periods end at {begin} of {steps}.", "End at the last.")
    return np.concatenate(parts)


def _stages(given: Mapping[str, Any]) -> Floats:
    rate, parts = float(given.get("from", 0.0)), []
    _length(sum(_length(int(stage["steps"])) for stage in given["stages"]))
    for stage in given["stages"]:
        to = float(stage["to"])
        form, power = str(stage.get("form", "linear")), float(stage.get("power", 1.0))
        parts.append(_stage(int(stage["steps"]), rate, to, form, power))
        rate = to
    return np.concatenate(parts)


def _array(given: Mapping[str, Any]) -> Floats:
    rates = np.array(given["rates"], dtype=float)
    if rates.ndim != 1:
        raise FittingError("shape", f"rates has shape {rates.shape}.", "Give one rate a step.")
    return rates


_TAKES = {
    "constant": "steps, peak_lr; warmup_steps, initial_fraction",
    "wsd": "steps, peak_lr; warmup_steps, cooldown_steps, decay (linear, sqrt, cosine, "
    "exponential or power), power, final_fraction",
    "cosine": "steps, peak_lr; warmup_steps, final_fraction",
    "linear": "steps, peak_lr; warmup_steps, final_fraction",
    "wsd-s": "steps, peak_lr, cooldown_steps, periods (their last steps); warmup_steps, "
    "final_fraction",
    "step": "steps, peak_lr, boundaries (steps), factors (of the peak); warmup_steps",
    "cyclic": "steps, peak_lr, cycles; warmup_steps, decay, final_fraction",
    "stages": 'stages, each {"steps", "to": rate, "form"}; from (rate)',
    "array": "rates: one for each step",
}

_BUILD = {
    "constant": _constant,
    "wsd": _wsd,
    "cosine": lambda given: _decayed(given, 0, "cosine"),
    "linear": lambda given: _decayed(given, 0, "linear"),
    "wsd-s": _periods,
    "step": _step,
    "cyclic": _cyclic,
    "stages": _stages,
    "array": _array,
}


def as_schedule(given: "Schedule | Mapping[str, Any] | Sequence[float]") -> Schedule:
    """A schedule from whatever a caller has: itself, its dictionary, or the rates."""
    if isinstance(given, Schedule):
        return given
    if isinstance(given, Mapping):
        return Schedule.from_dict(given)
    return Schedule.from_dict({"kind": "array", "rates": given})
