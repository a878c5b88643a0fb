"""Which law forecasts these runs best? Refit on the smaller ones, predict the larger ones.

In-sample error always favours more parameters, and a random hold-out asks for interpolation; what
is wanted is a forecast of larger runs. So the runs are ordered by compute and the origin rolls
(Tashman 2000, Int. J. Forecasting 16:437): each law is fitted below a cut and judged above it, at
several cuts. Few runs favour the law that happens to bend the right way, so the error carries
Akaike's final-prediction-error factor sqrt((n + p) / (n - p)) for n training points and p
parameters (Akaike 1969, Ann. Inst. Stat. Math. 21:243), which grows where n is small.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitting.diagnose import refuse
from fitting.engine import Engine
from fitting.errors import FittingError
from fitting.fit import Fit, fit
from fitting.law import Law
from fitting.laws import LAWS, get_law
from fitting.links import Floats
from fitting.objective import Objective
from fitting.predict import Prediction
from fitting.runs import Runs

# Shares of the runs, by number, that are trained on. Below half too little is known of the curve;
# above four fifths too few runs are left to judge by (guess).
CUTS = (0.5, 0.65, 0.8)

# Laws are judged by so many points at most, drawn at random: the error on the 150 of
# them that lie above a cut is known to 6% of itself, and laws that differ by less are alike.
JUDGED = 300

# Parameters of a law of compute alone that does not bend: L = E + A C^-alpha.
BENDLESS = 3

# How sharply the stack prefers the better law: weight ~ score**-SHARPNESS. Without bound, the first
# of the ranking has all of it: mixing in laws that forecast worse inside the training set made
# forecasts worse on simulated truths (tests/benchmarks/weigh.py, docs/decisions/0043-*). Laws below
# LEAST are left out of a softer one.
SHARPNESS = float("inf")
LEAST = 0.05


@dataclass(frozen=True)
class Ranked:
    """One law's record. error: held-out RMS of ln(loss / predicted), over all cuts, before the
    penalty; score: with it, what the ranking goes by; bias: mean of ln(loss / predicted), above
    zero where the law promises too much; weight: in the stack, all of them add up to one."""

    law: str
    score: float
    error: float
    bias: float
    worst: float
    n_params: int
    weight: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """ranked: best first. skipped: {law: why it could not be judged}. held_out: for each cut,
    how many points were trained on and predicted. drawn_from: how many points those were drawn
    from at random; None where all of them judge."""

    ranked: tuple[Ranked, ...]
    skipped: Mapping[str, str]
    held_out: tuple[tuple[int, int], ...]
    drawn_from: int | None = None

    def best(self, inputs: Collection[str]) -> str:
        """The law that `auto` takes for runs with these inputs: the first in the ranking that can
        answer the question. Where N and D are known that is one of (N, D), and a law of compute or
        of one of them alone only if there is no other."""
        able = answering([get_law(one.law) for one in self.ranked], inputs)
        return able[0].name

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "ranked": [dict(vars(one)) for one in self.ranked],
            "skipped": [{"law": law, "reason": why} for law, why in self.skipped.items()],
            "held_out": [{"trained": a, "predicted": b} for a, b in self.held_out],
            "drawn_from": self.drawn_from,
        }


def compare(
    runs: Runs,
    laws: Sequence[Law],
    *,
    objective: Objective | None = None,
    seed: int = 0,
    cuts: Sequence[float] = CUTS,
) -> Comparison:
    """Rank `laws` by how well they forecast the larger of `runs` from the smaller ones.

    More than JUDGED points are drawn from at random, by the seed.
    Laws whose inputs the runs do not have, or that have too many parameters for them, are skipped
    with the reason. Raises FittingError where none can be judged.
    """
    used = runs.unmasked().with_compute()
    drawn_from = len(used) if len(used) > JUDGED else None
    if drawn_from is not None:
        rows = np.random.default_rng([seed, 23]).choice(drawn_from, JUDGED, replace=False)
        used = used.select(np.isin(np.arange(drawn_from), rows))
    splits = splits_of(used, cuts)
    ranked: list[Ranked] = []
    skipped: dict[str, str] = {}
    for law in laws:
        try:
            found = forecasts(law, used, splits, objective or Objective(), seed)
            ranked.append(_ranked(law, found))
        except FittingError as error:
            skipped[law.name] = error.message
    if not ranked:
        first = next(iter(skipped.values()), "No law was given.")
        raise FittingError(
            "too_few_points",
            f"No law can be judged on {len(used)} points: {first}",
            "Add runs: each law needs more small runs than it has parameters, and larger ones.",
        )
    ranked.sort(key=lambda one: (one.score, one.n_params, one.law))
    sizes = tuple((int(small.sum()), int((~small).sum())) for small in splits)
    share = np.array([max(one.score, 1e-12) for one in ranked])
    share = (share.min() / share) ** SHARPNESS
    share = np.where(share < LEAST * share.sum(), 0.0, share)
    weighed = [
        replace(one, weight=float(w)) for one, w in zip(ranked, share / share.sum(), strict=True)
    ]
    return Comparison(tuple(weighed), skipped, sizes, drawn_from)


def answering(laws: Sequence[Law], inputs: Collection[str]) -> list[Law]:
    """Those of `laws` that move with N and D, as far as `inputs` name them; all, if none do."""
    asked = {"N", "D"} & set(inputs)
    return [law for law in laws if asked <= set(law.input_names)] or list(laws)


def candidates(known: Collection[str]) -> list[Law]:
    """The laws that are judged unless told which: all whose inputs are known.

    Where N and D are, without the laws of compute alone that bend: away from the compute-optimal
    line the loss is no function of compute, and a break follows the plan of the sweep.
    """
    able = [law for law in LAWS.values() if set(law.input_names) <= set(known)]
    if {"N", "D"} <= set(known):
        able = [law for law in able if law.input_names != ("C",) or len(law.params) <= BENDLESS]
    return able


def choose(
    runs: Runs, laws: Sequence[Law], *, objective: Objective | None = None, seed: int = 0
) -> Comparison:
    """`compare` for the law `auto`: of the laws that it may take, or of all where none of those can
    be judged."""
    able = answering(laws, runs.inputs)
    try:
        return compare(runs, able, objective=objective, seed=seed)
    except FittingError:
        if len(able) == len(laws):
            raise
        return compare(runs, laws, objective=objective, seed=seed)


def blend(logs: Floats, weights: Floats) -> Floats:
    """The stack's ln loss [points] from the laws' own [laws, points] and their weights [laws]."""
    return np.asarray((weights[:, None] * logs).sum(axis=0))


@dataclass(frozen=True)
class Stack:
    """Fits to all runs, averaged with the weights of a comparison; `stack` makes one."""

    fits: tuple[Fit, ...]
    weights: tuple[float, ...]

    def predict(self, inputs: Mapping[str, ArrayLike], level: float | None = None) -> Prediction:
        """The weighted geometric mean of the laws' predictions; the half-widths of its interval are
        their mean and the scatter between the laws, in quadrature. Reach is the first law's."""
        each = [one.predict(inputs, level) for one in self.fits]
        w = np.array(self.weights)[:, None]
        logs = np.log(np.stack([p.value for p in each]))
        middle = blend(logs, w[:, 0])
        apart = (w * (logs - middle) ** 2).sum(axis=0)
        low = (w * np.log(np.stack([p.value / p.lower for p in each]))).sum(axis=0)
        high = (w * np.log(np.stack([p.upper / p.value for p in each]))).sum(axis=0)
        return replace(
            each[0],
            value=np.exp(middle),
            lower=np.exp(middle - np.sqrt(low**2 + apart)),
            upper=np.exp(middle + np.sqrt(high**2 + apart)),
            law="stack of " + ", ".join(one.law.name for one in self.fits),
        )


