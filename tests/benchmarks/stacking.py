"""Does the stack of laws forecast as well as the best single law? Asked of the coverage tasks.

    PYTHONPATH=. python -m tests.benchmarks.stacking [--write docs/coverage.md]

On every task the laws of N and D are compared inside the training runs, as `compare` does
it, then fitted to all of them, and both the laws and their stack predict the held-out runs. Error:
mean absolute log error of a task, mean over the tasks of a family, mean over families. The best
single law is chosen with hindsight, by that very average; the stack knows the training runs only.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from fitting import LAWS, Objective
from fitting.compare import blend, compare
from fitting.engine import Engine
from fitting.errors import FittingError
from tests.benchmarks.coverage import STACKING as MARK
from tests.benchmarks.fit_tasks import Task, real
from tests.benchmarks.truths import simulated

INPUTS = {"N", "D"}

ABOUT = """Written by `python -m tests.benchmarks.stacking --write docs/coverage.md`: laws of N
and D, mean absolute error, families weigh one each. The best single law is chosen with hindsight.
The weights' choice: [decision 0043](decisions/0043-stack-weights-chosen-anew.md)."""


def errors(task: Task) -> dict[str, float]:
    """Mean absolute log error of every law that could be judged, of the first in the ranking
    ("first") and of the stack ("stack")."""
    laws = [law for law in LAWS.values() if set(law.input_names) == INPUTS]
    found = compare(task.train, laws)
    runs = task.train.unmasked()
    logs: dict[str, np.ndarray] = {}
    for one in found.ranked:
        law = LAWS[one.law]
        best = Engine.of(law, runs, Objective()).cold()
        value = law.evaluate(task.inputs, best.values)
        logs[one.law] = np.log(np.broadcast_to(np.asarray(value, dtype=float), task.loss.shape))
    weighed = [one for one in found.ranked if one.weight > 0]
    mixed = blend(
        np.array([logs[one.law] for one in weighed]), np.array([one.weight for one in weighed])
    )
    y = np.log(task.loss)
    out = {law: float(np.abs(y - x).mean()) for law, x in logs.items()}
    out |= {"stack": float(np.abs(y - mixed).mean()), "first": out[found.ranked[0].law]}
    return out


def averages(tasks: list[Task]) -> dict[str, float]:
    """{law or "stack" or "first": mean over families, in percent}; laws judged everywhere only."""
    by: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for task in tasks:
        try:
            found = errors(task)
        except FittingError as error:
            print(f"{task.name}: {error.message}")
            continue
        for law, e in found.items():
            by[law][task.family].append(e)
    families = len(by["stack"])
    return {
        law: 100 * float(np.mean([np.mean(e) for e in of.values()]))
        for law, of in by.items()
        if len(of) == families
    }


def lines_of(title: str, found: dict[str, float]) -> list[str]:
    single = sorted(((e, law) for law, e in found.items() if law not in ("stack", "first")))
    best, law = single[0]
    ratio = found["stack"] / best
    out = [f"**{title}**: the stack errs by {found['stack']:.2f}%, the best single law (`{law}`)"]
    out.append(f"by {best:.2f}%: **{ratio:.3f} times** (goal: at most 1.1). First of the ranking:")
    out.append(
        f"{found['first']:.2f}%. Others: " + ", ".join(f"`{n}` {e:.2f}%" for e, n in single[1:6])
    )
    return [*out, ""]


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--repeats", type=int, default=1)
    p.add_argument("--seed", type=int, default=1000)
    p.add_argument("--simulated", action="store_true", help="no real run is looked at")
    p.add_argument("--write", type=Path, help="replace the section of this page")
    a = p.parse_args()
    started = time.process_time()
    text = [MARK, "", *ABOUT.split("\n"), ""]
    if not a.simulated:
        text += lines_of("Real runs", averages(real()))
    text += lines_of("Simulated truths", averages(list(simulated(a.repeats, a.seed))))
    print("\n".join(text))
    print(f"{time.process_time() - started:.1f} CPU s")
    if a.write:
        page = a.write.read_text(encoding="utf-8").split(MARK)[0].rstrip()
        a.write.write_text(page + "\n\n" + "\n".join(text).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
