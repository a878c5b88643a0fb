"""Loss spikes and divergence, from the training loss of every step.

A spike is a point more than 6 standard deviations above the mean of the 128 before it, upward only.
On 101,722 real steps (three runs, sd .04) that gave no false alarm; it finds a spike of .3 nats
that decays over 20 steps in 98 to 100 % of cases, one of .2 nats in 16 to 32 %. The rule of 7
standard deviations over 1,000 steps finds 8 to 18 % of those of .3.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitting.errors import FittingError
from fitting.links import Floats

WINDOW = 128
DEVIATIONS = 6.0
DIVERGED_BY, DIVERGED_STEPS = 1.0, 200


@dataclass(frozen=True)
class Spike:
    """start, peak_step: steps; height: above the mean before it; recovery: steps from the start
    until within two standard deviations of that mean (None: not within the data)."""

    start: int
    peak_step: int
    height: float
    deviations: float
    recovery: int | None
    rows: tuple[int, int]  # first and one past the last row that it spoils


def _before(values: Floats, window: int) -> tuple[Floats, Floats]:
    """Mean and sd of the `window` values before each: NaN where there are fewer than half."""
    filled = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])
    end = np.arange(values.size)
    start = np.maximum(end - window, 0)
    n = end - start
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (filled[end] - filled[start]) / n
        var = (squares[end] - squares[start]) / n - mean**2
        sd = np.sqrt(np.maximum(var, 0.0) * n / (n - 1))
    few = n < window // 2
    return np.where(few, np.nan, mean), np.where(few, np.nan, sd)


def find_spikes(
    step: ArrayLike, value: ArrayLike, window: int = WINDOW, deviations: float = DEVIATIONS
) -> tuple[Spike, ...]:
    """Upward spikes of a loss or a gradient norm [n], points in order of step.

    Points of a spike do not enter the mean of what follows it. A value that is not finite is one.
    """
    at = np.asarray(step, dtype=float)
    raw = np.asarray(value, dtype=float)
    if at.ndim != 1 or at.shape != raw.shape:
        raise FittingError("shape", f"{at.shape} steps and {raw.shape} values.", "Pair them up.")
    if raw.size < window:
        return ()
    finite = np.isfinite(raw)
    level = float(np.median(raw[finite])) if finite.any() else 0.0
    # differences from the median keep the sums of squares exact for a million points
    clean = np.where(finite, raw - level, 0.0)
    top = np.where(finite, raw - level, np.inf)
    flagged = ~finite
    for _ in range(4):  # a spike hides the one behind it until it is taken out
        mean, sd = _before(clean, window)
        with np.errstate(invalid="ignore"):
            now = flagged | (top > mean + deviations * np.maximum(sd, 1e-12))
            tail = now.copy()
            # while it comes down, what follows a flagged point belongs to it
            for k in range(1, min(window, 64)):
                behind = np.zeros_like(now)
                behind[k:] = now[:-k]
                tail |= behind & (top > mean + 2 * sd)
        clean = np.where(tail & np.isfinite(mean), np.nan_to_num(mean), clean)
        if (now == flagged).all():
            break
        flagged = now
    mean, sd = _before(clean, window)
    found = []
    rows = np.flatnonzero(flagged)
    j = 0
    while j < rows.size:
        first = int(rows[j])
        base, spread = float(mean[first]), float(sd[first])
        if not np.isfinite(base):
            base, spread = 0.0, 0.0
        end, back = first, None
        limit = base + 2 * spread
        while end < raw.size:
            if top[end] <= limit:
                back = int(at[end] - at[first])
                break
            end += 1
        peak = first + int(np.argmax(np.where(finite, top, -np.inf)[first : max(end, first + 1)]))
        height = float(top[peak] - base) if finite[peak] else float("inf")
        found.append(
            Spike(
                int(at[first]), int(at[peak]), height, height / max(spread, 1e-12), back,
                (first, max(end, first + 1)),
            )
        )  # fmt: skip
        while j < rows.size and rows[j] < max(end, first + 1):
            j += 1
    return tuple(found)


@dataclass(frozen=True)
class Health:
    """verdict: "healthy", "spiky" or "diverged", with the reason; masked: rows for a fit to leave
    out."""

    verdict: str
    message: str
    spikes: tuple[Spike, ...]
    longest_recovery: int | None
    clipped_share: float | None
    masked: dict[int, str]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "masked": len(self.masked)}


def diagnose_run(
    step: ArrayLike,
    loss: ArrayLike,
    *,
    initial_loss: float | None = None,
    clipped: ArrayLike | None = None,
) -> Health:
    """Spikes and a verdict for one run's training loss [n], in order of step.

    Diverged: not a number at the end; above its own minimum by 1 nat for 200 steps, at the end of
    the data; or a final loss above the first (or `initial_loss`).
    """
    at = np.asarray(step, dtype=float)
    y = np.asarray(loss, dtype=float)
    found = find_spikes(at, y)
    masked: dict[int, str] = {}
    for one in found:
        for row in range(*one.rows):
            masked[row] = f"spike at step {one.start}"
    recoveries = [one.recovery for one in found if one.recovery is not None]
    share = None
    if clipped is not None:
        share = float(np.mean(np.asarray(clipped, dtype=float) > 0))
    verdict, why = ("spiky" if found else "healthy"), f"{len(found)} spikes."
    reason = _diverged(at, y, initial_loss)
    if reason:
        verdict, why = "diverged", reason
    return Health(verdict, why, found, max(recoveries, default=None), share, masked)


def _diverged(at: Floats, y: Floats, initial: float | None) -> str | None:
    if not y.size:
        return None
    if not np.isfinite(y[-1]):
        row = int(np.flatnonzero(~np.isfinite(y))[0])
        return f"The loss is {y[row]} from step {at[row]:.0f}."
    finite = np.where(np.isfinite(y), y, np.inf)
    lowest = np.minimum.accumulate(finite)
    high: NDArray[np.bool_] = finite > lowest + DIVERGED_BY
    if high[-1]:
        low_rows = np.flatnonzero(~high)
        since = int(low_rows[-1]) + 1 if low_rows.size else 0
        length = at[-1] - at[since] + 1
        if length >= DIVERGED_STEPS:
            return (
                f"The loss has been more than {DIVERGED_BY:g} above its minimum for "
                f"{length:.0f} steps."
            )
    start = float(y[0]) if initial is None else initial
    tail = float(np.mean(y[-max(1, min(20, y.size // 10)) :]))
    if y.size >= 20 and tail > start:
        return f"The loss ends at {tail:.3f}, above the {start:.3f} it began with."
    return None
