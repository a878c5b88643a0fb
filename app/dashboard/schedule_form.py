"""A learning-rate schedule as fields of a form: read from the address, with sliders beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.dashboard import text
from fitting.curves import Schedule

KINDS = ("wsd", "cosine", "linear", "constant")
DECAYS = {"sqrt": "1 − √", "linear": "linear", "cosine": "cosine", "power": "square"}
MOST_STEPS = 2_000_000
WARM_SHARE, COOL_SHARE = 0.02, 0.2


@dataclass(frozen=True)
class Asked:
    """The form as it was read."""

    kind: str
    steps: int
    peak_lr: float
    warmup_steps: int
    cooldown_steps: int
    decay: str
    final_fraction: float

    def schedule(self) -> Schedule:
        return Schedule.from_dict(
            {
                "kind": self.kind,
                "steps": self.steps,
                "peak_lr": self.peak_lr,
                "warmup_steps": self.warmup_steps,
                "cooldown_steps": self.cooldown_steps,
                "decay": self.decay,
                "final_fraction": self.final_fraction,
                "power": 2.0,
            }
        )


def read(
    query: Mapping[str, str], *, steps: int, peak_lr: float, kind: str = "wsd", warm: bool = True
) -> Asked:
    """What cannot be read takes its default: `steps` at `peak_lr`, with a short warm-up."""

    def number(name: str, default: float, most: float) -> float:
        value = text.parse(query.get(name))
        return default if value is None or not 0 <= value <= most else value

    steps = int(number("steps", steps, MOST_STEPS)) or steps
    warmup = int(number("warmup_steps", WARM_SHARE * steps if warm else 0, MOST_STEPS))
    cooldown = int(number("cooldown_steps", COOL_SHARE * steps, MOST_STEPS))
    asked, decay = query.get("kind", kind), query.get("decay", "")
    return Asked(
        asked if asked in KINDS else kind,
        steps,
        number("peak_lr", peak_lr, 100.0) or peak_lr,
        min(warmup, steps),
        min(cooldown, steps),
        decay if decay in DECAYS else "sqrt",
        number("final_fraction", 0.0, 1.0),
    )


def sliders(asked: Asked, peaks: tuple[float, float], longest: float) -> list[dict[str, Any]]:
    """One a number. peaks: the fitted peak rates, and the only ones that a law knows; longest: the
    steps of the longest fitted run. Positions are log10 where `log` is."""
    low, high = min(asked.peak_lr, peaks[0]), max(asked.peak_lr, peaks[1])
    out = [
        slider("steps", "Length", asked.steps, 0.05 * longest, 10 * longest, "steps", log=True),
        slider("peak_lr", "Peak learning rate", asked.peak_lr, low, high, "", log=True),
        slider("warmup_steps", "Warm-up", asked.warmup_steps, 0, 0.5 * asked.steps, "steps"),
    ]
    if asked.kind == "wsd":
        cool = asked.cooldown_steps
        out.append(slider("cooldown_steps", "Cool-down", cool, 0, asked.steps, "steps"))
    if asked.kind != "constant":
        final = asked.final_fraction
        out.append(slider("final_fraction", "Final rate, share of the peak", final, 0, 1, ""))
    return out


def slider(
    name: str, label: str, value: float, low: float, high: float, unit: str, log: bool = False
) -> dict[str, Any]:
    low, high, at = (float(np.log10(v)) if log else v for v in (low, high, value))
    return {
        "name": name,
        "label": label,
        "unit": unit,
        "shown": f"{value:,.0f}" if unit == "steps" else f"{value:.4g}",
        "log": log,
        "movable": high > low,
        "low": low,
        "high": high,
        "step": 0.01 if log else max((high - low) / 200, 1e-9),
        "at": round(at, 4),
    }
