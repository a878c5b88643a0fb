"""Choose the constants of the interval's calibration, from simulated truths only.

    PYTHONPATH=. python -m tests.benchmarks.calibrate [--repeats 40] [--severity | --floor]

Every task is fitted once; what the constants touch (how the prior on drift is mixed with what the
rolling origins saw) is then tried over a grid. Judged by the interval score, mean over 80, 90 and
95 % and over the families with faulty runs, which weigh one each: no real sweep is without faults.
The score is least for the true quantiles, so it asks for coverage and sharpness at once (Gneiting &
Raftery 2007, eq. 43). `coverage.py` shows them on other seeds, and on real runs.
"""

import argparse
import itertools
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from fitting import Objective, fit, get_law
from fitting.engine import Engine
from fitting.floor import FLOOR_SHARE, with_floor
from fitting.intervals import LEAN, PRIOR_DRIFT, PRIOR_WEIGHT, SEEN_WEIGHT, Calibration
from fitting.predict import decades_beyond, draw_quantiles, floor_rise
from tests.benchmarks.fit_tasks import Task, real
from tests.benchmarks.truths import SIZES, simulated

LEVELS = (0.8, 0.9, 0.95)
# A weight of 1e6: the prior is certain. No weight for what was seen, no lean: limits as well.
DRIFTS = (0.0075, 0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.04, 0.05)
WEIGHTS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 1e6)
SEEN = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
LEANS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
# Tried besides: the expected drift grows with the scatter of the training set, to this power.
GROWTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SCATTER = 0.01
# Floors that are tried where the runs show none, as shares of the smallest loss.
SHARES = (0.0, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
SEVERITIES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)


@dataclass(frozen=True)
class Constants:
    prior: float
    weight: float
    seen: float
    lean: float
    growth: float = 0.0


USED = Constants(PRIOR_DRIFT, PRIOR_WEIGHT, SEEN_WEIGHT, LEAN)


@dataclass(frozen=True)
class Seen:
    """One task, fitted: off [points] in log loss, quantiles of the draws by level, how far; rise:
    how much higher the law with a floor is, where the runs show none."""

    family: str
    points: int
    off: np.ndarray
    draws: dict[float, tuple[np.ndarray, np.ndarray]]
    decades: np.ndarray
    calibration: Calibration
    rise: np.ndarray


def look(task: Task) -> Seen:
    f = fit(get_law("chinchilla"), task.train, draws=200)
    x = f.law.columns(task.inputs)
    value = np.asarray(f.law.evaluate(x, f.values), dtype=float)
    return Seen(
        task.family,
        len(task.train),
        np.log(task.loss / value),
        {level: draw_quantiles(f, x, value, level) for level in LEVELS},
        decades_beyond(f, x),
        f.calibration,
        floor_rise(f, x, value),
    )


class Table:
    """All tasks' held-out points side by side, so that a setting is judged in a millisecond."""

    def __init__(self, seen: list[Seen]) -> None:
        def each(name: str) -> np.ndarray:
            return np.array([getattr(s.calibration, name) for s in seen])

        self.families = np.array([s.family for s in seen])
        self.sizes = np.array([s.points for s in seen])
        self.counts = np.array([s.off.size for s in seen])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self.off = np.concatenate([s.off for s in seen])
        self.decades = np.concatenate([s.decades for s in seen])
        self.rise = np.concatenate([s.rise for s in seen])
        self.noise, self.freedom = each("noise"), each("noise_freedom")
        self.seen, self.bias = each("seen"), each("bias")
        self.span = each("span")
        self.near = {}
        for level in LEVELS:
            one = self._long(stdtrit(self.freedom, 0.5 + 0.5 * level) * self.noise)
            low, high = (np.concatenate([s.draws[level][k] for s in seen]) for k in (0, 1))
            self.near[level] = [np.hypot(np.maximum(q, 0.0), one) for q in (-low, high)]

    def _long(self, each: np.ndarray) -> np.ndarray:
        return np.repeat(each, self.counts)

    def _mean(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(points, self.starts) / self.counts)

    def judged(self, c: Constants) -> dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """{level: (coverage, mean half-width, interval score)}, each [tasks]. What `mixed_drift`
        and `predict` do, for all tasks at once; a test holds them together."""
        prior = c.prior * (np.maximum(self.noise, 1e-5) / SCATTER) ** c.growth
        weight = np.where(self.span > 0, c.seen * np.maximum(1.0, self.span), 0.0)
        total = c.weight + weight
        drift = np.sqrt((c.weight * prior**2 + weight * self.seen**2) / total)
        lean = c.lean * np.sign(self.bias) * np.minimum(np.abs(self.bias), self.seen)
        lean = self._long(lean) * self.decades
        out = {}
        for level in LEVELS:
            far = self._long(stdtrit(total, 0.5 + 0.5 * level) * drift) * self.decades
            below, above = (
                np.maximum(np.hypot(near, far) + way * lean, near)
                for near, way in zip(self.near[level], (-1.0, 1.0), strict=True)
            )
            above = np.hypot(above, self.rise)
            miss = np.maximum(-below - self.off, 0) + np.maximum(self.off - above, 0)
            score = below + above + 2 / (1 - level) * miss
            out[level] = tuple(map(self._mean, (miss == 0, (below + above) / 2, score)))
        return out

    def score(self, c: Constants) -> np.ndarray:
        """Interval score, mean over the levels: [tasks]. Every family has as many."""
        return np.asarray(np.mean([of[2] for of in self.judged(c).values()], axis=0))


def best(table: Table, leans: Sequence[float], growths: Sequence[float]) -> list[Constants]:
    """All settings, the best first."""
    grid = itertools.product(DRIFTS, WEIGHTS, SEEN, leans, growths)
    scored = [(float(table.score(c).mean()), c) for c in itertools.starmap(Constants, grid)]
    return [c for _, c in sorted(scored, key=lambda one: one[0])]


