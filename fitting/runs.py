"""Runs: measured points, checked once when they are made, then trusted."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitting.errors import FittingError
from fitting.links import Floats

N_CONVENTIONS = ("total", "non_embedding", "blocks", "blocks_and_head")
FLOPS_CONVENTIONS = ("exact", "6ND", "palm")
LOSS_UNITS = ("nats/token", "nats/byte", "bits/byte")
LARGEST = 1e60  # see `leaves_the_floats`


def leaves_the_floats(values: Floats) -> NDArray[np.bool_]:
    """Which values are so large, or so near to zero, that products such as 6ND leave the floats."""
    return np.asarray((values > LARGEST) | ((values > 0) & (values < 1 / LARGEST)))


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    values.setflags(write=False)
    return values


def _floats(name: str, values: ArrayLike) -> Floats:
    try:
        column = np.array(values, dtype=float)  # integers become floats here: 6*N*D must not wrap
    except (TypeError, ValueError) as error:
        raise FittingError(
            "bad_value", f"{name} holds something that is not a number ({error}).", "Give numbers."
        ) from None
    if column.ndim != 1:
        raise FittingError("shape", f"{name} has shape {column.shape}.", "Give one value a point.")
    return column


class Runs:
    """Points for one fit: inputs, losses, and what they were measured in. Read-only.

    inputs: {"N": [points], "D": [points], ...}, within 1e-60 to 1e60 (as floats).
    loss: [points], positive, in the same bounds.
    run: the run that each point came from (any labels); the bootstrap resamples runs, because the
        points of one curve are not independent. None: every point is a run of its own.
    weights: [points], not negative; a weight of 2 counts as the same point given twice.
    masked: {row: reason}; these points are kept for the record and left out of every fit.
    n_convention, flops_convention, loss_unit: one word for all points, or one per point, which
        then must all be the same: a fit never mixes them.
    flops: [points], training compute in `flops_convention`, where known.
    cooled: [points], whether the run went through its cool-down; unique_tokens: [points], how many
        distinct tokens it could draw from. No fit reads them: they are for warnings, and stand
        outside the digest.
    """

    def __init__(
        self,
        inputs: Mapping[str, ArrayLike],
        loss: ArrayLike,
        run: Sequence[Any] | NDArray[Any] | None = None,
        weights: ArrayLike | None = None,
        masked: Mapping[int, str] | None = None,
        n_convention: str | Sequence[str] = "total",
        flops_convention: str | Sequence[str] = "6ND",
        loss_unit: str | Sequence[str] = "nats/token",
        flops: ArrayLike | None = None,
        cooled: ArrayLike | None = None,
        unique_tokens: ArrayLike | None = None,
    ) -> None:
        self.loss: Floats = _frozen(_floats("loss", loss))
        n = self.loss.size
        if n == 0:
            raise FittingError("too_few_points", "There are no points.", "Give at least one run.")
        self.inputs: dict[str, Floats] = {k: _frozen(_floats(k, v)) for k, v in inputs.items()}
        self.masked: dict[int, str] = {int(k): str(v) for k, v in (masked or {}).items()}
        self.used: NDArray[np.bool_] = np.ones(n, dtype=bool)
        for row in self.masked:
            if not 0 <= row < n:
                raise FittingError("shape", f"masked names row {row} of {n} points.")
            self.used[row] = False
        self.used = _frozen(self.used)
        self.weights: Floats | None = None
        if weights is not None:
            self.weights = _frozen(_floats("weights", weights))
        self.flops: Floats | None = None
        if flops is not None:
            self.flops = _frozen(_floats("flops", flops))
        self.cooled = None if cooled is None else _frozen(np.array(cooled, dtype=bool))
        self.unique_tokens: Floats | None = None
        if unique_tokens is not None:
            self.unique_tokens = _frozen(_floats("unique_tokens", unique_tokens))
        for name, about in (("cooled", self.cooled), ("unique_tokens", self.unique_tokens)):
            if about is not None and about.shape != (n,):
                raise FittingError(
                    "shape", f"{name} has shape {about.shape} for {n} losses.", "Give one a point."
                )
        labels = np.arange(n) if run is None else np.asarray(run)
        for name, column in self._columns().items():
            if column.size != n:
                raise FittingError(
                    "shape", f"{name} has {column.size} values for {n} losses.", "Give one a point."
                )
            self._check(name, column)
        if labels.shape != (n,):
            raise FittingError("shape", f"run has shape {labels.shape} for {n} losses.")
        self.group: NDArray[np.int64] = _frozen(
            np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(n)
        )
        self.n_convention = _one_word("n_convention", n_convention, N_CONVENTIONS)
        self.flops_convention = _one_word("flops_convention", flops_convention, FLOPS_CONVENTIONS)
        self.loss_unit = _one_word("loss_unit", loss_unit, LOSS_UNITS)
        if self.weights is not None and not (self.weights[self.used] > 0).any():
            raise FittingError("bad_value", "Every weight is zero.", "Give one point some weight.")
        self.digest = self._digest()

    def _columns(self) -> dict[str, Floats]:
        more = {"loss": self.loss, "weights": self.weights, "flops": self.flops}
        return {**self.inputs, **{k: v for k, v in more.items() if v is not None}}

    def _check(self, name: str, column: Floats) -> None:
        low_is_bad = column < 0 if name == "weights" else column <= 0
        bad = ~np.isfinite(column) | low_is_bad
        bad &= self.used  # a masked point may be anything; its reason says why
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = float(column[row])
            what = "not negative" if name == "weights" else "positive"
            others = int(bad.sum()) - 1
            raise FittingError(
                "bad_value",
                f"{name} is {value} in row {row + 1} of {column.size}"
                + (f" (and bad in {others} more)." if others else "."),
                f"{name} must be finite and {what}: correct the row, drop it, or mask it.",
                row=row,
                column=name,
                value=value,
                rows=np.flatnonzero(bad)[:20].tolist(),
            )
        if name == "weights":
            return
        far = self.used & leaves_the_floats(column)
        if far.any():
            row = int(np.flatnonzero(far)[0])
            raise FittingError(
                "bad_value",
                f"{name} is {float(column[row])} in row {row + 1} of {column.size}.",
                f"Values lie between {1 / LARGEST:g} and {LARGEST:g}: correct the row, drop it, "
                "or mask it.",
                row=row,
                column=name,
                value=float(column[row]),
                rows=np.flatnonzero(far)[:20].tolist(),
            )

    def _digest(self) -> str:
        """sha256 of everything that a fit reads; the same points in the same order agree."""
        sha = hashlib.sha256()
        words = [self.n_convention, self.flops_convention, self.loss_unit, sorted(self.inputs)]
        sha.update(json.dumps([words, sorted(self.masked)]).encode())
        for name, column in sorted(self._columns().items()):
            sha.update(name.encode() + np.ascontiguousarray(column, dtype="<f8").tobytes())
        sha.update(self.group.astype("<i8").tobytes())
        return sha.hexdigest()

    def __len__(self) -> int:
        return self.loss.size

    @property
    def n_used(self) -> int:
        return int(self.used.sum())

    def select(self, rows: ArrayLike) -> "Runs":
        """The points of `rows` (a boolean mask or row numbers) as Runs of their own."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(int)
        return Runs(
            {k: v[index] for k, v in self.inputs.items()},
            self.loss[index],
            self.group[index],
            None if self.weights is None else self.weights[index],
            {
                int(new): self.masked[int(old)]
                for new, old in enumerate(index)
                if old in self.masked
            },
            self.n_convention,
            self.flops_convention,
            self.loss_unit,
            None if self.flops is None else self.flops[index],
            None if self.cooled is None else self.cooled[index],
            None if self.unique_tokens is None else self.unique_tokens[index],
        )

    def unmasked(self) -> "Runs":
        """Only the points that a fit uses."""
        return self if not self.masked else self.select(self.used)

    def with_compute(self) -> "Runs":
        """With an input C, where compute is known and C was not given: for laws of C alone."""
        C = self.compute()
        if C is None or "C" in self.inputs:
            return self
        return Runs(
            {**self.inputs, "C": C},
            self.loss,
            self.group,
            self.weights,
            self.masked,
            self.n_convention,
            self.flops_convention,
            self.loss_unit,
            self.flops,
            self.cooled,
            self.unique_tokens,
        )

    def compute(self) -> Floats | None:
        """Training FLOPs of each point: as given, else 6 N D where both are known, else C."""
        if self.flops is not None:
            return self.flops
        if "N" in self.inputs and "D" in self.inputs:
            return np.asarray(6.0 * self.inputs["N"] * self.inputs["D"])
        return self.inputs.get("C")


def _one_word(name: str, given: str | Sequence[str], known: tuple[str, ...]) -> str:
    words = {given} if isinstance(given, str) else {str(w) for w in given}
    if len(words) != 1:
        raise FittingError(
            "mixed_conventions",
            f"The points mix {name}: {', '.join(sorted(words))}.",
            "Fit each convention on its own, or convert the points to one.",
            found=sorted(words),
        )
    word = words.pop()
    if word not in known:
        raise FittingError(
            "bad_option", f"{name} {word!r} is not known.", f"Use one of: {', '.join(known)}."
        )
    return word
