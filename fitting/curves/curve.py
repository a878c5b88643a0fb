"""Curve: the loss of one run along its steps, and the schedule that it was trained with."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitting.curves.schedule import Schedule
from fitting.errors import FittingError
from fitting.links import Floats

# Points of one curve that a fit works on; more are rolled up.
MOST_POINTS = 400
# The code of the warning that `mixed_warmups` gives.
MIXED = "warmups_mixed"


def check_size(name: str, size: float | None) -> None:
    """The model's size N, where one is given, has a logarithm."""
    if size is not None and not (np.isfinite(size) and size > 0):
        raise FittingError(
            "bad_value", f"Curve {name}: N is {size}.", "Give a positive number.", run=name
        )


def check_steps(name: str, ordered: Floats) -> None:
    """Steps in order, each once. A rolled-up curve may have the mean of several."""
    twice = np.flatnonzero(np.diff(ordered) == 0)
    if twice.size:
        raise FittingError(
            "bad_value",
            f"Curve {name}: step {ordered[twice[0]]:g} stands twice.",
            "Give one loss a step; tell runs and validation sets apart.",
            run=name,
        )


@dataclass(frozen=True)
class Curve:
    """Checked when made; read-only. Points stand in order of step.

    name: the run. step [n]: updates done when the loss was measured, 1 or more. loss [n]: positive.
    schedule: at least as long as the last step. size: N, for the laws that read it.
    masked: {row: reason}, left out of fits (spikes, say).
    """

    name: str
    step: NDArray[np.int64]
    loss: Floats
    schedule: Schedule
    size: float | None = None
    masked: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        step: ArrayLike,
        loss: ArrayLike,
        schedule: Schedule,
        size: float | None = None,
        masked: Mapping[int, str] | None = None,
    ) -> "Curve":
        """Sorts the points by step, drops those at step 0, refuses what cannot be used."""
        steps = np.asarray(step, dtype=float)
        losses = np.asarray(loss, dtype=float)
        if steps.ndim != 1 or steps.shape != losses.shape:
            raise FittingError(
                "shape", f"Curve {name}: {steps.shape} steps and {losses.shape} losses."
            )
        check_size(name, size)
        mask = {int(k): str(v) for k, v in (masked or {}).items()}
        used = np.array([row not in mask for row in range(steps.size)], dtype=bool)
        bad = (~np.isfinite(losses) | (losses <= 0) | ~np.isfinite(steps)) & used
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise FittingError(
                "bad_value",
                f"Curve {name}: loss {losses[row]} at step {steps[row]}.",
                "Losses must be finite and positive: mask the points of a spike or divergence.",
                row=row,
                run=name,
            )
        order = np.argsort(steps, kind="stable")
        order = order[steps[order] >= 1]
        if order.size and steps[order[-1]] > schedule.steps:
            raise FittingError(
                "bad_value",
                f"Curve {name} reaches step {steps[order[-1]]:.0f}, its schedule step "
                f"{schedule.steps}.",
                "Give the whole schedule that the run was trained with.",
                run=name,
            )
        check_steps(name, steps[order])
        place = {int(old): new for new, old in enumerate(order)}
        return cls(
            name,
            steps[order].astype(np.int64),
            losses[order],
            schedule,
            size,
            {place[row]: why for row, why in mask.items() if row in place},
        )

    def __len__(self) -> int:
        return int(self.step.size)

    def where(self, keep: NDArray[np.bool_]) -> "Curve":
        """The points of a mask."""
        place = np.cumsum(keep) - 1
        masked = {int(place[k]): why for k, why in self.masked.items() if keep[k]}
        return Curve(self.name, self.step[keep], self.loss[keep], self.schedule, self.size, masked)

    def usable(self, first_step: int = 1) -> "Curve":
        """Only the points that are not masked, from `first_step` on."""
        keep = self.step >= first_step
        keep[list(self.masked)] = False
        return self.where(keep) if not keep.all() else self

    def rolled_up(self, most: int = MOST_POINTS) -> tuple["Curve", Floats]:
        """At most about `most` points, each the mean of its neighbours, and how many went in: [n].

        The buckets are even in the logarithm of the step and in how far the rate has moved, so a
        cool-down at the end of a million steps keeps its shape.
        """
        if len(self) <= most:
            return self, np.ones(len(self))
        rates = self.schedule.rates()[: int(self.step[-1])]
        moved = np.cumsum(np.abs(np.diff(rates, prepend=rates[0])))[self.step - 1]
        along = np.log(self.step / self.step[0])
        along = along / max(along[-1], 1e-12)
        moved = (moved - moved[0]) / max(moved[-1] - moved[0], 1e-300)
        cell = ((along + moved) * (0.5 * (most - 1))).astype(int)
        starts = np.flatnonzero(np.diff(cell, prepend=cell[0] - 1))
        count = np.diff(np.append(starts, len(self))).astype(float)
        loss = np.add.reduceat(self.loss, starts) / count
        step = np.round(np.add.reduceat(self.step.astype(float), starts) / count).astype(np.int64)
        return Curve(self.name, step, loss, self.schedule, self.size), count


def digest(curves: Sequence[Curve]) -> str:
    """sha256 of everything that a fit of these curves reads."""
    sha = hashlib.sha256()
    for curve in curves:
        sha.update(curve.name.encode())
        sha.update(repr((curve.size, sorted(curve.masked))).encode())
        for column in (curve.step.astype("<i8"), curve.loss, curve.schedule.rates()):
            sha.update(np.ascontiguousarray(column).tobytes())
    return sha.hexdigest()


def summary(curves: Sequence[Curve]) -> dict[str, Any]:
    """What the curves cover: the ground from which a prediction's reach is counted."""
    return {
        "runs": [c.name for c in curves],
        "steps": max(c.schedule.rates()[: int(c.step[-1])].size for c in curves),
        "area": max(float(c.schedule.rates()[: int(c.step[-1])].sum()) for c in curves),
        "peak_lr": [
            min(c.schedule.peak_lr for c in curves),
            max(c.schedule.peak_lr for c in curves),
        ],
        "loss": [
            float(min(c.loss.min() for c in curves)),
            float(max(c.loss.max() for c in curves)),
        ],
        "warms_up": sorted({c.schedule.warms_up for c in curves}),
        "sizes": sorted({c.size for c in curves if c.size is not None}),
    }


def mixed_warmups(warms_up: Mapping[str, bool]) -> list[dict[str, str]]:
    """What to say where some runs' schedules warm up and others', as far as they are known, do
    not. warms_up: {run: does it}.

    A warm-up costs a law of the curve some hundredths of a nat that never go away, and its one
    floor cannot have them and not have them.
    """
    without = [name for name, warms in warms_up.items() if not warms]
    if not without or len(without) == len(warms_up):
        return []
    named = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
    return [
        {
            "code": MIXED,
            "message": f"{len(without)} of {len(warms_up)} runs have no warm-up that is known "
            f"({named}): a law of the curve holds the warm-up in its floor, the same for all. Give "
            "their schedules with the warm-up, or fit them apart.",
        }
    ]
