"""What is wrong with a fit or its data, said in sentences with the numbers in them.

`refuse` raises on data that no fit can use; `warnings_of` lists what a reader must know; a code in
`DEGENERATE` turns the status of the fit into "degenerate".
"""

from dataclasses import dataclass

import numpy as np

from fitting.engine import Engine, Optimum
from fitting.errors import FittingError
from fitting.intervals import Calibration, distance
from fitting.law import Law
from fitting.links import Floats
from fitting.runs import Runs

DEGENERATE = frozenset({"floor_vanishes", "parameter_at_bound", "one_value_only", "not_identified"})


@dataclass(frozen=True)
class Warned:
    """code: a stable word; message: a sentence with the numbers and the remedy."""

    code: str
    message: str

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


def refuse(law: Law, runs: Runs) -> None:
    """Raise FittingError for data from which this law cannot be fitted at all."""
    n, p = runs.n_used, len(law.params)
    if n < p:
        raise FittingError(
            "too_few_points",
            f"{law.name} has {p} parameters and {n} points were given"
            + (f" ({len(runs.masked)} more are masked)." if runs.masked else "."),
            f"Add at least {p - n} runs (three budgets with three sizes each is a sound minimum).",
            points=n,
            parameters=p,
        )
    loss = runs.loss[runs.used]
    if float(loss.max()) == float(loss.min()):
        raise FittingError(
            "constant_loss",
            f"All {n} losses are {float(loss[0])}.",
            "A law needs runs that differ in loss: check that the right column was read.",
            loss=float(loss[0]),
        )


def warnings_of(
    engine: Engine, best: Optimum, draws: Floats, calibration: Calibration, runs: Runs
) -> list[Warned]:
    """Everything a reader of this fit should be told."""
    return [
        *_about_data(engine, runs),
        *_about_parameters(engine, best),
        *_about_drift(calibration),
    ]


def _about_data(engine: Engine, runs: Runs) -> list[Warned]:
    out = []
    for i in engine.law.inputs:
        values = engine.inputs[i.name]
        if np.ptp(np.log(values)) < 1e-6 if (values > 0).all() else np.ptp(values) == 0:
            out.append(
                Warned(
                    "one_value_only",
                    f"Every run has {i.name} = {values[0]:.6g}: the data say nothing about how "
                    f"loss depends on {i.name}. Add runs with another {i.about}.",
                )
            )
    if {"N", "D"} <= set(engine.inputs):
        budgets = _distinct(distance(engine), 0.1)
        if budgets < 3:
            out.append(
                Warned(
                    "few_budgets",
                    f"The runs span {budgets} compute budget(s); with fewer than three, an "
                    "extrapolation rests on the form of the law alone. Add a budget.",
                )
            )
    return out


def _distinct(values: Floats, apart: float) -> int:
    """How many clusters `values` form when gaps above `apart` separate them."""
    ordered = np.sort(values)
    return 1 + int((np.diff(ordered) > apart).sum())


def _about_parameters(engine: Engine, best: Optimum) -> list[Warned]:
    out = []
    law = engine.law
    for j, p in enumerate(law.params):
        value = best.values[j]
        low, high = p.link.lower, p.link.upper
        width = high - low
        at = low if value - low <= 1e-9 * min(width, 1.0) else None
        if np.isfinite(high) and high - value <= 1e-9 * min(width, 1.0):
            at = high
        floor = law.powers.floor if law.powers else None
        if p.name == floor:
            if value < 1e-3 * float(engine.loss.min()):
                out.append(
                    Warned(
                        "floor_vanishes",
                        f"{p.name} went to zero ({value:.3g}): these runs do not show where the "
                        "loss levels off. Predictions far beyond them will be too low; add larger "
                        "runs, or check how N is counted.",
                    )
                )
        elif at is not None and (at != 0 or not p.link.log):
            out.append(
                Warned(
                    "parameter_at_bound",
                    f"{p.name} ended at its bound {at:g}: the data do not determine it.",
                )
            )
    return out


def _about_drift(calibration: Calibration) -> list[Warned]:
    return []
