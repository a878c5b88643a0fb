"""Do the intervals hold? Nominal against actual coverage on held-out larger runs.

    PYTHONPATH=. python -m tests.benchmarks.coverage [--write docs/coverage.md]

Prints, for every task: points fitted and held out, compute ratio, mean absolute error, coverage,
median half-width, interval score (mean over points, percent of the loss: width plus 2 / (1-level)
times the miss; Gneiting & Raftery 2007). Families weigh one each.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
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


def lines_of(title: str, results: list[tuple[Task, dict]], each: bool) -> Iterator[str]:
    """A markdown table: the tasks (where `each`), the families, and the average over families."""
    yield from (f"## {title}", "")
    heads = "task,points,held out,compute,error %,signed %,coverage,half-width %,score %,warnings"
    yield "| " + " | ".join(heads.split(",")) + " |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"

    def cells(r: dict) -> str:
        return (
            f"{r['ratio']:.1f}x | {r['error']:.2f} | {r['signed']:+.2f} | {r['coverage']:.2f} | "
            f"{r['half']:.2f} | {r['score']:.2f}"
        )

    if each:
        for task, r in results:
            said = f"{r['status']} {r['codes']}".replace("converged", "").strip()
            yield f"| {task.name} | {r['n']} | {r['held']} | {cells(r)} | {said} |"
    by = families(results)
    for name, r in by.items():
        yield f"| **{name}** | | | {cells(r)} | |"
    mean = {q: np.mean([r[q] for r in by.values()]) for q in ("error", "coverage", "score")}
    yield ""
    yield (
        f"{len(by)} families: **mean coverage {mean['coverage']:.3f}, median half-width "
        f"{np.median([r['half'] for r in by.values()]):.2f}%**, mean error {mean['error']:.2f}%, "
        f"mean interval score {mean['score']:.2f}%."
    )
    yield ""


# The section that stacking.py writes into the same page.
STACKING = "## The stack of laws against the best single law"

HEAD = """# Do the intervals hold?

Written by `python -m tests.benchmarks.coverage --write docs/coverage.md`; numbers are as they came
out. The smaller runs of other people's sweeps are fitted (law `{law}`, {draws} draws) and their
larger ones predicted at a nominal {level:.0%}. A family is what shares a recipe, and so its shifts;
each weighs one. `compute`: the held-out runs over the largest fitted. `score`: interval score,
width plus {penalty:.0f} times the miss, in percent of the loss (Gneiting & Raftery 2007). How the
constants were chosen: [decision 0044](decisions/0044-interval-constants-chosen-anew.md), and
[0100](decisions/0100-a-floor-that-runs-do-not-show.md) where runs show no floor.
"""


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--law", default="chinchilla")
    p.add_argument("--level", type=float, default=0.9)
    p.add_argument("--draws", type=int, default=400)
    p.add_argument("--repeats", type=int, default=8)
    p.add_argument("--write", type=Path, help="write the tables here")
    a = p.parse_args()
    started = time.process_time()
    text = HEAD.format(law=a.law, draws=a.draws, level=a.level, penalty=2 / (1 - a.level)).split(
        "\n"
    )
    for title, tasks, each in (
        ("Real runs", real(), True),
        ("Simulated truths, on seeds that chose nothing", list(simulated(a.repeats, 1000)), False),
    ):
        text += lines_of(title, [(t, judge(t, a.law, a.level, a.draws)) for t in tasks], each)
    print("\n".join(text))
    print(f"nominal {a.level:.0%}, {time.process_time() - started:.1f} CPU s")
    if a.write:
        before = a.write.read_text(encoding="utf-8") if a.write.exists() else ""
        more = (
            before[before.find(STACKING) :] if STACKING in before else ""
        )  # stacking.py's section
        a.write.write_text("\n".join(text).rstrip() + "\n\n" + more, encoding="utf-8")


if __name__ == "__main__":
    main()