def gain(table: Table, plain: Constants, other: Constants) -> tuple[float, float]:
    """By how much `other` lowers the score, and the standard error of that (bootstrap over tasks),
    as shares of the plain score."""
    less = table.score(plain) - table.score(other)
    rng = np.random.default_rng(43)
    means = less[rng.integers(0, less.size, (1000, less.size))].mean(axis=1)
    scale = table.score(plain).mean()
    return float(less.mean() / scale), float(means.std() / scale)


def floor(repeats: int, first: int) -> None:
    """The share of the smallest loss at which a floor is tried where the runs show none
    (`fitting/floor.py`): over the simulated tasks of which that is so, with vanished and with
    weakly held floors. 0: as if the floor that was found were sure."""
    seen: dict[float, list[Seen]] = {share: [] for share in SHARES}
    vanished, tasks = [], 0
    for task in simulated(repeats, first, sizes=SIZES, only="faulty"):
        tasks += 1
        f = fit(get_law("chinchilla"), task.train, draws=200)
        if not f.with_floor:
            continue
        one = look(task)
        vanished.append("floor_vanishes" in {w.code for w in f.warnings})
        x = f.law.columns(task.inputs)
        value = np.asarray(f.law.evaluate(x, f.values), dtype=float)
        engine = Engine.of(f.law, task.train, Objective())
        for share in SHARES:
            other = with_floor(engine, f.draws, share=share) if share else None
            given = replace(f, with_floor=() if other is None else tuple(other.tolist()))
            seen[share].append(replace(one, rise=floor_rise(given, x, value)))
    gone = np.array(vanished)
    print(f"{tasks} simulated tasks, {gone.size} with an open floor, {gone.sum()} with none")
    for share, some in seen.items():
        table = Table(some)
        found, scores = table.judged(USED)[0.9], 100 * table.score(USED)
        cells = "  ".join(
            f"{scores[rows].mean():6.2f} {found[0][rows].mean():.3f} "
            f"{100 * np.median(found[1][rows]):5.2f}"
            for rows in (np.ones(gone.size, bool), gone, ~gone)
        )
        used = " (in the library)" if share == FLOOR_SHARE else ""
        print(
            f"share {share:4.2f}: score, coverage, half-width % of all | none | weak: {cells}{used}"
        )


def severity(repeats: int) -> None:
    """What training sets, real and simulated, show of themselves: medians over tasks of the drift
    that rolling origins see, of the noise and of the bias. No held-out run is looked at. Prints the
    severity at which simulated faulty runs drift as the real ones do (decision 0044)."""

    def medians(tasks: Iterable[Task]) -> np.ndarray:
        each = [fit(get_law("chinchilla"), task.train, draws=0).calibration for task in tasks]
        return np.median([(c.seen, c.noise, abs(c.bias)) for c in each], axis=0)

    said = "drift {:.4f}, noise {:.4f}, bias {:.4f} a decade".format
    wanted = medians(real())
    print(f"real training sets: {said(*wanted)}", flush=True)
    drifts = []
    for times in SEVERITIES:
        found = medians(simulated(repeats, severity=times, sizes=SIZES, only="faulty"))
        print(f"simulated, severity {times:g}: {said(*found)}", flush=True)
        drifts.append(float(found[0]))
    print(f"as real: severity {np.interp(wanted[0], drifts, SEVERITIES):.2f}")


def show(table: Table, title: str, c: Constants) -> None:
    found = table.judged(c)
    print(f"\n{title}: {c}, score {100 * table.score(c).mean():.3f}%")
    print(f"coverage and median half-width, %, at {LEVELS}; interval score, %, at 0.9")
    some = {f"about {n}": abs(np.log(table.sizes / n)) < 0.3 for n in SIZES}
    some |= {f: table.families == f for f in dict.fromkeys(table.families.tolist())}
    for name, rows in {**some, "all": np.ones(len(table.sizes), bool)}.items():
        cells = "  ".join(
            f"{of[0][rows].mean():.3f} {100 * np.median(of[1][rows]):5.2f}" for of in found.values()
        )
        print(f"  {name:24s} {rows.sum():4d} {cells}  {100 * found[0.9][2][rows].mean():.2f}")


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--repeats", type=int, default=40)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--severity", action="store_true", help="show how bad the faults should be")
    p.add_argument("--floor", action="store_true", help="choose the floor where runs show none")
    p.add_argument("--keep", type=Path, help="keep the fits here, and read them again")
    a = p.parse_args()
    started = time.process_time()
    if a.severity:
        severity(a.repeats)
        return
    if a.floor:
        floor(a.repeats, a.first)
        return
    if a.keep and a.keep.exists():
        seen = list(pickle.loads(a.keep.read_bytes()))
    else:
        seen = [look(t) for t in simulated(a.repeats, a.first, sizes=SIZES, only="faulty")]
        if a.keep:
            a.keep.write_bytes(pickle.dumps(seen))
    table = Table(seen)
    plain = best(table, LEANS, (0.0,))
    print(f"{len(seen)} simulated tasks; score: mean interval score, %")
    for c in plain[:8]:
        print(f"{100 * table.score(c).mean():7.3f} {c}")
    other = best(table, (plain[0].lean,), GROWTHS)[0]
    less, error = gain(table, plain[0], other)
    print(f"growing with the scatter: {100 * less:.2f}% less (s.e. {100 * error:.2f}): {other}")
    show(table, "in the library", USED)
    show(table, "chosen", plain[0])
    print(f"\n{time.process_time() - started:.1f} CPU s")


if __name__ == "__main__":
    main()
