"""A fit and some inputs -> a prediction: the value, its interval, and how far beyond the data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fitting.errors import FittingError
from fitting.floor import FLOOR_SHARE
from fitting.links import Floats
from fitting.runs import LARGEST, leaves_the_floats
from fitting.surrogate import interpolated

if TYPE_CHECKING:
    from fitting.fit import Fit

CHUNK = 2_000_000

# Runs whose logarithms spread less than this (standard deviation) in some direction lie on a line
# (or on a point) there; a prediction further off than OFF, a factor of 1.5, is not on it.
THIN = 0.05
OFF = 0.405

# Said of runs that are not yet in the power-law regime; predictions beyond them say it again.
TRANSIENT = "exponent_moves_with_the_cut"


@dataclass(frozen=True)
class Line:
    """A direction in which the runs do not spread: sum of powers ln(input), about `at`.

    One size only is {"N": 1}; tokens in step with size are {"N": .71, "D": -.71}.
    """

    powers: dict[str, float]
    at: float

    def off(self, inputs: Mapping[str, Floats]) -> Floats:
        """How far points lie off the line, in natural logarithms: [points]."""
        total = sum(power * np.log(inputs[name]) for name, power in self.powers.items())
        return np.asarray(np.abs(total - self.at))

    def said(self) -> str:
        """In words: "N = 1e+08" or "D / N = 20"."""
        names = list(self.powers)
        if len(names) == 1:
            return f"{names[0]} = {np.exp(self.at / self.powers[names[0]]):.3g}"
        return "the runs' own path of " + " and ".join(names)

    def to_dict(self) -> dict[str, Any]:
        return {"powers": self.powers, "at": self.at}


def lines_of(inputs: Mapping[str, Floats]) -> tuple[Line, ...]:
    """Directions (principal axes of the logarithms) in which the runs spread less than THIN."""
    names = [name for name, v in inputs.items() if (v > 0).all()]
    if not names or len(inputs[names[0]]) < 2:
        return ()
    logs = np.log(np.stack([inputs[name] for name in names]))
    middle = logs.mean(axis=1)
    value, vector = np.linalg.eigh(np.atleast_2d(np.cov(logs, bias=True)))
    found = []
    for k in np.flatnonzero(value < THIN**2):
        way = vector[:, k] * np.sign(vector[np.argmax(np.abs(vector[:, k])), k])
        powers = {n: float(p) for n, p in zip(names, way, strict=True) if abs(p) > 1e-6}
        found.append(Line(powers, float(way @ middle)))
    return tuple(found)


@dataclass(frozen=True)
class Prediction:
    """The loss of a new run at each point. There is no way to get the value alone.

    value, lower, upper: [points], in the unit of the fit. level: of the interval, which is for the
    loss that a *new run* will measure: parameter noise, the scatter of single runs about the law
    and the drift beyond the data are all inside it.
    reach: {input: [points]}, how many times beyond the largest run of the data (below 1: within).
    inputs: {input: [points]} as predicted for.
    warnings: ({"code", "message"}, ...) of what the interval cannot know.
    """

    value: Floats
    lower: Floats
    upper: Floats
    reach: dict[str, Floats]
    inputs: dict[str, Floats]
    level: float
    loss_unit: str
    law: str
    warnings: tuple[dict[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """{"law", "level", "loss_unit", "predictions": [{"inputs", "loss", "lower", "upper",
        "reach"}], "warnings": [{"code", "message"}]}, plain floats."""
        return {
            "law": self.law,
            "level": self.level,
            "loss_unit": self.loss_unit,
            "predictions": [
                {
                    "inputs": {k: float(v[i]) for k, v in self.inputs.items()},
                    "loss": float(self.value[i]),
                    "lower": float(self.lower[i]),
                    "upper": float(self.upper[i]),
                    "reach": {k: float(v[i]) for k, v in self.reach.items()},
                }
                for i in range(self.value.size)
            ],
            "warnings": list(self.warnings),
        }


def check_level(level: float) -> float:
    """level as a float in (0, 1), or a FittingError."""
    if not 0 < level < 1:
        raise FittingError("bad_option", f"level is {level}.", "Give one in (0, 1), such as 0.9.")
    return float(level)


def decades_beyond(fit: "Fit", inputs: Mapping[str, Floats]) -> Floats:
    """Decades of compute beyond the largest run (zero within), [points].

    Where a law has no N and D, the sum over inputs of the decades beyond the largest value.
    """
    span = fit.data.inputs
    if "N" in inputs and "D" in inputs and fit.data.compute is not None:
        far = np.log10(6.0) + np.log10(inputs["N"]) + np.log10(inputs["D"])
        far -= np.log10(fit.data.compute[1])
        return np.asarray(np.maximum(far, 0.0))
    out = np.zeros(len(next(iter(inputs.values()))))
    for name, values in inputs.items():
        if span[name][1] > 0:
            with np.errstate(divide="ignore"):
                out += np.maximum(np.log10(values) - np.log10(span[name][1]), 0.0)
    return out


def predict(fit: "Fit", inputs: Mapping[str, ArrayLike], level: float | None = None) -> Prediction:
    """Predict the loss of new runs. inputs: {name: scalar or [points]}."""
    chosen = fit.level if level is None else check_level(level)
    x = fit.law.columns(inputs)
    refuse_absurd(x)
    value = np.asarray(fit.law.evaluate(x, fit.values), dtype=float)
    low, high = _quantiles(fit, x, value, chosen)
    below, above = fit.calibration.sides(low, high, decades_beyond(fit, x), chosen)
    above = np.hypot(above, floor_rise(fit, x, value))
    with np.errstate(over="ignore", invalid="ignore"):  # far beyond the data an end may be open
        lower, upper = value * np.exp(-below), value * np.exp(above)
    reach = {k: v / fit.data.inputs[k][1] for k, v in x.items()}
    said = tuple(warnings_of(fit, x))
    return Prediction(value, lower, upper, reach, x, chosen, fit.loss_unit, fit.law.name, said)


def floor_rise(fit: "Fit", x: Mapping[str, Floats], value: Floats) -> Floats:
    """How much higher in log loss the law with a floor predicts, where the runs leave it open if
    there is one (`fitting.floor`): [points], zero elsewhere."""
    if not fit.with_floor:
        return np.zeros_like(value)
    with np.errstate(all="ignore"):
        other = np.asarray(fit.law.evaluate(x, np.array(fit.with_floor)), dtype=float)
        rise = np.log(other) - np.log(value)
    return np.asarray(np.maximum(np.nan_to_num(rise, nan=0.0), 0.0))


def refuse_absurd(inputs: Mapping[str, Floats]) -> None:
    """FittingError for what could not have been fitted either."""
    for name, column in inputs.items():
        far = leaves_the_floats(column)
        if far.any():
            row = int(np.flatnonzero(far)[0])
            raise FittingError(
                "bad_value",
                f"{name} is {column[row]:g} in row {row + 1}.",
                f"Values lie between {1 / LARGEST:g} and {LARGEST:g}.",
                row=row,
                input=name,
            )


def warnings_of(fit: "Fit", inputs: Mapping[str, Floats]) -> Iterator[dict[str, str]]:
    """What to know about predictions at these points that their intervals do not say."""
    if fit.status == "not_converged":  # of a degenerate one the intervals and lines below speak
        yield {"code": f"fit_{fit.status}", "message": fit.message}
    for line in fit.data.lines:
        off = line.off(inputs)
        away = int((off > OFF).sum())
        if away:
            yield {
                "code": "off_the_seen_line",
                "message": f"{away} of {off.size} points lie up to {np.exp(off.max()):.3g} times "
                f"off {line.said()}, on which all fitted runs lie: what the loss is there rests on "
                "nothing but the form of the law, and the interval does not hold. Add runs off it.",
            }
    far = decades_beyond(fit, inputs)
    if not (far > 0).any():
        return
    times = f"{10 ** float(far.max()):.3g} times beyond them in compute"
    if fit.with_floor or "floor_vanishes" in {w.code for w in fit.warnings}:
        yield {
            "code": "floor_unknown",
            "message": "The fitted runs do not show where the loss levels off, so that losses "
            f"{times} may be well above the predicted ones"
            + (
                f": the interval reaches up to what a floor at {FLOOR_SHARE:.0%} of their smallest "
                "loss would give. Add larger runs."
                if fit.with_floor
                else ", and above this interval. Add larger runs."
            ),
        }
    yield from (one.to_dict() for one in fit.warnings if one.code == TRANSIENT)


def _quantiles(
    fit: "Fit", x: Mapping[str, Floats], value: Floats, level: float
) -> tuple[Floats, Floats]:
    """`draw_quantiles`, by interpolation where the points are many."""

    def exact(at: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        return draw_quantiles(fit, at, np.asarray(fit.law.evaluate(at, fit.values)), level)

    found = interpolated(exact, x) if len(fit.draws) else None
    return draw_quantiles(fit, x, value, level) if found is None else found


def draw_quantiles(
    fit: "Fit", x: Mapping[str, Floats], value: Floats, level: float
) -> tuple[Floats, Floats]:
    """Lower and upper quantile over the draws of ln(prediction / value), each [points]."""
    draws = fit.draws
    if len(draws) == 0:
        return np.zeros_like(value), np.zeros_like(value)
    low, high = np.empty_like(value), np.empty_like(value)
    tail = 0.5 * (1.0 - level)
    step = max(1, CHUNK // len(draws))
    for start in range(0, value.size, step):
        part = slice(start, start + step)
        columns = {k: v[part] for k, v in x.items()}
        with np.errstate(all="ignore"):
            spread = np.log(np.asarray(fit.law.evaluate(columns, draws), dtype=float))
        spread -= np.log(value[part])
        spread = np.sort(np.nan_to_num(spread, nan=np.inf), axis=0)
        last = len(draws) - 1
        low[part] = spread[int(np.floor(tail * last))]
        high[part] = spread[int(np.ceil((1 - tail) * last))]
    return low, high
