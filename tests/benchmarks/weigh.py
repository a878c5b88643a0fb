"""Choose how laws are stacked, on simulated truths only: the rule is decision 0043.

    PYTHONPATH=. python -m tests.benchmarks.weigh [--seeds 16] [--first 0] [--keep FILE]

Every law of N and D is judged inside the training set of each task as `compare` does it, and fitted
to all of it; what the candidates touch (a score, and weights made of it) is then tried on those
forecasts. Judged by the mean over families of the error over that of the family's best single law,
which hindsight knows. `stacking.py` shows the choice on real runs and other seeds.
"""

import argparse
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from fitting import LAWS, Objective
from fitting.compare import LEAST, SHARPNESS, Forecast, forecasts, splits_of
from fitting.engine import Engine
from fitting.errors import FittingError
from tests.benchmarks.fit_tasks import Task
from tests.benchmarks.truths import SIZES, simulated

# The laws of N and D. `over_training` is `tied` in other words there: it is not fitted again.
FITTED = ("chinchilla", "coupled", "kaplan", "kaplan_floor", "tied")
TWINS = {"over_training": "tied"}


@dataclass(frozen=True)
class Judged:
    """One task: what each law forecast above the cuts, [laws][cuts], and for the held-out runs of
    the task, logs [laws, points], whose losses were y [points], in logarithms."""

    family: str
    seed: int
    laws: tuple[str, ...]
    cuts: tuple[tuple[Forecast, ...], ...]
    logs: np.ndarray
    y: np.ndarray


def look(task: Task) -> Judged:
    runs = task.train.unmasked()
    splits = splits_of(runs)
    names, cuts, logs = [], [], []
    for name in FITTED:
        law = LAWS[name]
        try:
            found = forecasts(law, runs, splits, Objective())
        except FittingError:
            continue
        best = Engine.of(law, runs, Objective()).cold()
        value = np.asarray(law.evaluate(task.inputs, best.values), dtype=float)
        for alias in (name, *(twin for twin, of in TWINS.items() if of == name)):
            names.append(alias)
            cuts.append(tuple(found))
            logs.append(np.log(np.broadcast_to(value, task.loss.shape)))
    seed = int(task.name.rsplit(" ", 1)[1])
    y = np.log(task.loss)
    return Judged(task.family, seed, tuple(names), tuple(cuts), np.array(logs), y)


def fpe(one: Forecast) -> float:
    """Akaike's final prediction error (1969)."""
    return (one.n + one.p) / (one.n - one.p)


def aicc(one: Forecast) -> float:
    """What AICc (Hurvich & Tsai 1989) adds to ln of the mean square, as a factor."""
    few = 2 * one.p * (one.p + 1) / max(one.n - one.p - 1, 0.5)
    return float(np.exp((2 * one.p + few) / one.n))


@dataclass(frozen=True)
class Score:
    """penalty: on the squared error for few points. far: errors weigh by their distance."""

    name: str
    penalty: Callable[[Forecast], float]
    far: bool

    def squares(self, one: Forecast) -> np.ndarray:
        """Penalised squared errors, weighed to a mean of what counts: [points]."""
        weight = one.decades if self.far and one.decades.any() else np.ones(one.off.size)
        return np.asarray(self.penalty(one) * one.off**2 * weight / weight.mean())

    def of(self, task: Judged) -> np.ndarray:
        """[laws]: root of the mean over cuts."""
        return np.array(
            [np.sqrt(np.mean([self.squares(c).mean() for c in cuts])) for cuts in task.cuts]
        )

    def behind(self, task: Judged) -> np.ndarray:
        """How far each law is behind the best, in standard errors of the difference: [laws]. The
        cuts share runs, so that the first's are all that there are."""
        per_law = [np.concatenate([self.squares(c) for c in cuts]) for cuts in task.cuts]
        best = per_law[int(np.argmin(self.of(task)))]
        out = []
        for own in per_law:
            off = own - best
            error = off.std() / np.sqrt(task.cuts[0][0].off.size)
            out.append(max(off.mean(), 0.0) / max(error, 1e-12 * best.mean(), 1e-300))
        return np.array(out)


SCORES = (
    Score("score", fpe, False),
    Score("far", fpe, True),
    Score("aicc", aicc, False),
    Score("aicc far", aicc, True),
)

Weigh = Callable[[Judged, Score], np.ndarray]


def power(s: float) -> Weigh:
    def weigh(task: Judged, score: Score) -> np.ndarray:
        each = np.maximum(score.of(task), 1e-12)
        share = (each.min() / each) ** s
        return np.where(share < LEAST * share.sum(), 0.0, share)

    return weigh


def first(task: Judged, score: Score) -> np.ndarray:
    return np.eye(len(task.laws))[int(np.argmin(score.of(task)))]


def softly(task: Judged, score: Score) -> np.ndarray:
    share = np.exp(-0.5 * score.behind(task) ** 2)
    return np.where(share < LEAST * share.sum(), 0.0, share)


def even(task: Judged, score: Score) -> np.ndarray:
    return (score.behind(task) <= 1.0).astype(float)


def plainest(task: Judged, score: Score) -> np.ndarray:
    inside = even(task, score) > 0
    p = np.array([cuts[0].p for cuts in task.cuts])
    order = np.lexsort((score.of(task), p))
    return np.eye(len(task.laws))[next(i for i in order if inside[i])]