def stack(
    runs: Runs,
    comparison: Comparison,
    *,
    objective: Objective | None = None,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
) -> Stack:
    """Every law of the comparison that has a weight, fitted to all of `runs`."""
    chosen = [one for one in comparison.ranked if one.weight > 0]
    fits = tuple(
        fit(get_law(one.law), runs, objective=objective, draws=draws, level=level, seed=seed)
        for one in chosen
    )
    return Stack(fits, tuple(one.weight for one in chosen))


def splits_of(runs: Runs, cuts: Sequence[float] = CUTS) -> list[NDArray[np.bool_]]:
    """For each cut that leaves runs on both sides: True for the points below it."""
    return [split for cut in cuts if (split := _split(runs, cut)) is not None]


def _split(runs: Runs, share: float) -> NDArray[np.bool_] | None:
    """True for the points of the smaller `share` of the runs; None where one side would be empty.

    Whole runs go to one side: points of one curve are not independent.
    """
    size = _size(runs)
    groups = np.unique(runs.group)
    order = groups[np.argsort([size[runs.group == g].max() for g in groups], kind="stable")]
    small = np.isin(runs.group, order[: round(share * len(groups))])
    return small if small.any() and not small.all() else None


def _size(runs: Runs) -> Floats:
    """What makes a run larger: its compute, else the product of its inputs."""
    compute = runs.compute()
    if compute is not None:
        return compute
    return np.asarray(np.sum([np.log(column) for column in runs.inputs.values()], axis=0))


