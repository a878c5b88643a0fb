"""Two sets of runs -> pairs of losses that belong together, cell by cell.

A *cell* is one (N, D). `exact` pairs runs with the same N and D, as the paper does. `frontier`
pairs runs that do not share a grid: the best run of each target budget with the source's
compute-optimal loss at that budget, interpolated as log(L - E) over log C.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitting.diagnose import Warned
from fitting.errors import FittingError
from fitting.links import Floats
from fitting.runs import Runs

HOW = ("exact", "frontier")
PER_BYTE = ("nats/byte", "bits/byte")

# No loss of a language model, in any unit: numbers out here are a wrong column or a wrong factor.
LOSSES = (1e-12, 1e12)
COUNTS = (1e-3, 1e30)  # of parameters and of tokens
# A tokenizer of bytes has one token a byte, plus marks; more is bytes per token, upside down.
MOST_TOKENS_PER_BYTE = 1.5

# Runs whose compute differs by less than this many decades belong to one budget.
SAME_BUDGET = 0.05


@dataclass(frozen=True)
class Pairs:
    """Everything a link is fitted to; make one with `pair`.

    N, D, compute [cells]; losses [cells, sets] with NaN where a set has no run in that cell. The
    first set is the source, the second the target, more may share the cells (joint fits use them).
    budget [cells]: which group of equal compute a cell belongs to, by increasing compute.
    interpolated [cells]: pairs that `frontier` made; they are no measurements of their own, so
    the sets' own (N, D) laws leave them out.
    """

    N: Floats
    D: Floats
    compute: Floats
    losses: Floats
    interpolated: NDArray[np.bool_]
    budget: NDArray[np.int64]
    names: tuple[str, ...]
    how: str
    unit: str
    n_convention: str
    flops_convention: str
    warnings: tuple[Warned, ...] = ()
    mixture: str | None = None

    @property
    def x(self) -> Floats:
        return np.asarray(self.losses[:, 0])

    @property
    def y(self) -> Floats:
        return np.asarray(self.losses[:, 1])

    @property
    def paired(self) -> NDArray[np.bool_]:
        """Cells that have both losses: what the link is judged on."""
        both = np.isfinite(self.x) & np.isfinite(self.y)
        return both & self.interpolated if self.interpolated.any() else both

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Runs of [cells, sets] that were really trained."""
        return np.isfinite(self.losses) & ~self.interpolated[:, None]

    @property
    def n_pairs(self) -> int:
        return int(self.paired.sum())

    def select(self, cells: NDArray[np.bool_]) -> "Pairs":
        """The same sets on some of the cells."""
        return replace(
            self,
            N=self.N[cells],
            D=self.D[cells],
            compute=self.compute[cells],
            losses=self.losses[cells],
            interpolated=self.interpolated[cells],
            budget=self.budget[cells],
        )


def pair(
    source: Runs,
    target: Runs,
    how: str = "exact",
    *,
    unit: str | None = None,
    names: tuple[str, str] = ("source", "target"),
    others: Mapping[str, Runs] | None = None,
    tokens_per_byte: tuple[float, float] | None = None,
    tokenizers: tuple[str, str] | None = None,
    mixtures: tuple[Sequence[str] | None, Sequence[str] | None] | None = None,
) -> Pairs:
    """Pair two sets of runs of N and D.

    unit: convert both losses to this one ("bits/byte" from nats/token needs `tokens_per_byte`,
    of source and target). tokenizers: their names; losses per token of two tokenizers cannot be
    compared, and are flagged. mixtures: for each set, what each run was trained on, one label a
    run: a set that changes its data on the way has no one law, and is flagged. others: more sets
    that share cells, for the joint method.
    Raises FittingError where fewer than three pairs are found or conventions are mixed.
    """
    if how not in HOW:
        raise FittingError("bad_option", f"how is {how!r}.", f"Use one of: {', '.join(HOW)}.")
    sets = {names[0]: source, names[1]: target, **(others or {})}
    if len(sets) != 2 + len(others or {}):
        raise FittingError("bad_option", "Two sets have one name.", "Name every set differently.")
    for name, runs in sets.items():
        missing = [i for i in ("N", "D") if i not in runs.inputs]
        if missing:
            raise FittingError(
                "missing_input",
                f"The set {name} has no {' and no '.join(missing)}.",
                "A link pairs runs by model size N and tokens D: give both.",
                set=name,
            )
    for word in ("n_convention", "loss_unit"):
        said = {str(getattr(runs, word)) for runs in sets.values()}
        if len(said) > 1:
            raise FittingError(
                "mixed_conventions",
                f"The sets mix {word}: {', '.join(sorted(said))}.",
                "Convert them to one, or say the unit to convert to.",
                found=sorted(said),
            )
    warned = [*_about_tokenizers(source.loss_unit, unit, tokenizers), *_about_mixtures(mixtures)]
    scale, word = _conversion(source.loss_unit, unit, tokens_per_byte)
    used = [runs.unmasked() for runs in sets.values()]
    for name, runs in zip(sets, used, strict=True):
        for count in ("N", "D"):
            _refuse_outlandish(count, runs.inputs[count], COUNTS, name)
    factors = [scale[0], scale[1], *([1.0] * (len(used) - 2))]
    table = _by_cell(used, factors)
    N, D, compute, losses = table
    for place, name in enumerate(sets):
        _refuse_outlandish("A loss", losses[:, place], LOSSES, name)
    made = Pairs(
        N, D, compute, losses, np.zeros(len(N), bool), budgets(compute), tuple(sets), how, word,
        source.n_convention, source.flops_convention, tuple(warned), _one_mixture(mixtures),
    )  # fmt: skip
    if how == "frontier":
        made = _with_frontier(made)
    if made.n_pairs < 3:
        raise FittingError(
            "too_few_points",
            f"{made.n_pairs} pairs of runs share {'N and D' if how == 'exact' else 'a budget'}; "
            f"a link needs at least 3 (of {len(source)} source and {len(target)} target runs).",
            "Train target runs at N and D of source runs, spread over the budgets"
            + ("; or pair along the compute-optimal frontier." if how == "exact" else "."),
            pairs=made.n_pairs,
        )
    return made


