"""How N* and D* grow with compute: Hoffmann et al. 2022's approaches 1, 2 and 3, side by side.

| method | what it reads | known weakness |
|---|---|---|
| envelope (1) | the model with the lowest loss at each compute | moves in steps of size |
| interpolated | the lowest point of a smooth curve through each budget's runs (Porian) | noise |
| parabola (2) | a parabola in ln N through each budget's runs | biased unless alpha = beta |
| cubic | the same with a cubic: takes the skew | needs five runs a budget |
| parametric (3) | a fitted L(N, D) | only as good as its law |

The parabola's bias is no noise: on loss values without any, from the constants of Hoffmann et al.,
D* at 1e24 FLOPs comes out .3% low for budgets that span a factor of 2 on each side, 5.1% for 16.
`parabola_bias` measures it on the runs at hand.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fitting.diagnose import Warned
from fitting.errors import FittingError
from fitting.fit import Fit
from fitting.intervals import BUDGET_TOLERANCE, budget_labels
from fitting.law import Law
from fitting.links import Floats
from fitting.runs import Runs


@dataclass(frozen=True)
class Frontier:
    """N*(C) and D*(C) by one method, as power laws through its optima.

    C, N, D, loss [optima]: where each budget has its lowest loss. N* = N_coefficient C^N_exponent,
    D* likewise; the two exponents add up to 1 where C = 6 N D.
    """

    method: str
    C: Floats
    N: Floats
    D: Floats
    loss: Floats
    N_exponent: float
    N_coefficient: float
    D_exponent: float
    D_coefficient: float
    notes: tuple[Warned, ...] = field(default=())

    def at(self, C: float) -> dict[str, float]:
        """N* and D* at a compute of C FLOPs, by the two power laws."""
        return {
            "N": self.N_coefficient * C**self.N_exponent,
            "D": self.D_coefficient * C**self.D_exponent,
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "N_exponent": self.N_exponent,
            "N_coefficient": self.N_coefficient,
            "D_exponent": self.D_exponent,
            "D_coefficient": self.D_coefficient,
            "optima": [
                {"C": c, "N": n, "D": d, "loss": y}
                for c, n, d, y in zip(
                    self.C.tolist(),
                    self.N.tolist(),
                    self.D.tolist(),
                    self.loss.tolist(),
                    strict=True,
                )
            ],
            "notes": [n.to_dict() for n in self.notes],
        }


@dataclass(frozen=True)
class Budget:
    """The runs of one budget, by growing N, the best of each N. C: their geometric mean."""

    C: float
    N: Floats
    D: Floats
    loss: Floats


def budgets(runs: Runs, *, tolerance: float = BUDGET_TOLERANCE) -> list[Budget]:
    """Runs grouped by compute: a gap of more than `tolerance` begins a new budget."""
    N, D, C, loss = _columns(runs)
    label = budget_labels(C, tolerance)
    found = []
    for one in range(int(label.max()) + 1):
        rows = np.flatnonzero(label == one)
        by_size = rows[np.lexsort((loss[rows], N[rows]))]
        _, first = np.unique(N[by_size], return_index=True)
        kept = by_size[first]
        found.append(Budget(float(np.exp(np.log(C[rows]).mean())), N[kept], D[kept], loss[kept]))
    return found


def envelope(runs: Runs, *, points: int = 1500) -> Frontier:
    """Approach 1: at each of `points` computes, the size whose curve is lowest there.

    A curve is a run with several points, or, where runs have one point each, all runs of one N.
    """
    N, D, C, loss = _columns(runs)
    runs = runs.unmasked()
    curved = np.bincount(runs.group).max() > 2
    label = runs.group if curved else np.unique(N, return_inverse=True)[1]
    grid = np.linspace(np.log(C.min()), np.log(C.max()), points)
    lowest = np.full(points, np.inf)
    size, tokens = np.full(points, np.nan), np.full(points, np.nan)
    each = np.lexsort((C, label))
    each = each[np.bincount(label)[label[each]] > 1]  # a lone run is no curve
    starts = np.flatnonzero(np.diff(label[each], prepend=-1))
    for rows in np.split(each, starts[1:]):  # by label, each by its compute
        if not rows.size:
            continue
        x = np.log(C[rows])
        y = np.interp(grid, x, np.log(loss[rows]), left=np.inf, right=np.inf)
        better = y < lowest
        lowest[better] = y[better]
        size[better] = N[rows[0]]
        tokens[better] = np.exp(np.interp(grid[better], x, np.log(D[rows])))
    # where the smallest or the largest model is the best, the optimum may lie beyond it
    inside = np.isfinite(lowest) & (size > N.min()) & (size < N.max())
    if np.unique(size[inside]).size < 2:
        raise _no_optimum("envelope", int(np.unique(size[inside]).size))
    return _power_laws(
        "envelope", np.exp(grid[inside]), size[inside], tokens[inside], np.exp(lowest[inside]), ()
    )


def interpolated(runs: Runs, *, tolerance: float = BUDGET_TOLERANCE) -> Frontier:
    """The lowest point of an Akima spline of ln L in ln N through each budget's runs.

    This is what Porian et al. 2024 (arXiv 2406.19146) do, without their resampling.
    """
    from scipy.interpolate import Akima1DInterpolator

    def lowest(x: Floats, y: Floats) -> float | None:
        if x.size < 3:
            return None
        fine = np.linspace(x[0], x[-1], 200 * (x.size - 1) + 1)
        at = int(np.argmin(Akima1DInterpolator(x, np.log(y))(fine)))
        return float(fine[at]) if 0 < at < fine.size - 1 else None

    return _by_budget("interpolated", runs, tolerance, lowest)


def parabola(
    runs: Runs,
    *,
    degree: int = 2,
    within: float = np.inf,
    tolerance: float = BUDGET_TOLERANCE,
) -> Frontier:
    """Approach 2: the lowest point of a parabola (or, degree 3, a cubic) of L in ln N.

    within: use only the sizes within this factor of the budget's best; the narrower, the smaller
    the bias and the larger the noise.
    """
    if degree not in (2, 3):
        raise FittingError("bad_option", f"degree is {degree}.", "Use 2 (parabola) or 3 (cubic).")

    def lowest(x: Floats, y: Floats) -> float | None:
        near = np.abs(x - x[np.argmin(y)]) <= np.log(within)
        x, y = x[near], y[near]
        if x.size < degree + 1:
            return None
        middle = x.mean()
        c = np.polyfit(x - middle, y, degree)
        for root in np.roots(np.polyder(c)):
            curvature = np.polyval(np.polyder(c, 2), root.real)
            at = root.real + middle
            if abs(root.imag) < 1e-12 and curvature > 0 and x[0] < at < x[-1]:
                return float(at)
        return None

    return _by_budget({2: "parabola", 3: "cubic"}[degree], runs, tolerance, lowest)


def parametric(law: Law, params: dict[str, float], C: Floats) -> Frontier:
    """Approach 3: the optimum of a law of N and D on 6 N D = C, at each compute of C.

    Found numerically, so that any law of N and D will do.
    """
    if set(law.input_names) != {"N", "D"}:
        raise FittingError(
            "bad_option",
            f"{law.name} is a law of {', '.join(law.input_names)}.",
            "Approach 3 needs a law of N and D.",
        )
    C = np.asarray(C, dtype=float)
    low, high = np.full(C.size, 0.0), np.log(C / 6.0)
    for _ in range(12):  # a grid on ln N, twelve times refined tenfold: to 1e-12 of ln N
        x = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, 41)
        N = np.exp(x)
        loss = law.loss({"N": N.ravel(), "D": (C[:, None] / 6.0 / N).ravel()}, params)
        at = np.argmin(loss.reshape(x.shape), axis=1)
        rows = np.arange(C.size)
        low, high = x[rows, np.maximum(at - 2, 0)], x[rows, np.minimum(at + 2, 40)]
    N = np.exp(0.5 * (low + high))
    D = C / 6.0 / N
    return _power_laws("parametric", C, N, D, law.loss({"N": N, "D": D}, params), ())


def parabola_bias(
    runs: Runs,
    law: Law,
    params: dict[str, float],
    *,
    at: float,
    degree: int = 2,
    within: float = np.inf,
) -> float:
    """By what fraction the parabola misses D*(at) on these very runs when their losses carry no
    noise at all: the losses of `law` at `params` in their stead."""
    runs = runs.unmasked()
    clean = law.loss(law.columns(runs.inputs), params)
    C = runs.compute()
    quiet = Runs(runs.inputs, clean, flops=C)
    found = parabola(quiet, degree=degree, within=within).at(at)["D"]
    true = parametric(law, params, np.array([at])).D[0]
    return float(found / true - 1.0)


def side_by_side(runs: Runs, fit: Fit | None = None) -> dict[str, Frontier | FittingError]:
    """Every approach on the same runs; one that cannot be used is there with its reason.

    fit: of a law of N and D on the same runs, for approach 3. With it, the parabola and the cubic
    say by how much they are biased on these runs at 100 times the largest compute.
    """
    methods: dict[str, Callable[[], Frontier]] = {
        "envelope": lambda: envelope(runs),
        "interpolated": lambda: interpolated(runs),
        "parabola": lambda: _flagged(parabola(runs), runs, fit, 2),
        "cubic": lambda: _flagged(parabola(runs, degree=3), runs, fit, 3),
    }
    if fit is not None:
        compute = np.array([b.C for b in budgets(runs)])
        methods["parametric"] = lambda: parametric(fit.law, fit.params, compute)
    out: dict[str, Frontier | FittingError] = {}
    for name, method in methods.items():
        try:
            out[name] = method()
        except FittingError as error:
            out[name] = error
    return out


def _flagged(found: Frontier, runs: Runs, fit: Fit | None, degree: int) -> Frontier:
    """The parabola with a note on its bias: measured where a fit is given, else in words."""
    note = Warned(
        "parabola_bias",
        "A parabola in ln N is biased wherever alpha and beta differ, the more the wider the "
        "budgets; compare it with the cubic and with a fitted law.",
    )
    if fit is not None:
        at = 100.0 * float(found.C.max())
        try:
            bias = parabola_bias(runs, fit.law, fit.params, at=at, degree=degree)
        except FittingError:
            return found
        note = Warned(
            "parabola_bias",
            f"Without any noise, on losses of the fitted {fit.law.name}, this method misses D* at "
            f"{at:.2g} FLOPs by {100 * bias:+.1f}%.",
        )
    elif degree == 3:
        return found
    return Frontier(**{**vars(found), "notes": (*found.notes, note)})


def _columns(runs: Runs) -> tuple[Floats, Floats, Floats, Floats]:
    """N, D, C, loss of the points that are not masked."""
    runs = runs.unmasked()
    for name in ("N", "D"):
        if name not in runs.inputs:
            raise FittingError(
                "missing_input", f"The runs have no {name}.", "An isoFLOP analysis reads N and D."
            )
    C = runs.compute()
    assert C is not None  # N and D are there
    return runs.inputs["N"], runs.inputs["D"], C, runs.loss


def _by_budget(
    method: str, runs: Runs, tolerance: float, lowest: Callable[[Floats, Floats], float | None]
) -> Frontier:
    """Optima of `lowest`(ln N, loss) -> ln N* for each budget, and the power laws through them."""
    all_budgets = budgets(runs, tolerance=tolerance)
    C, N, D, loss, without = [], [], [], [], []
    for b in all_budgets:
        x = np.log(b.N)
        best = lowest(x, b.loss) if x.size >= 3 else None
        if best is None:
            without.append(b.C)
            continue
        C.append(b.C)
        N.append(np.exp(best))
        D.append(np.exp(np.interp(best, x, np.log(b.D))))
        loss.append(np.exp(np.interp(best, x, np.log(b.loss))))
    if len(C) < 2:
        raise _no_optimum(method, len(C))
    notes: tuple[Warned, ...] = ()
    if without:
        listed = ", ".join(f"{c:.3g}" for c in without)
        notes = (
            Warned(
                "no_interior_minimum",
                f"{len(without)} of {len(all_budgets)} budgets have no minimum between their "
                f"smallest and largest model and were left out: {listed} FLOPs.",
            ),
        )
    return _power_laws(method, np.array(C), np.array(N), np.array(D), np.array(loss), notes)


def _no_optimum(method: str, found: int) -> FittingError:
    return FittingError(
        "infeasible",
        f"{method}: {found} budgets have their lowest loss between their smallest and largest "
        "model, and a power law needs two.",
        "Train smaller and larger models at each budget, at least three sizes.",
        method=method,
        found=found,
    )


def _power_laws(
    method: str, C: Floats, N: Floats, D: Floats, loss: Floats, notes: tuple[Warned, ...]
) -> Frontier:
    """Straight lines through ln N* and ln D* in ln C, every optimum counting the same."""
    if np.ptp(np.log(C)) == 0:  # one compute: no exponent to speak of
        nan = float("nan")
        return Frontier(method, C, N, D, loss, nan, nan, nan, nan, notes)
    a, log_a = np.polyfit(np.log(C), np.log(N), 1)
    b, log_b = np.polyfit(np.log(C), np.log(D), 1)
    return Frontier(
        method,
        C,
        N,
        D,
        loss,
        float(a),
        float(np.exp(log_a)),
        float(b),
        float(np.exp(log_b)),
        notes,
    )
