"""Fit a curve law to the curves of completed runs; predict any step under any schedule.

found = fit_curves("annealing_ensemble", [Curve.of("a", step, loss, schedule), ...])
found.predict(Schedule.wsd(50_000, 1e-3, 300, 10_000)).value
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from fitting.curves import calibrate
from fitting.curves.annealing import MOMENTA
from fitting.curves.calibrate import CurveCalibration
from fitting.curves.curve import MIXED, Curve, digest, mixed_warmups, summary
from fitting.curves.draws import block_weights, one_step
from fitting.curves.identify import identifiability
from fitting.curves.law import CurveLaw
from fitting.curves.predict import CurvePrediction, predict_curve
from fitting.curves.problem import CurveProblem, check_options
from fitting.curves.registry import ENSEMBLE, MEMBERS, get_curve_law
from fitting.curves.schedule import Schedule, as_schedule
from fitting.errors import FittingError
from fitting.intervals import robust_sd
from fitting.links import Floats

# Runs this long have momentum .999, the published default; shorter ones have theirs fitted.
LONG_RUN = 10_000


@dataclass(frozen=True)
class CurveFit:
    """One law fitted to curves, or several (`members`), of which this is the mean. Frozen.

    values [p] and draws [draws, p] in the law's own parameters (empty for an ensemble).
    """

    law: str
    status: str
    message: str
    values: Floats
    draws: Floats
    objective: float
    delta: float
    level: float
    first_step: int
    options: Mapping[str, Any]
    warnings: tuple[Mapping[str, str], ...]
    calibration: CurveCalibration
    data: Mapping[str, Any]
    digest: str
    seed: int
    members: tuple["CurveFit", ...] = ()
    versions: Mapping[str, str] = field(
        default_factory=lambda: {"numpy": np.__version__, "scipy": scipy.__version__}
    )

    @property
    def params(self) -> dict[str, float]:
        if self.members:
            return {}
        names = get_curve_law(self.law).param_names
        return {name: float(v) for name, v in zip(names, self.values, strict=True)}

    def intervals(self, level: float | None = None) -> dict[str, list[float]]:
        """{parameter: [low, high]} at `level`, from the resamples."""
        if self.members or not len(self.draws):
            return {}
        tail = 0.5 - 0.5 * (self.level if level is None else level)
        low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        names = get_curve_law(self.law).param_names
        return {n: [float(a), float(b)] for n, a, b in zip(names, low, high, strict=True)}

    def each(self) -> tuple["CurveFit", ...]:
        """The single-law fits that this is made of: its members, or itself."""
        return self.members or (self,)

    def predict(
        self,
        schedule: Schedule | Mapping[str, Any] | Sequence[float],
        steps: ArrayLike | None = None,
        size: float | None = None,
        level: float | None = None,
    ) -> CurvePrediction:
        """The loss after `steps` (default: the last) of a run with this schedule."""
        return predict_curve(self, as_schedule(schedule), steps, size, level)

    def to_dict(self) -> dict[str, Any]:
        """The document that `from_dict` reads, and that the command line prints less its draws."""
        return {
            "kind": "curve_fit",
            "law": self.law,
            "status": self.status,
            "message": self.message,
            "params": self.params,
            "objective": {
                "kind": "huber-log",
                "delta": self.delta,
                "reduction": "sum",
                "value": self.objective,
            },
            "intervals": {"level": self.level, **self.intervals()},
            "warnings": [dict(one) for one in self.warnings],
            "calibration": self.calibration.to_dict(),
            "data": dict(self.data),
            "first_step": self.first_step,
            "options": dict(self.options),
            "digest": self.digest,
            "seed": self.seed,
            "versions": dict(self.versions),
            "members": [one.to_dict() for one in self.members],
            "draws": self.draws.tolist(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "CurveFit":
        if document.get("kind") != "curve_fit":
            raise FittingError(
                "bad_document",
                f"This is no curve fit: its kind is {document.get('kind')!r}.",
                "Give what `curve fit --out` wrote.",
            )
        try:
            members = tuple(cls.from_dict(one) for one in document.get("members", ()))
            names = () if members else get_curve_law(document["law"]).param_names
            return cls(
                law=document["law"],
                status=document["status"],
                message=document["message"],
                values=np.array([float(document["params"][n]) for n in names]),
                draws=np.array(document.get("draws", []), dtype=float).reshape(-1, len(names))
                if names
                else np.empty((0, 0)),
                objective=float(document["objective"]["value"]),
                delta=float(document["objective"]["delta"]),
                level=float(document["intervals"]["level"]),
                first_step=int(document["first_step"]),
                options=document["options"],
                warnings=tuple(document["warnings"]),
                calibration=CurveCalibration.from_dict(document["calibration"]),
                data=document["data"],
                digest=document["digest"],
                seed=int(document["seed"]),
                members=members,
                versions=document["versions"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FittingError(
                "bad_document", f"The curve fit lacks or mistypes {error}.", "Fit again."
            ) from None


def auto_first_step(curves: Sequence[Curve]) -> int:
    """Twice the longest warm-up, or a twentieth of the longest run: no law describes the start."""
    warm = max(c.schedule.warmup_steps for c in curves)
    return max(2 * warm, int(0.05 * max(int(c.step[-1]) for c in curves)), 1)


def ready(curves: Sequence[Curve], law: CurveLaw | None, first_step: int) -> list[Curve]:
    """The curves' usable points, or the reason why there is nothing to fit."""
    names = [c.name for c in curves]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FittingError("bad_value", f"Two curves are called {twice}.", "Name each run once.")
    found = [c.usable(first_step) for c in curves]
    found = [c for c in found if len(c)]
    points = sum(len(c) for c in found)
    needed = 8 if law is None else len(law.params) + 2
    if points < needed:
        raise FittingError(
            "too_few_points",
            f"{points} points from step {first_step} on; at least {needed} are needed.",
            "Give longer curves, or a lower --first-step.",
        )
    if law is not None and law.needs_size:
        if any(c.size is None for c in found):
            raise FittingError("missing_input", f"{law.name} needs N of every run.", "Give N.")
        if len({c.size for c in found}) < 3:
            raise FittingError(
                "too_few_points", f"{law.name} needs at least three model sizes.", "Add sizes."
            )
    return found