def convex(ridge: float) -> Weigh:
    def weigh(task: Judged, score: Score) -> np.ndarray:
        k = len(task.laws)
        rows = []
        for cuts in zip(*task.cuts, strict=True):
            off = np.array([np.sign(c.off) * np.sqrt(score.squares(c)) for c in cuts])
            rows.append(off.T / np.sqrt(off.shape[1] * len(task.cuts[0])))
        seen = np.concatenate(rows) / max(float(score.of(task).min()), 1e-12)
        hard = 1e3 * max(1.0, float(np.abs(seen).max()))
        a = np.concatenate([seen, np.sqrt(ridge) * np.eye(k), np.full((1, k), hard)])
        b = np.concatenate([np.zeros(len(seen)), np.full(k, np.sqrt(ridge) / k), [hard]])
        return np.asarray(nnls(a, b)[0])

    return weigh


def all_even(task: Judged, score: Score) -> np.ndarray:
    return np.ones(len(task.laws))


def mean(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ logs / weights.sum())


def middle(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted median [points] of [laws, points]."""
    order = np.argsort(logs, axis=0)
    reached = np.cumsum(weights[order], axis=0) >= 0.5 * weights.sum()
    return np.asarray(
        np.take_along_axis(logs, order, axis=0)[reached.argmax(axis=0), range(logs.shape[1])]
    )


def candidates() -> Iterator[tuple[str, Callable[[Judged], np.ndarray]]]:
    """(name, task -> ln loss [points])"""
    weighers: dict[str, Weigh] = {f"^-{s}": power(s) for s in (1, 2, 4, 8, 16)}
    weighers |= {"first": first, "exp(-z^2/2)": softly, "even, z<=1": even}
    weighers |= {"plainest, z<=1": plainest}
    weighers |= {f"convex, ridge {r}": convex(r) for r in (0.1, 0.3, 1.0)}
    for score in SCORES:
        for name, weigh in weighers.items():
            yield f"{score.name} {name}", lambda t, w=weigh, s=score: mean(t.logs, w(t, s))
        for s in (2, 4, 8):
            weigh = weighers[f"^-{s}"]
            yield (
                f"median, {score.name} ^-{s}",
                lambda t, w=weigh, s=score: middle(t.logs, w(t, s)),
            )
    yield "all laws", lambda t: mean(t.logs, all_even(t, SCORES[0]))
    yield "median of laws", lambda t: middle(t.logs, all_even(t, SCORES[0]))


def ratios(
    tasks: list[Judged], errors: np.ndarray, singles: np.ndarray, w: np.ndarray
) -> np.ndarray:
    """[candidates, families]: error over that of the best single law. errors [candidates, tasks],
    singles [laws, tasks], w [tasks]: how often each task counts."""
    names = np.array([t.family for t in tasks])
    out = []
    for family in dict.fromkeys(names.tolist()):
        own = np.where(names == family, w, 0.0)
        alone = singles @ own  # inf where a law could not be judged everywhere
        out.append(errors @ own / alone.min())
    return np.array(out).T


def collect(seeds: int, start: int, keep: Path | None) -> list[Judged]:
    """Seed by seed, so that what is kept of a run that was stopped is balanced."""
    found: list[Judged] = list(pickle.loads(keep.read_bytes())) if keep and keep.exists() else []
    done = {one.seed for one in found}
    for seed in range(start, start + seeds):
        if seed not in done:
            found += [look(task) for task in simulated(1, seed, sizes=SIZES)]
            if keep:
                keep.write_bytes(pickle.dumps(found))
    return found


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--seeds", type=int, default=16)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--keep", type=Path, help="keep the forecasts here, and read them again")
    a = p.parse_args()
    started = time.process_time()
    tasks = collect(a.seeds, a.first, a.keep)
    report(tasks)
    print(f"{time.process_time() - started:.1f} CPU s")


def report(tasks: list[Judged]) -> None:
    laws = (*FITTED, *TWINS)
    singles = np.full((len(laws), len(tasks)), 1e9)
    for j, t in enumerate(tasks):
        for name, logs in zip(t.laws, t.logs, strict=True):
            singles[laws.index(name), j] = np.abs(t.y - logs).mean()
    named = dict(candidates())
    errors = np.array([[np.abs(t.y - c(t)).mean() for t in tasks] for c in named.values()])
    found = ratios(tasks, errors, singles, np.ones(len(tasks)))
    criterion = found.mean(axis=1)
    best = int(np.argmin(criterion))
    rng = np.random.default_rng(47)
    seeds = np.array([t.seed for t in tasks])
    again = []
    for _ in range(400):
        counts = np.bincount(
            rng.choice(np.unique(seeds), np.unique(seeds).size), minlength=seeds.max() + 1
        )
        again.append(ratios(tasks, errors, singles, counts[seeds].astype(float)).mean(axis=1))
    gap = np.std(np.array(again) - np.array(again)[:, [best]], axis=0)
    families = list(dict.fromkeys(t.family for t in tasks))
    print(f"{len(tasks)} tasks; best single laws:")
    names = np.array([t.family for t in tasks])
    for family in families:
        own = singles[:, names == family].mean(axis=1)
        print(f"  {family:24s} {laws[int(own.argmin())]:14s} {100 * own.min():.2f}%")
    print(f"{'candidate':28s} {'mean':>6s} {'worst':>6s} {'behind':>7s} {'s.e.':>6s}")
    for i in np.argsort(criterion):
        even = "even" if criterion[i] - criterion[best] <= gap[i] else ""
        print(
            f"{list(named)[i]:28s} {criterion[i]:6.3f} {found[i].max():6.3f} "
            f"{criterion[i] - criterion[best]:7.3f} {gap[i]:6.3f} {even}"
        )
    used = "score first" if np.isinf(SHARPNESS) else f"score ^-{SHARPNESS:g}"
    print(f"in the library: {used}, {criterion[list(named).index(used)]:.3f}")


if __name__ == "__main__":
    main()
