"""A fit and some inputs -> a prediction: the value, its interval, and how far beyond the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fitting.errors import FittingError
from fitting.links import Floats

if TYPE_CHECKING:
    from fitting.fit import Fit

CHUNK = 2_000_000


@dataclass(frozen=True)
class Prediction:
    """The loss of a new run at each point. There is no way to get the value alone.

    value, lower, upper: [points], in the unit of the fit. level: of the interval, which is for the
    loss that a *new run* will measure: parameter noise, the scatter of single runs about the law
    and the drift beyond the data are all inside it.
    reach: {input: [points]}, how many times beyond the largest run of the data (below 1: within).
    inputs: {input: [points]} as predicted for.
    """

    value: Floats
    lower: Floats
    upper: Floats
    reach: dict[str, Floats]
    inputs: dict[str, Floats]
    level: float
    loss_unit: str
    law: str

    def to_dict(self) -> dict[str, Any]:
        """{"law", "level", "loss_unit", "predictions": [{"inputs", "loss", "lower", "upper",
        "reach"}]}, plain floats."""
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
        far = np.log10(6.0 * inputs["N"]) + np.log10(inputs["D"]) - np.log10(fit.data.compute[1])
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
    value = np.asarray(fit.law.evaluate(x, fit.values), dtype=float)
    low, high = draw_quantiles(fit, x, value, chosen)
    below, above = fit.calibration.sides(low, high, decades_beyond(fit, x), chosen)
    lower, upper = value * np.exp(-below), value * np.exp(above)
    reach = {k: v / fit.data.inputs[k][1] for k, v in x.items()}
    return Prediction(value, lower, upper, reach, x, chosen, fit.loss_unit, fit.law.name)


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