def fit_curves(
    law: str | CurveLaw,
    curves: Sequence[Curve],
    *,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
    delta: float = 1e-3,
    first_step: int | None = None,
    **options: Any,
) -> CurveFit:
    """Fit a law, by name or itself; "annealing_ensemble" is the mean of three.

    first_step: points before it are left out; None: `auto_first_step`. options: the law's own, e.g.
    momentum (annealing): a number, or None: .999 for long runs, fitted for short ones.
    """
    if not curves:
        raise FittingError("too_few_points", "There are no curves.", "Give at least one run.")
    check_options(delta, options.get("momentum"))
    first = auto_first_step(curves) if first_step is None else first_step
    if law == ENSEMBLE:
        return _ensemble(curves, draws, level, seed, delta, first, options)
    one = get_curve_law(law) if isinstance(law, str) else law
    used = ready(curves, one, first)
    merged = {**one.options, **{k: v for k, v in options.items() if k in one.options}}
    if "momentum" in merged and options.get("momentum") is None:
        long = max(int(c.step[-1]) for c in used) >= LONG_RUN
        merged["momentum"] = one.options["momentum"] if long else _momentum(one, used, delta)
    rolled = [c.rolled_up() for c in used]
    small, counts = [c for c, _ in rolled], [n for _, n in rolled]
    problem = CurveProblem.of(one, small, delta, counts, **merged)
    found, best = problem.best()
    theta = found.theta[best]
    values = problem.values(theta)
    rng = np.random.default_rng([seed, 41])
    sample = one_step(problem, theta, block_weights(problem.curve, draws, rng))
    with np.errstate(all="ignore"):
        noise = robust_sd(problem.log_loss - np.log(problem.model(theta[None])[0][0]), theta.size)

    def refit(some: Sequence[Curve]) -> Any:
        less = CurveProblem.of(one, some, delta, **merged)
        starts = np.concatenate([theta[None], less.starts(1)])
        again = less.solve(starts, tol=1e-5, most=30)
        at = less.values(again.theta[int(np.argmin(again.f))])

        def predict(curve: Curve) -> Floats:
            features = one.features(curve.schedule, curve.step, curve.size, merged)
            with np.errstate(all="ignore"):
                return np.asarray(np.log(one.formula(at[None], features)[0][0]))

        return predict

    long = max(int(c.step[-1]) for c in used) >= LONG_RUN
    lam = float(merged.get("momentum", 0.999 if long else 0.99))
    warned, degenerate = identifiability(problem, theta, small, lam)
    warned = [*warned, *_mixed(used)]
    converged = bool(found.converged[best]) or float(found.decrement[best]) < 1e-4
    status = "degenerate" if degenerate else "converged" if converged else "not_converged"
    return CurveFit(
        law=one.name,
        status=status,
        message=warned[0]["message"]
        if degenerate
        else f"{len(found.f)} starts; the next step would gain "
        f"{max(float(found.decrement[best]), 0):.0e} of the objective.",
        values=values,
        draws=sample,
        objective=float(found.f[best]),
        delta=delta,
        level=level,
        first_step=first,
        options=merged,
        warnings=tuple(warned),
        calibration=calibrate.settle(noise, calibrate.held_out(small, refit)),
        data={**summary(used), "n_points": sum(len(c) for c in used)},
        digest=digest(curves),
        seed=seed,
    )


