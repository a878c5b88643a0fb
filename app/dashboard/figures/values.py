"""What a figure is made from: named quantities, point clouds, lines with a band."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Quantity:
    """What an axis shows: `Quantity("N", "parameters")`."""

    name: str
    unit: str = ""
    log: bool = True

    @property
    def title(self) -> str:
        if not self.name or not self.unit:
            return self.name or self.unit
        return f"{self.name} ({self.unit})"


@dataclass(frozen=True)
class Cloud:
    """Measured points: x, y (n,); `shade` (n,) colours them; `labels` name them on hover."""

    x: Array
    y: Array
    shade: Array | None = None
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Line:
    """One curve of a law: x, y (n,), its interval, and the value that chooses its colour."""

    x: Array
    y: Array
    lower: Array | None = None
    upper: Array | None = None
    label: str = ""
    shade: float | None = None
    optimum: tuple[float, float] | None = field(default=None)
    """(x, y) of an interior minimum, where there is one."""