def _refuse_outlandish(what: str, values: Floats, bounds: tuple[float, float], name: str) -> None:
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero((values < bounds[0]) | (values > bounds[1]))
    if bad.size:
        raise FittingError(
            "bad_value",
            f"{what} of {name} is {values[bad[0]]:.3g}.",
            "Check the column, and the factor between units.",
            set=name,
        )


def budgets(compute: ArrayLike) -> NDArray[np.int64]:
    """Group index [points] of equal compute, by increasing compute.

    Isoflop designs are found by their gaps; runs without such groups get eight equal bins.
    """
    log = np.log10(np.asarray(compute, dtype=float))
    if log.size == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.argsort(log, kind="stable")
    group = np.empty(log.size, dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(np.diff(log[order]) > SAME_BUDGET)])
    spread = max(float(np.ptp(log[group == g])) for g in range(int(group.max()) + 1))
    if spread > 4 * SAME_BUDGET:  # a chain of small steps, not a group
        edges = np.linspace(log.min(), log.max(), 9)[1:-1]
        group = np.unique(np.searchsorted(edges, log), return_inverse=True)[1].astype(np.int64)
    return group


def _by_cell(sets: Sequence[Runs], scale: Sequence[float]) -> tuple[Floats, ...]:
    """N, D, compute [cells] and losses [cells, sets]; runs repeated in a cell are averaged.

    A cell's N, D and compute are those of its first run.
    """
    computes = [runs.compute() for runs in sets]
    N, D = (np.concatenate([runs.inputs[name] for runs in sets]) for name in ("N", "D"))
    C = np.concatenate([compute for compute in computes if compute is not None])
    n, d = _to_nine_digits(N), _to_nine_digits(D)
    _, first, cell = np.unique(n * (d.max() + 1) + d, return_index=True, return_inverse=True)
    losses = np.empty((first.size, len(sets)))
    begin = 0
    for place, runs in enumerate(sets):
        mine = cell[begin : begin + len(runs)]
        begin += len(runs)
        total = np.bincount(mine, runs.loss * scale[place], minlength=first.size)
        with np.errstate(invalid="ignore"):  # NaN where no run of the set has that cell
            losses[:, place] = total / np.bincount(mine, minlength=first.size)
    N, D, C = N[first], D[first], C[first]
    order = np.lexsort((first, D, N, np.round(np.log10(C), 2)))
    return N[order], D[order], C[order], losses[order]


def _to_nine_digits(values: Floats) -> NDArray[np.int64]:
    """The rank of each positive value among those there are, alike where nine digits are."""
    size = np.floor(np.log10(values)) - 8
    digits = np.rint(values / 10.0**size)
    over = digits == 1e9  # 9.999999999 is 10.0000000
    digits, size = np.where(over, 1e8, digits), size + over
    return np.unique(digits + 1e10 * size, return_inverse=True)[1].astype(np.int64)