def _mixed(curves: Sequence[Curve]) -> list[dict[str, str]]:
    return mixed_warmups({c.name: c.schedule.warms_up for c in curves})


def _momentum(law: CurveLaw, curves: Sequence[Curve], delta: float) -> float:
    """The momentum of MOMENTA with the least objective."""
    scores = []
    for lam in MOMENTA:
        problem = CurveProblem.of(law, curves, delta, momentum=lam)
        scores.append(float(problem.solve(problem.starts(2), tol=1e-4, most=30).f.min()))
    return float(MOMENTA[int(np.argmin(scores))])


def _ensemble(
    curves: Sequence[Curve],
    draws: int,
    level: float,
    seed: int,
    delta: float,
    first: int,
    options: Mapping[str, Any],
) -> CurveFit:
    members = tuple(
        fit_curves(
            name, curves, draws=draws, level=level, seed=seed, delta=delta, first_step=first,
            **options,
        )
        for name in MEMBERS
    )  # fmt: skip
    answers = []
    for some in zip(*(one.calibration.held_out for one in members), strict=True):
        # the mean of logarithms: the laws differ by a per cent at most
        mean = float(np.mean([one.error for one in some]))
        answers.append(calibrate.HeldOut(some[0].run, some[0].kind, mean, some[0].decades))
    noise = min(one.calibration.noise for one in members)
    warned = [
        {"code": w["code"], "message": f"{one.law}: {w['message']}"}
        for one in members
        for w in one.warnings
        if w["code"] != MIXED
    ]
    # of the curves and not of a law: once
    warned += [dict(w) for w in members[0].warnings if w["code"] == MIXED]
    bad = [one for one in members if one.status != "converged"]
    return CurveFit(
        law=ENSEMBLE,
        status=bad[0].status if len(bad) == len(members) else "converged",
        message=f"The mean of {', '.join(MEMBERS)}."
        + "".join(f" {one.law}: {one.status}." for one in bad),
        values=np.empty(0),
        draws=np.empty((0, 0)),
        objective=float(np.mean([one.objective for one in members])),
        delta=delta,
        level=level,
        first_step=first,
        options=dict(options),
        warnings=tuple(warned),
        calibration=calibrate.settle(noise, answers),
        data=members[0].data,
        digest=members[0].digest,
        seed=seed,
        members=members,
    )


def choose_law(
    curves: Sequence[Curve], names: Sequence[str] = MEMBERS, **options: Any
) -> tuple[CurveFit, dict[str, float]]:
    """The law that predicts left-out curves best, and every law's error there (rms, log loss)."""
    fits = [fit_curves(name, curves, **options) for name in names]
    scores = {one.law: one.calibration.score for one in fits}
    order = np.argsort([np.nan_to_num(s, nan=np.inf) for s in scores.values()], kind="stable")
    return fits[int(order[0])], scores
