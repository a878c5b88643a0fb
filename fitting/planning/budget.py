"""A budget as people have it: FLOPs, GPU-hours, a deadline on so many GPUs, dollars; or several."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fitting.errors import FittingError

KINDS = ("flops", "gpu_hours", "hours", "dollars")


@dataclass(frozen=True)
class Budget:
    """What may be spent; where several are given, each of them holds.

    flops: training (and inference) FLOPs, in the FLOPs convention of the fit. gpu_hours: on all
    GPUs together. hours: of wall clock, until the deadline. dollars: at dollars_per_gpu_hour.
    """

    flops: float | None = None
    gpu_hours: float | None = None
    hours: float | None = None
    dollars: float | None = None
    dollars_per_gpu_hour: float | None = None

    def __post_init__(self) -> None:
        given = self.given
        if not given:
            raise FittingError(
                "bad_option", "No budget was given.",
                "Give one or more of flops, gpu_hours, hours, dollars.",
            )  # fmt: skip
        for name, value in {**given, "dollars_per_gpu_hour": self.dollars_per_gpu_hour}.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise FittingError("bad_option", f"{name} is {value}.", "It must be positive.")
        if self.dollars is not None and self.dollars_per_gpu_hour is None:
            raise FittingError(
                "bad_option", "dollars needs dollars_per_gpu_hour.", "Give the price of a GPU-hour."
            )

    @property
    def given(self) -> dict[str, float]:
        """{kind: value} of those that were given."""
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: float(value) for kind, value in found.items() if value is not None}

    def gpu_seconds(self, gpus: float) -> dict[str, float]:
        """{kind: GPU-seconds that it allows on `gpus` GPUs}, for those that are time."""
        out = {}
        if self.gpu_hours is not None:
            out["gpu_hours"] = 3600.0 * self.gpu_hours
        if self.hours is not None:
            out["hours"] = 3600.0 * self.hours * gpus
        if self.dollars is not None and self.dollars_per_gpu_hour is not None:
            out["dollars"] = 3600.0 * self.dollars / self.dollars_per_gpu_hour
        return out

    def grown(self, factor: float) -> "Budget":
        """Every limit but the price times `factor`."""
        return replace(self, **{kind: factor * value for kind, value in self.given.items()})

    def with_more(self, gpu_hours: float, gpus: float, flops_per_gpu_second: float) -> "Budget":
        """The budget that so many more GPU-hours would make, whatever it was given in."""
        more: dict[str, float] = {}
        for kind, value in self.given.items():
            add = {
                "flops": 3600.0 * gpu_hours * flops_per_gpu_second,
                "gpu_hours": gpu_hours,
                "hours": gpu_hours / gpus,
                "dollars": gpu_hours * (self.dollars_per_gpu_hour or 0.0),
            }[kind]
            more[kind] = value + add
        return replace(self, **more)

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Budget":
        try:
            return cls(**document)
        except TypeError as error:
            raise FittingError("bad_document", f"This is not a budget: {error}.") from None
