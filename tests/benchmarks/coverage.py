"""Do the intervals hold? Nominal against actual coverage on held-out larger runs.

    PYTHONPATH=. python tests/benchmarks/coverage.py [--law chinchilla] [--level 0.9] [--draws 400]

Prints, for every task: points fitted and held out, compute ratio, mean absolute error, coverage,
median half-width, interval score (mean over points, percent of the loss: width plus 2 / (1-level)
times the miss; Gneiting & Raftery 2007). Families weigh one each.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from fitting import fit, get_law
from tests.benchmarks.fit_tasks import Task, real
from tests.benchmarks.truths import simulated


def judge(task: Task, law: str, level: float, draws: int) -> dict[str, float]:
    f = fit(get_law(law), task.train, draws=draws, level=level)
    p = f.predict(task.inputs)
    y = task.loss
    low, high = np.log(y / p.lower), np.log(p.upper / y)
    width = np.log(p.upper / p.lower)
    miss = np.maximum(-low, 0) + np.maximum(-high, 0)
    return {
        "n": len(task.train),
        "held": y.size,
        "ratio": task.compute_ratio,
        "error": 100 * float(np.abs(np.log(y / p.value)).mean()),
        "signed": 100 * float(np.log(y / p.value).mean()),
        "coverage": float(((low >= 0) & (high >= 0)).mean()),
        "half": 100 * float(np.median(width) / 2),
        "score": 100 * float((width + 2 / (1 - level) * miss).mean()),
        "codes": ",".join(sorted({w.code for w in f.warnings})),
        "status": f.status,
    }


def families(results: list[tuple[Task, dict]]) -> dict[str, dict[str, float]]:
    groups = defaultdict(list)
    for task, r in results:
        groups[task.family].append(r)
    keys = ("ratio", "error", "signed", "coverage", "half", "score")
    return {k: {q: float(np.mean([r[q] for r in v])) for q in keys} for k, v in groups.items()}


def show(title: str, results: list[tuple[Task, dict]], each: bool) -> None:
    print(f"\n## {title}")
    print(
        f"{'task':44s} {'n':>4s} {'held':>4s} {'C ratio':>7s} {'error%':>6s} {'signed':>6s} "
        f"{'cover':>5s} {'half%':>5s} {'score%':>6s}"
    )
    if each:
        for task, r in results:
            print(
                f"{task.name:44s} {r['n']:4d} {r['held']:4d} {r['ratio']:7.1f} {r['error']:6.2f} "
                f"{r['signed']:6.2f} {r['coverage']:5.2f} {r['half']:5.2f} {r['score']:6.2f}  "
                f"{r['status']} {r['codes']}"
            )
    by = families(results)
    for name, r in by.items():
        print(
            f"= {name:42s} {'':9s} {r['ratio']:7.1f} {r['error']:6.2f} {r['signed']:6.2f} "
            f"{r['coverage']:5.2f} {r['half']:5.2f} {r['score']:6.2f}"
        )
    mean = {q: np.mean([r[q] for r in by.values()]) for q in ("error", "coverage", "score")}
    print(
        f"families {len(by)}: mean coverage {mean['coverage']:.3f}, median half-width "
        f"{np.median([r['half'] for r in by.values()]):.2f}%, mean error {mean['error']:.2f}%, "
        f"mean interval score {mean['score']:.2f}%"
    )


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--law", default="chinchilla")
    p.add_argument("--level", type=float, default=0.9)
    p.add_argument("--draws", type=int, default=400)
    p.add_argument("--repeats", type=int, default=8)
    a = p.parse_args()
    started = time.process_time()
    for title, tasks, each in (
        ("real runs", real(), True),
        ("simulated truths", list(simulated(a.repeats, first=1000)), False),
    ):
        show(title, [(t, judge(t, a.law, a.level, a.draws)) for t in tasks], each)
    print(f"\nnominal {a.level:.0%}, {time.process_time() - started:.1f} CPU s")


if __name__ == "__main__":
    main()
