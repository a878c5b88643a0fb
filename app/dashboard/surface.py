"""From a fit to the plain values that figures are made of.

A law whose inputs are exactly N and D gets the plane: IsoFLOP profiles, the contour, the path along
which compute is best spent. Any other law gets one slice for each input, with its other inputs held
at the median of the data. Nothing here names a law.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from app.dashboard import text
from app.dashboard.figures import Cloud, Line, Path, Quantity
from fitting import Allocation, AllocationProblem, Fit, FittingError, allocate
from fitting.law import Input, Law

FLOPS = Quantity("C", "FLOPs")
PLANE = frozenset({"N", "D"})
PATH_DRAWS = 200
"""Draws that the path's band is made of: its ends move by less than a line's width beyond that."""


@dataclass(frozen=True)
class Points:
    """The measured points of a fit: inputs {name: (n,)}, loss (n,), what each is called."""

    inputs: Mapping[str, np.ndarray]
    loss: np.ndarray
    labels: Sequence[str] = ()
    run_ids: Sequence[int | None] = ()
    used: np.ndarray | None = None

    @property
    def kept(self) -> np.ndarray:
        return np.ones(len(self.loss), bool) if self.used is None else self.used


def is_plane(law: Law) -> bool:
    return {item.name for item in law.inputs} == PLANE


def quantity_of(item: Input) -> Quantity:
    return Quantity(item.name, item.unit, log=item.typical[0] > 0)


def numbers(law: Law) -> list[Input]:
    """The inputs that are plain numbers: those that an axis or a slider can show."""
    return [item for item in law.inputs if item.kind == "number"]


def cost(N: Any, D: Any) -> Any:
    """Training FLOPs as every page here counts them: 6 N D (Kaplan et al. 2020, eq. 2.2)."""
    return 6.0 * N * D


def fitted_lines(
    fit: Fit, points: Points, x: Input, shade: Input | None, count: int = 6
) -> list[Line]:
    """Curves of the law along `x`, one for each of `count` values of `shade`, with intervals.

    Each curve spans the data, and reaches as far beyond as half of the data's own span.
    """
    rest = _medians(fit.law, points)
    along = points.inputs[x.name][points.kept]
    low, high = float(along.min()), float(along.max())
    if low == high:
        low, high = low / 3, high * 3
    xs = np.geomspace(low, high * min(10.0, (high / low) ** 0.35), 72)
    levels: list[float | None] = [None]
    if shade is not None:
        values = np.unique(points.inputs[shade.name][points.kept])
        if len(values) > count:
            values = np.geomspace(values.min(), values.max(), count)
        levels = [float(value) for value in values]
    lines = []
    for level in levels:
        inputs = {**rest, x.name: xs}
        label = "law"
        if shade is not None and level is not None:
            inputs[shade.name] = level
            label = f"{shade.name} = {text.quantity(level, shade.unit)}"
        value, lower, upper = predicted(fit, inputs, len(xs))
        lines.append(Line(xs, value, lower, upper, label, level))
    return lines


def predicted(
    fit: Fit, inputs: Mapping[str, Any], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, lower, upper), each (n,); inputs that are one number are repeated."""
    full = {name: np.broadcast_to(np.asarray(v, float), (n,)) for name, v in inputs.items()}
    answer = fit.predict(full)
    return np.asarray(answer.value), np.asarray(answer.lower), np.asarray(answer.upper)


def budgets_of(points: Points, most: int = 7) -> np.ndarray:
    """The compute budgets that the runs were planned on, or log-spaced ones where there are none.

    Runs whose 6ND lies within 12% of each other form a budget; it counts with three runs or more.
    """
    flops = np.sort(cost(points.inputs["N"], points.inputs["D"])[points.kept])
    groups = np.split(flops, np.flatnonzero(np.diff(np.log(flops)) > 0.12) + 1)
    # a group that is itself wide is a continuum, not a budget
    planned = [g for g in groups if len(g) >= 3 and g[-1] / g[0] < 1.6]
    if len(planned) >= 2 and sum(map(len, planned)) >= 0.5 * len(flops):
        centres = np.array([np.exp(np.log(g).mean()) for g in planned])
        if len(centres) > most:
            centres = centres[np.linspace(0, len(centres) - 1, most).round().astype(int)]
        return centres
    low, high = np.quantile(flops, [0.02, 0.98])
    if low == high:
        low, high = low / 2, high * 2
    return np.geomspace(low, high, min(most, 6))


