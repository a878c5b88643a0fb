"""Fit accuracy as a function of loss: the curve, how far it can be trusted, or a refusal.

task = fit_task(loss, accuracy, "sigmoid", chance=0.25)
task.predict(2.1)                      # or of a link's or a law's prediction, interval and all
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from fitting.diagnose import Warned
from fitting.errors import FittingError
from fitting.intervals import MAD_TO_SD, paule_mandel, resample_counts
from fitting.links import Floats
from fitting.predict import check_level
from fitting.tasks.curves import CURVES, TaskCurve, get_curve
from fitting.tasks.task import TaskCalibration, TaskFit

AUTO = "auto"
# The best accuracies must stand this many standard deviations of noise above chance.
ABOVE_CHANCE = 3.0
# Drift of accuracy to expect when the loss goes as far below the data as the data span, and the
# evidence that it is worth. Guesses.
PRIOR_DRIFT = 0.04
PRIOR_WEIGHT = 2.0
FEWEST_POINTS = 5


def fit_task(
    loss: ArrayLike,
    accuracy: ArrayLike,
    form: str = AUTO,
    *,
    chance: float | None = None,
    run: Sequence[Any] | None = None,
    questions: int | None = None,
    loss_floor: float | None = None,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
) -> TaskFit:
    """The curve of accuracy [points] over loss [points], least squares on accuracy.

    form: "sigmoid", "decay", "softmin", "threshold", or "auto" (least Akaike criterion, corrected
    for few points; the soft-min takes part only where loss_floor is known). chance: the accuracy of
    guessing, which the curve then starts from. run: the run of each point (resampled together).
    questions: how many the task has, for its binomial noise. loss_floor: E of the loss, fixes the
    soft-min's shift c.
    Raises FittingError for unusable points, and where every accuracy is within noise of chance:
    below the threshold of emergence nothing can be said about what comes after it.
    """
    L, y, group = _checked(loss, accuracy, run)
    check_level(level)
    if chance is not None and not 0 <= chance < 1:
        raise FittingError("bad_option", f"chance is {chance}.", "Give a share in [0, 1).")
    safe = [n for n, c in CURVES.items() if c.floor is None or loss_floor is not None]
    if loss_floor is not None and not 0 <= loss_floor < L.min():
        raise FittingError(
            "bad_option",
            f"loss_floor is {loss_floor:g}; the smallest loss is {L.min():g}.",
            "Give a loss of 0 or more that lies below every point.",
        )
    names = safe if form == AUTO else [get_curve(form).name]
    if chance is not None:
        _refuse_below_threshold(L, y, chance, questions)
    found: list[tuple[float, TaskCurve, Floats]] = []
    for name in names:
        curve = CURVES[name]
        fixed = _fixed(curve, chance, loss_floor)
        p = len(curve.params) - len(fixed)
        if y.size < max(p, FEWEST_POINTS if form == AUTO else p):
            continue
        values, cost = _best(curve, L, y, fixed, np.ones(y.size))
        found.append((_akaike(cost, y.size, p), curve, values))
    if not found:
        raise FittingError(
            "too_few_points", f"{y.size} points are too few for {form}.",
            "Add runs or checkpoints: at least as many as the curve has parameters.",
        )  # fmt: skip
    _, curve, values = min(found, key=lambda one: one[0])
    fixed = _fixed(curve, chance, loss_floor)
    p = len(curve.params) - len(fixed)
    sample = np.zeros((0, len(curve.params)))
    if draws:
        rng = np.random.default_rng([seed, 37])
        counts = resample_counts(group, draws, rng)
        sample = np.array([_refit(curve, L, y, fixed, w, values) for w in counts])
    residual = y - curve.formula(L, **dict(zip(curve.params, values, strict=True)))
    noise = max(_noise(residual, p), _binomial(y, questions))
    calibration = _calibrate(curve, L, y, fixed, values, noise, p)
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1.0 - float((residual**2).sum()) / total if total > 0 else 0.0
    grade = grade_of(r2, y.size, p)
    warned = _about(curve, values, fixed, chance, grade, r2, y.size, p)
    return TaskFit(
        curve=curve,
        values=values,
        draws=sample,
        chance=chance,
        level=level,
        r2=r2,
        grade=grade,
        calibration=calibration,
        loss_range=(float(L.min()), float(L.max())),
        accuracy_range=(float(y.min()), float(y.max())),
        n_points=int(y.size),
        warnings=tuple(warned),
        seed=seed,
    )


def grade_of(r2: float, points: int, params: int) -> str:
    """How predictable a task is, A to D, by R2: above .99 forecasts miss by 1 to 3 % at 20 times
    the compute, below .96 by 5 % and more, below .8 by a quarter (11 tasks of the public sweep).
    With fewer than three points more than parameters a good R2 says little: B at best."""
    grade = "A" if r2 >= 0.99 else "B" if r2 >= 0.96 else "C" if r2 >= 0.8 else "D"
    return "B" if grade == "A" and points - params < 3 else grade


def _checked(
    loss: ArrayLike, accuracy: ArrayLike, run: Sequence[Any] | None
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    L, y = np.asarray(loss, dtype=float), np.asarray(accuracy, dtype=float)
    if L.shape != y.shape or L.ndim != 1:
        raise FittingError(
            "shape", f"{L.shape} losses and {y.shape} accuracies.", "Give one of each a point."
        )
    for name, column, bad in (
        ("loss", L, ~(np.isfinite(L) & (L > 0))),
        ("accuracy", y, ~(np.isfinite(y) & (y >= 0) & (y <= 1))),
    ):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise FittingError(
                "bad_value",
                f"{name} is {column[row]} in row {row + 1}.",
                "Losses are positive; accuracies are shares between 0 and 1 (divide percent).",
                row=row,
                column=name,
            )
    if L.size < 3:
        raise FittingError("too_few_points", f"{L.size} points.", "Give at least three.")
    if float(np.ptp(L)) == 0:
        raise FittingError("constant_loss", f"All losses are {L[0]}.", "Add other runs.")
    labels = np.arange(L.size) if run is None else np.asarray(run)
    return L, y, np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _refuse_below_threshold(L: Floats, y: Floats, chance: float, questions: int | None) -> None:
    """The best third of the runs by loss against chance, in units of the noise of the rest."""
    order = np.argsort(L)
    best = y[order[: max(2, y.size // 3)]]
    rest = y[order[max(2, y.size // 3) :]]
    spread = float(MAD_TO_SD * np.median(np.abs(rest - np.median(rest)))) if rest.size > 2 else 0.0
    noise = max(spread, _binomial(y, questions), 1e-3)
    lift = float(best.mean() - chance)
    if lift < ABOVE_CHANCE * noise / np.sqrt(best.size):
        raise FittingError(
            "infeasible",
            f"The best runs score {best.mean():.3f}, chance is {chance:.3f} and the noise "
            f"{noise:.3f}: the task is below its threshold, and what comes after it cannot be "
            "seen from here.",
            "Measure the task's loss (of the right answer) instead of accuracy, or train larger.",
            lift=lift,
            noise=noise,
        )


def _binomial(y: Floats, questions: int | None) -> float:
    middle = float(np.clip(np.median(y), 0.01, 0.99))
    return 0.0 if not questions else float(np.sqrt(middle * (1 - middle) / questions))


def _fixed(curve: TaskCurve, chance: float | None, loss_floor: float | None) -> dict[str, float]:
    fixed = curve.fixed(chance)
    if curve.floor is not None and loss_floor is not None:
        fixed[curve.floor] = loss_floor
    return fixed


def _problem(
    curve: TaskCurve, L: Floats, y: Floats, fixed: Mapping[str, float], w: Floats
) -> tuple[tuple[str, ...], Floats, Floats, Callable[[Floats], Floats]]:
    free = tuple(p for p in curve.params if p not in fixed)
    low = np.array([curve.bounds[p][0] for p in free])
    high = np.array([curve.bounds[p][1] for p in free])
    if curve.floor in free:
        high[free.index(curve.floor)] = 0.999 * float(L.min())
    root = np.sqrt(w)

    def residual(theta: Floats) -> Floats:
        named = {**fixed, **dict(zip(free, theta, strict=True))}
        return np.asarray(root * (curve.formula(L, **named) - y))

    return free, low, high, residual


def _best(
    curve: TaskCurve, L: Floats, y: Floats, fixed: Mapping[str, float], w: Floats
) -> tuple[Floats, float]:
    """Parameters [p] of the best of all starts, and half its sum of squares.

    Every start is looked at; the eight that begin lowest are followed to their end.
    """
    free, low, high, residual = _problem(curve, L, y, fixed, w)
    table = curve.starts(L, y)
    grid = [np.clip(np.array(s), low, high) for s in product(*(table[p] for p in free))]
    grid.sort(key=lambda s: float((residual(s) ** 2).sum()))
    best: tuple[float, Floats] = (np.inf, np.array([]))
    for start in grid[:8]:
        out = _descend(residual, start, low, high)
        if out[1] < best[0]:
            best = (out[1], out[0])
    named = {**fixed, **dict(zip(free, best[1], strict=True))}
    return np.array([named[p] for p in curve.params]), best[0]


def _descend(
    residual: Callable[[Floats], Floats], start: Floats, low: Floats, high: Floats
) -> tuple[Floats, float]:
    inside = np.clip(start, low + 1e-12 + 1e-9 * np.abs(low), high - 1e-9 * np.abs(high))
    out = least_squares(
        residual, inside, bounds=(low, high), x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14,
        max_nfev=400,
    )  # fmt: skip
    return np.asarray(out.x), float(out.cost)


def _refit(
    curve: TaskCurve, L: Floats, y: Floats, fixed: Mapping[str, float], w: Floats, near: Floats
) -> Floats:
    free, low, high, residual = _problem(curve, L, y, fixed, w)
    start = np.array([near[curve.params.index(p)] for p in free])
    inside = np.clip(start, low + 1e-9 * (high - low), high - 1e-9 * (high - low))
    out = least_squares(residual, inside, bounds=(low, high), x_scale="jac", max_nfev=60)
    named = {**fixed, **dict(zip(free, out.x, strict=True))}
    return np.array([named[p] for p in curve.params])


def _akaike(cost: float, n: int, p: int) -> float:
    """Akaike's criterion with Hurvich & Tsai's correction (1989); infinite without freedom."""
    if n - p - 2 <= 0:
        return 1e9 + p
    k = p + 1
    return float(n * np.log(max(2 * cost / n, 1e-12)) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _noise(residual: Floats, p: int) -> float:
    n = residual.size
    return float(np.sqrt((residual**2).sum() / max(n - p, 1)))


def _calibrate(
    curve: TaskCurve,
    L: Floats,
    y: Floats,
    fixed: Mapping[str, float],
    values: Floats,
    noise: float,
    p: int,
) -> TaskCalibration:
    """Refit on the higher losses, predict the lower ones; error per span of loss below."""
    span = float(np.ptp(L))
    errors, far = [], []
    for share in (0.5, 0.65, 0.8):
        cut = float(np.quantile(L, 1 - share))
        above = cut <= L
        if int(above.sum()) < p + 2 or above.all() or float(np.ptp(L[above])) == 0:
            continue
        then = _refit(curve, L, y, fixed, above.astype(float), values)
        e = y - curve.formula(L, **dict(zip(curve.params, then, strict=True)))
        errors.append(np.where(above, 0.0, e))
        far.append(np.where(above, 0.0, (cut - L) / span))
    freedom = float(max(y.size - p, 1))
    if not errors:
        return TaskCalibration(noise, freedom, PRIOR_DRIFT, PRIOR_WEIGHT, 0.0, 0)
    e, d = np.array(errors), np.array(far)
    share_of = (d > 0) / np.maximum((d > 0).sum(axis=1, keepdims=True), 1)
    seen = paule_mandel(e, np.full_like(e, max(noise, 1e-6) ** 2), d, share_of)
    weight = PRIOR_WEIGHT + 1.0
    drift = float(np.sqrt((PRIOR_WEIGHT * PRIOR_DRIFT**2 + seen**2) / weight))
    return TaskCalibration(noise, freedom, drift, weight, seen, len(errors))


def _about(
    curve: TaskCurve,
    values: Floats,
    fixed: Mapping[str, float],
    chance: float | None,
    grade: str,
    r2: float,
    n: int,
    p: int,
) -> list[Warned]:
    out = []
    if chance is None:
        out.append(
            Warned(
                "chance_unknown",
                "The accuracy of guessing was not given: whether the task is above its threshold "
                "was not looked at, and the curve's start is free.",
            )
        )
    if grade in ("C", "D"):
        out.append(
            Warned(
                "hardly_predictable",
                f"Grade {grade}: R2 is {r2:.3f}; tasks like this missed by 5 % and more.",
            )
        )
    if n - p < 3:
        out.append(
            Warned(
                "few_points",
                f"{n} points for {p} free parameters: several curves would do as well.",
            )
        )
    for name, value in zip(curve.params, values, strict=True):
        low, high = curve.bounds[name]
        if name not in fixed and name in ("k", "gamma", "a", "L0", "eta", "d"):
            edge = 1e-3 * (high - low)
            if value - low < edge * 1e-2 or high - value < edge:
                out.append(
                    Warned(
                        "parameter_at_bound",
                        f"{name} = {value:.4g} ran to its bound: these points do not show where "
                        "the curve bends.",
                    )
                )
    return out
