"""Task accuracy from a loss: four curves, each with its chance level anchored where it is known.

| name | accuracy at loss L | from |
|---|---|---|
| sigmoid | chance + (top - chance) / (1 + exp(k (L - L0))) | OLMo ladder (Bhagia et al. 2024) |
| decay | 1 - eps + k exp(-gamma L); eps = 1 - chance | Gadre et al. 2024, eq. 5 |
| softmin | 1 - softmin(e, b (L - c)^a + d); e = 1 - chance | Brandfonbrener et al. 2024, app. |
| threshold | chance above eta, chance + b (eta - L) below | Du et al. 2024, emergence |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fitting.errors import FittingError
from fitting.links import Floats

# softmin(a, b) = -log(exp(-10 a) + exp(-10 b)) / 10: the sharpness of the authors' code.
SHARPNESS = 10.0


@dataclass(frozen=True)
class TaskCurve:
    """formula(L, **params) -> accuracy. anchor: the parameter that `chance` fixes, and how.
    floor: the parameter that is the smallest loss at which the curve has a value, if it has one.
    starts(L, accuracy): {param: values}; bounds: {param: (low, high)}."""

    name: str
    title: str
    source: str
    formula: Callable[..., Any]
    params: tuple[str, ...]
    bounds: Mapping[str, tuple[float, float]]
    starts: Callable[[Floats, Floats], dict[str, tuple[float, ...]]]
    anchor: tuple[str, Callable[[float], float]]
    floor: str | None = None

    def free(self, chance: float | None) -> tuple[str, ...]:
        """The parameters that are fitted: all but the anchored one where chance is known."""
        return tuple(p for p in self.params if chance is None or p != self.anchor[0])

    def fixed(self, chance: float | None) -> dict[str, float]:
        return {} if chance is None else {self.anchor[0]: self.anchor[1](chance)}


def _sigmoid(L: Any, *, chance: Any, top: Any, k: Any, L0: Any) -> Any:
    return chance + (top - chance) / (1.0 + np.exp(np.clip(k * (L - L0), -500, 500)))


def _decay(L: Any, *, eps: Any, k: Any, gamma: Any) -> Any:
    return 1.0 - eps + k * np.exp(-gamma * L)


def softmin(a: Any, b: Any) -> Any:
    """Smooth minimum, at most min(a, b)."""
    return -np.logaddexp(-SHARPNESS * np.asarray(a), -SHARPNESS * np.asarray(b)) / SHARPNESS


def _softmin(L: Any, *, e: Any, b: Any, a: Any, c: Any, d: Any) -> Any:
    gap = np.maximum(L - c, 1e-9)  # c is bounded below the smallest loss: nothing is clipped there
    return 1.0 - softmin(e, b * gap**a + d)


def _threshold(L: Any, *, chance: Any, b: Any, eta: Any) -> Any:
    return chance + b * np.maximum(eta - L, 0.0)


def _spread(L: Floats, count: int = 4) -> tuple[float, ...]:
    return tuple(np.quantile(L, np.linspace(0.1, 0.9, count)).tolist())


CURVES: dict[str, TaskCurve] = {
    c.name: c
    for c in (
        TaskCurve(
            "sigmoid",
            "Sigmoid",
            "Bhagia et al. 2024, arXiv 2412.04403, step 2",
            _sigmoid,
            ("chance", "top", "k", "L0"),
            {"chance": (0.0, 1.0), "top": (0.0, 1.0), "k": (1e-3, 200.0), "L0": (-20.0, 20.0)},
            lambda L, y: {
                "chance": (float(y.min()),),
                "top": (min(1.0, float(y.max())), 1.0),
                "k": (1.0, 4.0, 12.0),
                "L0": _spread(L),
            },
            ("chance", lambda chance: chance),
        ),
        TaskCurve(
            "decay",
            "Exponential decay of the error's gap to chance",
            "Gadre et al. 2024, arXiv 2403.08540, eq. 5",
            _decay,
            ("eps", "k", "gamma"),
            {"eps": (0.0, 1.0), "k": (0.0, 1e6), "gamma": (1e-3, 50.0)},
            lambda L, y: {
                "eps": (min(1.0, 1.0 - float(y.min()) + 0.02),),
                "k": (1.0, 10.0),
                "gamma": (0.3, 0.8, 2.0, 5.0),
            },
            ("eps", lambda chance: 1.0 - chance),
        ),
        TaskCurve(
            "softmin",
            "Soft minimum of chance and a shifted power law",
            "Brandfonbrener et al. 2024, arXiv 2411.12925, appendix",
            _softmin,
            ("e", "b", "a", "c", "d"),
            {
                "e": (0.0, 1.0),
                "b": (0.0, 50.0),
                "a": (0.05, 8.0),
                "c": (0.0, 20.0),
                "d": (-1.0, 1.0),
            },
            lambda L, y: {
                "e": (min(1.0, 1.0 - float(y.min())),),
                "b": (0.3, 1.0),
                "a": (0.5, 1.0, 2.0),
                "c": (0.7 * float(L.min()), 0.95 * float(L.min())),
                "d": (0.0, 0.3),
            },
            ("e", lambda chance: 1.0 - chance),
            floor="c",
        ),
        TaskCurve(
            "threshold",
            "Chance above a threshold loss, a straight line below",
            "Du et al. 2024, arXiv 2403.15796 (the line is the simplest g)",
            _threshold,
            ("chance", "b", "eta"),
            {"chance": (0.0, 1.0), "b": (0.0, 50.0), "eta": (0.0, 20.0)},
            lambda L, y: {
                "chance": (float(np.quantile(y, 0.2)),),
                "b": (0.1, 0.5, 2.0),
                "eta": _spread(L, 9),
            },
            ("chance", lambda chance: chance),
        ),
    )
}


def get_curve(name: str) -> TaskCurve:
    """The curve of that name; a FittingError that lists the known ones if there is none."""
    if name not in CURVES:
        raise FittingError(
            "bad_option", f"There is no task law {name!r}.", f"Use: {', '.join(CURVES)} or auto."
        )
    return CURVES[name]