def optimum(
    fit: Fit, budget: float, draws: int = 0, fixed: Mapping[str, float] | None = None
) -> Allocation | None:
    """Where the law's loss is lowest on a budget; None where it has no interior minimum.

    The first `draws` of the fit give the intervals (none for 0, which is quick). `fixed` holds the
    inputs that the law has besides N and D.
    """
    fewer = replace(fit, draws=fit.draws[:draws])
    try:
        found = allocate(AllocationProblem(fewer, float(budget), fixed=fixed or {}))
    except FittingError:
        return None
    codes = {warning["code"] for warning in found.warnings}
    return None if "no_interior_optimum" in codes else found


def isoflop_lines(fit: Fit, budgets: np.ndarray, points: Points) -> list[Line]:
    """Loss along each budget, wide enough to hold its runs and its minimum."""
    N = points.inputs["N"][points.kept]
    nearest = nearest_budget(points, budgets)
    lines = []
    for budget in budgets:
        best = optimum(fit, budget)
        mine = points.inputs["N"][nearest == budget]
        ends = np.append(mine, best.optimal["N"] if best else float(np.median(N)))
        xs = np.geomspace(ends.min() / 2.2, ends.max() * 2.2, 64)
        value, lower, upper = predicted(fit, {"N": xs, "D": budget / 6.0 / xs}, len(xs))
        lines.append(
            Line(
                xs,
                value,
                lower,
                upper,
                f"{text.scientific(budget, 2)} FLOPs",
                float(budget),
                (best.optimal["N"], best.optimal["loss"]) if best else None,
            )
        )
    return lines


def nearest_budget(points: Points, budgets: np.ndarray, within: float = 0.35) -> np.ndarray:
    """The budget of each point, NaN where none lies within exp(`within`) (about 1.4x)."""
    logs = np.log(cost(points.inputs["N"], points.inputs["D"]))
    distance = np.abs(logs[:, None] - np.log(budgets))
    at = distance.argmin(axis=1)
    near = distance[np.arange(len(at)), at] <= within
    return np.where(near & points.kept, budgets[at], np.nan)


def path(fit: Fit, low: float, high: float, count: int = 20) -> Path | None:
    """The compute-optimal path from `low` to `high` FLOPs with its interval over the draws."""
    rows = []
    for budget in np.geomspace(low, high, count):
        best = optimum(fit, budget, PATH_DRAWS)
        if best is not None:
            n = best.optimal["N"]
            lower, upper = best.intervals.get("N", (n, n))
            rows.append((budget, n, lower, upper))
    if not rows:
        return None
    C, n, lower, upper = np.array(rows).T
    return Path(C, n, C / 6 / n, lower, C / 6 / lower, upper, C / 6 / upper)


def clipped(path: Path | None, N: np.ndarray, D: np.ndarray) -> Path | None:
    """The part of the path that lies inside the plane of axes N and D."""
    if path is None:
        return None
    inside = (path.x >= N[0]) & (path.x <= N[-1]) & (path.y >= D[0]) & (path.y <= D[-1])
    if not inside.any():
        return None
    return Path(*(getattr(path, item.name)[inside] for item in fields(Path)))


def plane_grid(points: Points, ahead: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Axes of the contour: the data, and `ahead` times more compute in the corner."""
    axes = []
    for name in ("N", "D"):
        values = points.inputs[name][points.kept]
        axes.append(np.geomspace(values.min() / 1.6, values.max() * ahead**0.5, 60))
    return axes[0], axes[1]


def plane_losses(fit: Fit, N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Loss (len(D), len(N)) of the fit itself."""
    grid_n, grid_d = np.meshgrid(N, D)
    inputs = {"N": grid_n.ravel(), "D": grid_d.ravel()}
    return np.asarray(fit.law.loss(inputs, fit.params)).reshape(grid_n.shape)


def cloud(points: Points, x: str, shade: str | None = None, y: np.ndarray | None = None) -> Cloud:
    """The points used by the fit, against input `x` (or `C`)."""
    kept = points.kept
    labels = [points.labels[i] for i in np.flatnonzero(kept).tolist()] if points.labels else ()
    return Cloud(
        column(points, x)[kept],
        (points.loss if y is None else y)[kept],
        None if shade is None else points.inputs[shade][kept],
        labels,
    )


def column(points: Points, name: str) -> np.ndarray:
    if name == FLOPS.name and name not in points.inputs:
        return np.asarray(cost(points.inputs["N"], points.inputs["D"]))
    return points.inputs[name]


def _medians(law: Law, points: Points) -> dict[str, Any]:
    return {
        item.name: float(np.exp(np.median(np.log(points.inputs[item.name][points.kept]))))
        if item.positive
        else float(np.median(points.inputs[item.name][points.kept]))
        for item in numbers(law)
    }
