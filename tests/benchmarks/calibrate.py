"""Choose the constants of the interval's calibration, from simulated truths only.

    PYTHONPATH=. python -m tests.benchmarks.calibrate [--repeats 24]

Every task is fitted once; what the constants touch (how the prior on drift is mixed with what the
rolling origins saw) is then tried over a grid. Judged by the interval score, mean over 80, 90 and
95 % and over the families with faulty runs, which weigh one each: no real sweep is without faults.
The score is least for the true quantiles, so it asks for coverage and sharpness at once (Gneiting &
Raftery 2007, eq. 43). `coverage.py` shows them on other seeds, and on real runs.
"""

import argparse
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from fitting import fit, get_law
from fitting.intervals import (
    LEAN,
    PRIOR_DRIFT,
    PRIOR_WEIGHT,
    SEEN_WEIGHT,
    Calibration,
    mixed_drift,
)
from fitting.predict import decades_beyond, draw_quantiles
from tests.benchmarks.fit_tasks import Task, real
from tests.benchmarks.truths import simulated

LEVELS = (0.8, 0.9, 0.95)
DRIFTS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.04)
WEIGHTS = (2.0, 3.0, 4.0, 6.0, 8.0)
SEEN = (0.125, 0.25, 0.5, 1.0)
LEANS = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Seen:
    """One task, fitted: off [points] in log loss, quantiles of the draws by level, how far."""

    family: str
    seed: int
    off: np.ndarray
    draws: dict[float, tuple[np.ndarray, np.ndarray]]
    decades: np.ndarray
    calibration: Calibration
    status: str


def look(task: Task) -> Seen:
    f = fit(get_law("chinchilla"), task.train, draws=200)
    x = f.law.columns(task.inputs)
    value = np.asarray(f.law.evaluate(x, f.values), dtype=float)
    return Seen(
        task.family,
        int(task.name.rsplit(" ", 1)[1]),
        np.log(task.loss / value),
        {level: draw_quantiles(f, x, value, level) for level in LEVELS},
        decades_beyond(f, x),
        f.calibration,
        f.status,
    )


def judged(
    seen: list[Seen], constants: tuple[float, ...]
) -> dict[str, dict[float, tuple[float, float, float]]]:
    """{family: {level: (coverage, median half-width, interval score)}}, as fractions."""
    rows = defaultdict(lambda: defaultdict(list))
    for one in seen:
        *prior, share = constants
        c = one.calibration
        drift, freedom = mixed_drift(c.seen, c.span, *prior)
        lean = share * float(np.sign(c.bias)) * min(abs(c.bias), c.seen)
        c = replace(c, drift=drift, drift_freedom=freedom, lean=lean)
        for level in LEVELS:
            below, above = c.sides(*one.draws[level], one.decades, level)
            miss = np.maximum(-below - one.off, 0) + np.maximum(one.off - above, 0)
            rows[one.family][level].append(
                (
                    float((miss == 0).mean()),
                    float(np.median(below + above) / 2),
                    float((below + above + 2 / (1 - level) * miss).mean()),
                )
            )
    return {
        family: {
            level: (
                float(np.mean([r[0] for r in of])),
                float(np.median([r[1] for r in of])),
                float(np.mean([r[2] for r in of])),
            )
            for level, of in by.items()
        }
        for family, by in rows.items()
    }


def total(found: dict[str, dict[float, tuple[float, float, float]]]) -> float:
    """What is made small: the interval score over the families with faulty runs."""
    return float(np.mean([r[v][2] for f, r in found.items() if "faulty" in f for v in LEVELS]))


def severity(repeats: int) -> None:
    """What training sets, real and simulated, show of themselves: medians over families of the
    noise, and of the drift and the bias that rolling origins see. No held-out run is looked at."""

    def medians(tasks: list[Task]) -> str:
        by: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for task in tasks:
            c = fit(get_law("chinchilla"), task.train, draws=0).calibration
            by[task.family].append((c.noise, c.seen, abs(c.bias)))
        each = np.array([np.median(of, axis=0) for of in by.values()])
        return "noise {:.4f}, drift {:.4f}, bias {:.4f} a decade".format(*np.median(each, axis=0))

    print(f"real training sets: {medians(real())}")
    for times in (1.0, 2.0, 3.0, 4.0):
        faulty = [t for t in simulated(repeats, severity=times) if "faulty" in t.family]
        print(f"simulated, severity {times:g}: {medians(faulty)}")


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--repeats", type=int, default=24)
    p.add_argument("--severity", action="store_true", help="show how bad the faults should be")
    a = p.parse_args()
    started = time.process_time()
    if a.severity:
        severity(a.repeats)
        return
    seen = [look(task) for task in simulated(a.repeats)]
    chosen_on = [s for s in seen if "faulty" in s.family]
    grid = list(itertools.product(DRIFTS, WEIGHTS, SEEN, LEANS))
    scored = sorted((total(judged(chosen_on, g)), g) for g in grid)
    used = (PRIOR_DRIFT, PRIOR_WEIGHT, SEEN_WEIGHT, LEAN)
    print(f"{len(seen)} simulated tasks, {len(grid)} settings; score: mean interval score, %")
    print(f"{'prior drift':>11s} {'weight':>6s} {'seen':>5s} {'lean':>5s} {'score':>7s}")
    first = [next(s for s in scored if s[1][3] == lean) for lean in LEANS]
    for score, g in (*scored[:8], *first):
        print(f"{g[0]:11.4f} {g[1]:6.1f} {g[2]:5.2f} {g[3]:5.2f} {100 * score:7.3f}")
    print(f"in the library: {used}, {100 * total(judged(chosen_on, used)):.3f}")
    found = judged(seen, used)
    print(f"\ncoverage and median half-width, %, at {LEVELS}; interval score, %, at 0.9")
    for family, by in found.items():
        cells = "  ".join(f"{by[v][0]:.3f} {100 * by[v][1]:5.2f}" for v in LEVELS)
        print(f"  {family:28s} {cells}  {100 * by[0.9][2]:.2f}")
    print(
        f"  {'mean (median of widths)':28s} "
        + "  ".join(
            f"{np.mean([r[v][0] for r in found.values()]):.3f} "
            f"{100 * np.median([r[v][1] for r in found.values()]):5.2f}"
            for v in LEVELS
        )
    )
    print(f"\n{time.process_time() - started:.1f} CPU s")


if __name__ == "__main__":
    main()
