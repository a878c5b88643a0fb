"""CurveLaw: a law of the loss at every step, given the learning rate of every step.

A law of `fitting.laws` maps numbers to a loss; one of these maps a schedule to a curve. What it
reads of a schedule is computed once a curve (`features`), the rest is a formula with its Jacobian.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.curves.schedule import Schedule
from fitting.law import Param
from fitting.links import Floats

Features = Mapping[str, Floats]


@dataclass(frozen=True)
class CurveLaw:
    """name .. about: as in `fitting.law.Law`.

    features(schedule, steps [n], size or None, options) -> arrays that the formula reads.
    formula(values [B, p], features) -> (loss [B, n], d loss / d values [B, p, n]).
    linear: the parameters in which the loss is linear; the others' starts come from `starts`.
    starts: rows of the non-linear parameters, by name. options: defaults, e.g. {"momentum": .999}.
    needs_size: whether it reads N. levels: good for levels (else for ranking schedules only).
    """

    name: str
    title: str
    latex: str
    source: str
    about: str
    params: tuple[Param, ...]
    features: Callable[[Schedule, NDArray[np.int64], float | None, Mapping[str, Any]], Features]
    formula: Callable[[Floats, Features], tuple[Floats, Floats]]
    linear: tuple[str, ...]
    starts: tuple[Mapping[str, float], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_size: bool = False
    signed: tuple[str, ...] = ()  # linear parameters that may be negative
    pointwise: bool = (
        False  # features are one number a point: those of several curves may be joined
    )

    @property
    def param_names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.params)

    def values(self, params: Mapping[str, float]) -> Floats:
        """{name: value} as [p]."""
        return np.array([float(params[name]) for name in self.param_names])

    def loss(
        self,
        params: Mapping[str, float],
        schedule: Schedule,
        steps: Any,
        size: float | None = None,
        **options: Any,
    ) -> Floats:
        """The loss after each of `steps` under a schedule, at given parameters: [n]."""
        found = self.features(
            schedule, np.asarray(steps, dtype=np.int64), size, {**self.options, **options}
        )
        return np.asarray(self.formula(self.values(params)[None], found)[0][0])