@dataclass(frozen=True)
class Forecast:
    """What a law fitted below one cut says of the runs above it. off: ln(loss / predicted),
    [points above]; decades: how far beyond the cut they are, in compute; n, p: points below, and
    parameters."""

    off: Floats
    decades: Floats
    n: int
    p: int


def forecasts(
    law: Law,
    runs: Runs,
    splits: Sequence[NDArray[np.bool_]],
    objective: Objective,
    seed: int = 0,
) -> list[Forecast]:
    """One for each cut. splits: True for the points below. Raises FittingError where the law
    cannot be judged on these runs, with the reason."""
    missing = [name for name in law.input_names if name not in runs.inputs]
    if missing:
        raise FittingError("missing_input", f"The runs have no {', '.join(missing)}.")
    p = len(law.params)
    fewest = min((int(small.sum()) for small in splits), default=p + 1)
    if fewest <= p:
        raise FittingError(
            "too_few_points", f"{p} parameters and {fewest} points below the lowest cut."
        )
    for small in splits:
        refuse(law, runs.select(small))
    if not splits:
        raise FittingError("too_few_points", "There are too few runs to hold any out.")
    engine = Engine.of(law, runs, objective)
    own = np.ones(len(runs)) if engine.weights is None else engine.weights
    size = np.log10(_size(runs)) if runs.compute() is not None else _size(runs) / np.log(10.0)
    out = []
    found = engine.cold_many(np.array(splits, dtype=float) * own, seed=seed)
    for small, best in zip(splits, found, strict=True):
        larger = {name: column[~small] for name, column in runs.inputs.items()}
        predicted = np.asarray(law.evaluate(larger, best.values), dtype=float)
        if not (np.isfinite(predicted).all() and (predicted > 0).all()):
            raise FittingError("bad_value", "Its forecast of the larger runs is not a loss.")
        off = np.log(runs.loss[~small]) - np.log(predicted)
        far = np.maximum(size[~small] - size[small].max(), 0.0)
        out.append(Forecast(np.asarray(off), np.asarray(far), int(small.sum()), p))
    return out


def _ranked(law: Law, found: Sequence[Forecast]) -> Ranked:
    squares = [float(np.mean(one.off**2)) for one in found]
    penalties = [(one.n + one.p) / (one.n - one.p) for one in found]
    every = np.concatenate([one.off for one in found])
    return Ranked(
        law=law.name,
        score=float(np.sqrt(np.mean([s * f for s, f in zip(squares, penalties, strict=True)]))),
        error=float(np.sqrt(np.mean(squares))),
        bias=float(every.mean()),
        worst=float(every[np.argmax(np.abs(every))]),
        n_params=len(law.params),
    )
