"""What an import brings, once it has been checked: runs with one loss each, or whole curves.

Pure values. Importers make them, `app.services.imports` stores them, the command line fits them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

N_CONVENTIONS = ("total", "non_embedding", "blocks", "blocks_and_head")
FLOPS_CONVENTIONS = ("exact", "6ND", "palm")
LOSS_UNITS = ("nats/token", "nats/byte", "bits/byte")


@dataclass(frozen=True)
class Conventions:
    """How N and C were counted and in what the loss is: carried, never mixed."""

    n_convention: str = "total"
    flops_convention: str = "6ND"
    loss_unit: str = "nats/token"


@dataclass(frozen=True)
class MeasuredPoint:
    """One finished run, or one checkpoint of it: its inputs (as floats) and its loss.

    weight: what it counts in a fit; left_out: why it is kept out of one, if it is.
    """

    row: int
    run: str | None
    inputs: Mapping[str, float]
    loss: float
    flops: float | None = None
    step: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    weight: float | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class MeasuredCurve:
    """The losses of one run along training, by increasing step.

    step  int64 (points,); loss  float64 (points,), positive and finite
    lr, tokens  float64 (points,) or None where the source has no such column
    inputs      what is constant over the run (N)
    """

    row: int
    run: str
    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    lr: NDArray[np.float64] | None
    tokens: NDArray[np.float64] | None
    inputs: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """One source, read whole and found good. Exactly one of points and curves is filled."""

    format: str
    digest: str
    conventions: Conventions
    points: tuple[MeasuredPoint, ...] = ()
    curves: tuple[MeasuredCurve, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    repeated_rows: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return "curves" if self.curves else "points"

    @property
    def n_points(self) -> int:
        return len(self.points) or sum(len(curve.step) for curve in self.curves)
