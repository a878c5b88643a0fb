"""What the laws read of a schedule: sums of the rate, momentum-weighted drops, merged drops.

All in O(steps); a schedule of a million steps costs some 20 ms.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.curves.schedule import Schedule
from fitting.links import Floats

Steps = NDArray[np.int64]

# Annealing below this share of the peak rate is over: Tissue's S2 goes on growing while nothing is
# learned any more, and padding a finished run with zero-rate steps must not improve it.
OVER = 1e-3


def area(rates: Floats) -> Floats:
    """S1 after every step: the sum of the rates so far, [steps]."""
    return np.cumsum(rates)


def momentum(rates: Floats, lam: float, before: float | None = None, start: float = 0.0) -> Floats:
    """m_i = lam m_(i-1) + (eta_(i-1) - eta_i) after every step, [steps].

    before: the rate of the step before the first; None: the first rate, so that no drop is counted
    where a run begins. start: m before the first step (a stage that carries the momentum on).
    """
    # imported here: with what it brings, a second that every start of the server would wait
    from scipy.signal import lfilter

    first = rates[0] if before is None else before
    drops = -np.diff(rates, prepend=first)
    found, _ = lfilter([1.0], [1.0, -lam], drops, zi=np.array([lam * start]))
    return np.asarray(found)


def annealed(
    rates: Floats,
    lam: float,
    before: float | None = None,
    start: float = 0.0,
    peak: float | None = None,
) -> Floats:
    """S2 after every step, [steps]: the sum of `momentum` while the rate is above OVER x peak."""
    m = momentum(rates, lam, before, start)
    going = rates > OVER * (float(rates.max()) if peak is None else peak)
    return np.cumsum(np.where(going, m, 0.0))


@dataclass(frozen=True)
class Sources:
    """Drops of the rate, merged: weight (sum of the drops; negative where the rate rises), rate
    after the drop, and S1 before it; each [sources]."""

    drop: Floats
    rate: Floats
    before: Floats


def sources(schedule: Schedule, most: int | None = 64, skip_warmup: bool = False) -> Sources:
    """The drops of a schedule, at most about `most` of them (None: every one).

    Neighbours of one sign are merged into one at their weighted mean place. Merging to 64 moves a
    prediction by less than 1e-5 of loss, and costs 300 times less.
    """
    rates = schedule.rates()
    drop = -np.diff(rates, prepend=rates[0])
    if skip_warmup:
        drop[: schedule.warmup_steps + 1] = 0.0
    before = area(rates) - rates
    at = np.flatnonzero(drop)
    # a rate of zero has an infinite power: as good as nothing is nothing
    rate = np.maximum(rates[at], 1e-9 * schedule.peak_lr)
    if most is None or at.size <= most:
        return Sources(drop[at], rate, before[at])
    weight = np.abs(drop[at])
    # a rise and a fall never share a source, nor do the two sides of a flat stretch
    turned = np.diff(np.sign(drop[at]), prepend=np.sign(drop[at[0]])) != 0
    apart = np.diff(at, prepend=at[0]) > 1 + schedule.steps // 200
    stretch = np.cumsum(turned | apart)
    # a fall: equal shares of the way down and of the S1 that passes, since a slow tail needs
    # sources too; a rise: of the way up and of ln S1, since powers are steep in a warm-up
    after = before[at] + rates[at] + 1e-12 * schedule.peak_lr
    names = np.unique(stretch)
    starts_at = np.searchsorted(stretch, names)
    moved = np.add.reduceat(weight, starts_at)
    falls = drop[at[starts_at]] > 0
    share = np.where(falls, moved, 0.25 * moved)
    counts = np.maximum(np.round((most - 2) * share / share.sum()).astype(int), 2)
    keys = np.empty(at.size, dtype=np.int64)
    for name, first, count in zip(names, starts_at, counts, strict=True):
        own = slice(first, first + int((stretch == name).sum()))
        way = np.cumsum(weight[own]) / weight[own].sum()
        passed = after[own] if drop[at[first]] > 0 else np.log(after[own])
        passed = passed - passed[0]
        way = 0.5 * way + 0.5 * passed / max(float(passed[-1]), 1e-300)
        keys[own] = name * (most + 2) + np.minimum((way * count).astype(int), count - 1)
    starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    total = np.add.reduceat(weight, starts)

    def mean(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(weight * values, starts) / total)

    sign = np.sign(drop[at[starts]])
    return Sources(sign * total, np.exp(mean(np.log(rate))), mean(before[at]))