def frontier(compute: Floats, loss: Floats, budget: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the best loss of each budget, by increasing compute."""
    best = [
        rows[np.argmin(loss[rows])]
        for g in np.unique(budget)
        if (rows := np.flatnonzero((budget == g) & np.isfinite(loss))).size
    ]
    return np.array(best, dtype=np.int64)


def _with_frontier(pairs: Pairs) -> Pairs:
    """Add one interpolated pair for each target budget within the source's range of compute."""
    from fitting.loss_to_loss.floors import own_floor

    source = frontier(pairs.compute, pairs.x, pairs.budget)
    target = frontier(pairs.compute, pairs.y, pairs.budget)
    E0 = own_floor(pairs, 0)
    logC = np.log(pairs.compute)
    a = logC[source]
    inside = (logC[target] >= a[0] - 0.05) & (logC[target] <= a[-1] + 0.05)
    target = target[inside]
    gap = np.log(pairs.x[source] - E0)
    x = E0 + np.exp(np.interp(logC[target], a, gap))
    losses = np.full((target.size, pairs.losses.shape[1]), np.nan)
    losses[:, 0], losses[:, 1] = x, pairs.y[target]

    def joined(one: Any, more: Any) -> Any:
        return np.concatenate([one, more])

    return replace(
        pairs,
        N=joined(pairs.N, pairs.N[target]),
        D=joined(pairs.D, pairs.D[target]),
        compute=joined(pairs.compute, pairs.compute[target]),
        losses=joined(pairs.losses, losses),
        interpolated=joined(pairs.interpolated, np.ones(target.size, bool)),
        budget=joined(pairs.budget, pairs.budget[target]),
    )


def _conversion(
    unit: str, wanted: str | None, tokens_per_byte: tuple[float, float] | None
) -> tuple[tuple[float, float], str]:
    """The factors on source and target losses, and the unit that comes out."""
    if wanted is None or wanted == unit:
        return (1.0, 1.0), unit
    if (unit, wanted) in (("nats/byte", "bits/byte"), ("bits/byte", "nats/byte")):
        factor = 1.0 / np.log(2.0) if wanted == "bits/byte" else float(np.log(2.0))
        return (float(factor), float(factor)), wanted
    if unit == "nats/token" and wanted in PER_BYTE:
        if tokens_per_byte is None or not all(t > 0 for t in tokens_per_byte):
            raise FittingError(
                "missing_input",
                f"Losses in nats/token become {wanted} only with the tokens per byte of each set.",
                "Give tokens_per_byte = (source, target), each counted on its validation text.",
            )
        for one in tokens_per_byte:
            check_tokens_per_byte(one)
        per = 1.0 / np.log(2.0) if wanted == "bits/byte" else 1.0
        return (float(tokens_per_byte[0] * per), float(tokens_per_byte[1] * per)), wanted
    raise FittingError(
        "bad_option", f"{unit} cannot be turned into {wanted}.", "Measure the losses in it."
    )


def check_tokens_per_byte(value: float) -> None:
    """Refuse its inverse, which is what a tokenizer's page prints."""
    if not 0 < value <= MOST_TOKENS_PER_BYTE:
        raise FittingError(
            "bad_option",
            f"{value:g} tokens per byte: no tokenizer makes more than one or so; this looks like "
            "bytes per token.",
            f"Give tokens per byte, such as {1 / value:.3g}.",
        )


def _about_tokenizers(
    unit: str, wanted: str | None, tokenizers: tuple[str, str] | None
) -> list[Warned]:
    if tokenizers is None or tokenizers[0] == tokenizers[1] or (wanted or unit) in PER_BYTE:
        return []
    return [
        Warned(
            "tokenizers_differ",
            f"The tokenizers differ ({tokenizers[0]}, {tokenizers[1]}) and the losses are per "
            "token: the floors are then in different units. Pair in bits/byte.",
        )
    ]


def _about_mixtures(
    mixtures: tuple[Sequence[str] | None, Sequence[str] | None] | None,
) -> list[Warned]:
    out = []
    for side, labels in zip(("source", "target"), mixtures or (), strict=False):
        words = sorted(set(labels or ()))
        if len(words) > 1:
            out.append(
                Warned(
                    "mixture_changed",
                    f"The {side} runs were trained on {len(words)} mixtures ({', '.join(words)}): "
                    "a link holds for one. Fit each on its own.",
                )
            )
    return out


def _one_mixture(
    mixtures: tuple[Sequence[str] | None, Sequence[str] | None] | None,
) -> str | None:
    words = set((mixtures or (None, None))[0] or ())
    return words.pop() if len(words) == 1 else None
