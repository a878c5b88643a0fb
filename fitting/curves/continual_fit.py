"""Fit the continual pre-training law to one domain's curves; predict unseen transfers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fitting.curves import calibrate
from fitting.curves.calibrate import CurveCalibration, HeldOut
from fitting.curves.continual import (
    CONTINUAL_LAWS,
    CONVENTIONS,
    LAW,
    LAW_OPEN,
    MOMENTA,
    REPLAY,
    SKIP,
    ContinualCurve,
    Transfer,
    features_of,
)
from fitting.curves.curve import mixed_warmups
from fitting.curves.draws import block_weights, one_step
from fitting.curves.law import CurveLaw, Features
from fitting.curves.predict import as_fitted, far_flags, warmup_flags
from fitting.curves.problem import CurveProblem, check_options
from fitting.errors import FittingError
from fitting.intervals import robust_sd
from fitting.links import Floats

DELTA = 3e-3
TIE = 1.05
OPEN_FLAG = {
    "code": "pretraining_unknown",
    "message": "Pre-training is unknown: its parameters are not identified. Use the predictions "
    "near the fitted schedules, not the parameters.",
}


@dataclass(frozen=True)
class ContinualPrediction:
    """step, value, lower, upper [n]; reach {"area", "new_share"}; flags in words."""

    step: NDArray[np.int64]
    value: Floats
    lower: Floats
    upper: Floats
    level: float
    reach: Mapping[str, float]
    flags: tuple[Mapping[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        columns = zip(self.step, self.value, self.lower, self.upper, strict=True)
        return {
            "level": self.level,
            "final": {
                "step": int(self.step[-1]),
                "loss": float(self.value[-1]),
                "lower": float(self.lower[-1]),
                "upper": float(self.upper[-1]),
            },
            "curve": [
                {"step": int(s), "loss": float(v), "lower": float(lo), "upper": float(hi)}
                for s, v, lo, hi in columns
            ],
            "reach": dict(self.reach),
            "warnings": [dict(one) for one in self.flags],
        }


@dataclass(frozen=True)
class ContinualFit:
    """One domain's law. values [p], draws [draws, p] in the law's own parameters (B_beta, not B).

    domain: whose loss; role: "general" (old data) or "domain" (new). momentum, convention: chosen
    by the data unless given. scores: held-out error (rms, log loss) of each replay form tried.
    """

    domain: str
    role: str
    law: str
    momentum: float
    convention: str
    status: str
    message: str
    values: Floats
    draws: Floats
    objective: float
    delta: float
    level: float
    skip: int
    warnings: tuple[Mapping[str, str], ...]
    calibration: CurveCalibration
    scores: Mapping[str, float]
    data: Mapping[str, Any]
    digest: str
    seed: int
    versions: Mapping[str, str] = field(
        default_factory=lambda: {"numpy": np.__version__, "scipy": scipy.__version__}
    )

    @property
    def params(self) -> dict[str, float]:
        names = CONTINUAL_LAWS[self.law].param_names
        return {name: float(v) for name, v in zip(names, self.values, strict=True)}

    def intervals(self, level: float | None = None) -> dict[str, list[float]]:
        tail = 0.5 - 0.5 * (self.level if level is None else level)
        if not len(self.draws):
            return {}
        low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        names = CONTINUAL_LAWS[self.law].param_names
        return {n: [float(a), float(b)] for n, a, b in zip(names, low, high, strict=True)}

    def features(self, transfer: Transfer, steps: NDArray[np.int64]) -> Features:
        schedule, before = transfer.schedule, transfer.before
        if before is not None:
            before = as_fitted(self.data, before)
        elif self.law != LAW_OPEN.name:
            schedule = as_fitted(self.data, schedule)
        return features_of(
            schedule, before, steps, self.momentum, self.convention,
            1.0 - transfer.replay_ratio, transfer.size, self.law == LAW_OPEN.name,
        )  # fmt: skip

    def log_losses(self, found: Features) -> tuple[Floats, Floats]:
        """ln loss at the values [n] and the draws [draws, n]."""
        law = CONTINUAL_LAWS[self.law]
        with np.errstate(all="ignore"):
            loss = law.formula(np.concatenate([self.values[None], self.draws]), found)[0]
        logs = np.log(np.maximum(loss, 1e-9))
        return logs[0], logs[1:]

    def predict(
        self, transfer: Transfer, steps: ArrayLike | None = None, level: float | None = None
    ) -> ContinualPrediction:
        """The loss after `steps` of the transfer's schedule (default: its last)."""
        if self.law == "continual" and len(self.data["new_share"]) == 1:
            alone = float(self.data["new_share"][0])
            if abs(1.0 - transfer.replay_ratio - alone) > 1e-6:
                raise FittingError(
                    "infeasible",
                    f"Every fitted run has a replay ratio of {1 - alone:g}; "
                    f"{transfer.replay_ratio:g} is asked for.",
                    "Fit runs of at least two replay ratios around it.",
                )
        last = transfer.schedule.steps
        at = np.array([last]) if steps is None else np.atleast_1d(np.asarray(steps))
        at = at.astype(np.int64)
        if not at.size or at.min() < 1 or at.max() > last:
            raise FittingError(
                "bad_value",
                f"Steps of a schedule of {last}.",
                "They count from 1, at the transfer.",
            )
        width = self.level if level is None else level
        tail = 0.5 - 0.5 * width
        found = self.features(transfer, at)
        area = float(found["s1"].max() / self.data["area"])
        best, draws = self.log_losses(found)
        decades = np.maximum(np.log10(np.maximum(found["s1"], 1e-300) / self.data["area"]), 0.0)
        other = self.calibration.half_width(decades, width)
        below = above = np.zeros(at.size)
        if len(draws):
            low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
            below, above = np.maximum(best - low, 0.0), np.maximum(high - best, 0.0)
        return ContinualPrediction(
            at,
            np.exp(best),
            np.exp(best - np.hypot(below, other)),
            np.exp(best + np.hypot(above, other)),
            width,
            {
                "area": area,
                "steps": float(at.max() / self.data["steps"]),
            },
            (*self.flags(transfer), *far_flags(area)),
        )

    def flags(self, transfer: Transfer) -> list[Mapping[str, str]]:
        """What lies outside the fitted runs."""
        found: list[Mapping[str, str]] = []
        if transfer.before is not None:
            found += warmup_flags(self.data, transfer.before)
        low, high = self.data["peak_lr"]
        peak = transfer.schedule.peak_lr
        if not low / 1.05 <= peak <= high * 1.05:
            found.append(
                {
                    "code": "peak_lr_outside",
                    "message": f"Peak rate {peak:g} is outside the fitted {low:g} to {high:g}.",
                }
            )
        share = 1.0 - transfer.replay_ratio
        shares = self.data["new_share"]
        if not min(shares) - 1e-6 <= share <= max(shares) + 1e-6:
            found.append(
                {
                    "code": "replay_outside",
                    "message": f"Replay ratio {transfer.replay_ratio:g} is outside the fitted "
                    f"{1 - max(shares):g} to {1 - min(shares):g}: interpolate, do not extrapolate "
                    "(an unseen .75 was missed by .39 nats on the new domain).",
                }
            )
        if self.law == LAW_OPEN.name:
            found.append(OPEN_FLAG)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "continual_fit",
            "domain": self.domain,
            "role": self.role,
            "law": self.law,
            "momentum": self.momentum,
            "convention": self.convention,
            "status": self.status,
            "message": self.message,
            "params": self.params,
            "intervals": {"level": self.level, **self.intervals()},
            "objective": {
                "kind": "huber-log", "delta": self.delta, "reduction": "sum",
                "value": self.objective,
            },
            "skip": self.skip,
            "warnings": [dict(one) for one in self.warnings],
            "calibration": self.calibration.to_dict(),
            "scores": {k: None if v is None or np.isnan(v) else v for k, v in self.scores.items()},
            "data": dict(self.data),
            "digest": self.digest,
            "seed": self.seed,
            "versions": dict(self.versions),
            "draws": self.draws.tolist(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "ContinualFit":
        if document.get("kind") != "continual_fit":
            raise FittingError(
                "bad_document", "This is not a continual fit.", "Give what `cpt fit --out` wrote."
            )
        try:
            names = CONTINUAL_LAWS[document["law"]].param_names
            same = (
                "domain", "role", "law", "convention", "status", "message", "scores", "data",
                "digest", "versions",
            )  # fmt: skip
            return cls(
                **{name: document[name] for name in same},
                momentum=float(document["momentum"]),
                values=np.array([float(document["params"][n]) for n in names]),
                draws=np.array(document.get("draws", []), dtype=float).reshape(-1, len(names)),
                objective=float(document["objective"]["value"]),
                delta=float(document["objective"]["delta"]),
                level=float(document["intervals"]["level"]),
                skip=int(document["skip"]),
                warnings=tuple(document["warnings"]),
                calibration=CurveCalibration.from_dict(document["calibration"]),
                seed=int(document["seed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FittingError(
                "bad_document", f"The continual fit lacks or mistypes {error}.", "Fit again."
            ) from None


def problem_of(
    law: CurveLaw,
    curves: Sequence[ContinualCurve],
    delta: float,
    lam: float,
    convention: str,
) -> CurveProblem:
    features = tuple(
        features_of(
            c.schedule, c.before, c.step, lam, convention, c.new_share, c.size,
            c.unknown or law is LAW_OPEN,
        )
        for c in curves
    )  # fmt: skip
    member = np.concatenate([np.full(len(c), j) for j, c in enumerate(curves)])
    log_loss = np.log(np.concatenate([c.loss for c in curves]))
    # every run counts alike, however often it was evaluated
    weights = np.concatenate([np.full(len(c), 1.0 / len(c)) for c in curves])
    return CurveProblem(law, features, log_loss, weights / weights.mean(), member, delta)


def thinned(curve: ContinualCurve, most: int = 150) -> ContinualCurve:
    """At most about `most` points: means of neighbours, in the mean's place."""
    if len(curve) <= most:
        return curve
    starts = np.unique(np.linspace(0, len(curve), most + 1).astype(int))[:-1]
    count = np.diff(np.append(starts, len(curve)))
    step = np.round(np.add.reduceat(curve.step.astype(float), starts) / count).astype(np.int64)
    return replace(curve, step=step, loss=np.add.reduceat(curve.loss, starts) / count)


def fit_continual(
    curves: Sequence[ContinualCurve],
    *,
    domain: str = "loss",
    role: str = "general",
    law: str | None = None,
    momentum: float | None = None,
    convention: str | None = None,
    skip: int = SKIP,
    pretraining: bool | None = None,
    draws: int = 200,
    level: float = 0.9,
    seed: int = 0,
    delta: float = DELTA,
) -> ContinualFit:
    """Fit one domain's loss along pre-training and continual runs.

    role: "general" or "domain": decides the default of `pretraining`, whether the pre-training
    curves take part. They do for the general loss; the loss on a domain that pre-training never
    saw does not follow the law there, and would spoil it. law None: replay forms are tried, and
    chosen by held-out error, where the runs differ in their replay ratio.
    """
    if role not in ("general", "domain"):
        raise FittingError("bad_option", f"role is {role!r}.", 'Use "general" or "domain".')
    if convention is not None and convention not in CONVENTIONS:
        raise FittingError("bad_option", f"convention is {convention!r}.", "Use reset or carry.")
    if law is not None and law not in CONTINUAL_LAWS:
        raise FittingError("unknown_law", f"No law {law!r}.", f"Use {', '.join(CONTINUAL_LAWS)}.")
    check_options(delta, momentum)
    with_past = role == "general" if pretraining is None else pretraining
    used = []
    for curve in curves:
        if curve.continual:
            used.append(thinned(curve.where(curve.step > skip)))
        elif with_past:
            first = max(2 * curve.schedule.warmup_steps, int(0.05 * curve.schedule.steps))
            used.append(thinned(curve.where(curve.step > first)))
    used = [c for c in used if len(c) >= 3]
    later = [c for c in used if c.continual]
    if len(later) < 2:
        raise FittingError(
            "too_few_points",
            f"{len(later)} continual runs with points after step {skip}.",
            "Give at least two, better six: two transfer points, two peak rates, two schedules.",
        )
    shares = sorted({round(c.new_share, 6) for c in later})
    if law is not None:
        names: tuple[str, ...] = (law,)
    elif any(c.unknown for c in later):
        names = (LAW_OPEN.name,)
    else:
        names = (LAW.name,) if len(shares) == 1 else tuple(REPLAY)
    fits = [
        _fit_one(
            CONTINUAL_LAWS[name], used, momentum, convention, draws, level, seed, delta
        )
        for name in names
    ]  # fmt: skip
    scores = {one.law: one.calibration.score for one in fits}
    order = np.argsort(np.nan_to_num(list(scores.values()), nan=np.inf), kind="stable")
    best = fits[int(order[0])]
    if names == tuple(REPLAY) and scores[names[0]] <= TIE * scores[best.law]:
        best = fits[0]  # the convex form holds the printed ones: a tie says nothing against it
    warned = list(best.warnings)
    warned += mixed_warmups({c.name: (c.before or c.schedule).warms_up for c in used})
    if len({round(float(np.log(c.schedule.peak_lr)), 2) for c in later}) < 2:
        warned.append(
            {
                "code": "one_peak_lr",
                "message": "All continual runs have one peak rate: the law cannot say what another "
                "does. Add a run at half of it.",
            }
        )
    return replace(best, domain=domain, role=role, skip=skip, scores=scores, warnings=tuple(warned))


def _fit_one(
    law: CurveLaw,
    used: Sequence[ContinualCurve],
    momentum: float | None,
    convention: str | None,
    draws: int,
    level: float,
    seed: int,
    delta: float,
) -> ContinualFit:
    lam, way, near = _nearest(law, used, momentum, convention, delta)
    problem = problem_of(law, used, delta, lam, way)
    found = problem.solve(np.concatenate([near[None], problem.starts(5)]), tol=1e-8, most=100)
    b = int(np.argmin(found.f))
    theta = found.theta[b]
    rng = np.random.default_rng([seed, 43])
    sample = one_step(problem, theta, block_weights(problem.curve, draws, rng))
    with np.errstate(all="ignore"):
        residual = problem.log_loss - np.log(problem.model(theta[None])[0][0])
    noise = robust_sd(residual, theta.size)
    converged = bool(found.converged[b]) or float(found.decrement[b]) < 1e-3
    lower, upper = problem.walls
    warned: list[Mapping[str, str]] = [
        {"code": "at_bound", "message": f"{p.name} ended at the edge of its range."}
        for j, p in enumerate(law.params)
        if theta[j] <= lower[j] + 1e-9 or theta[j] >= upper[j] - 1e-9
    ]
    if law is LAW_OPEN:
        warned.append(OPEN_FLAG)
    continual = [c for c in used if c.continual]
    return ContinualFit(
        domain="loss",
        role="general",
        law=law.name,
        momentum=lam,
        convention=way,
        status="converged" if converged else "not_converged",
        message=f"{len(found.f)} starts; the next step would gain "
        f"{max(float(found.decrement[b]), 0):.0e} of the objective.",
        values=problem.values(theta),
        draws=sample,
        objective=float(found.f[b]),
        delta=delta,
        level=level,
        skip=0,
        warnings=tuple(warned),
        calibration=calibrate.settle(noise, _held_out(law, used, theta, delta, lam, way)),
        scores={},
        data={
            "runs": [c.name for c in used],
            "n_points": int(problem.points),
            "steps": max(int(c.step[-1]) for c in continual),
            "area": max(float(c.schedule.rates()[: int(c.step[-1])].sum()) for c in continual),
            "peak_lr": [
                min(c.schedule.peak_lr for c in continual),
                max(c.schedule.peak_lr for c in continual),
            ],
            "warms_up": sorted({(c.before or c.schedule).warms_up for c in used}),
            "new_share": sorted({round(c.new_share, 6) for c in continual}),
            "potential": sorted(
                {round(c.before.loss_potential, 6) for c in continual if c.before is not None}
            ),
        },
        digest=_digest(used),
        seed=seed,
    )


def _nearest(
    law: CurveLaw,
    used: Sequence[ContinualCurve],
    momentum: float | None,
    convention: str | None,
    delta: float,
) -> tuple[float, str, Floats]:
    """The momentum and convention that fit best, of those that are left open, and about where
    [p]. The first is searched whole; the others begin where it ended."""
    start: Floats | None = None
    tried = []
    for lam in MOMENTA if momentum is None else (momentum,):
        for way in CONVENTIONS if convention is None else (convention,):
            problem = problem_of(law, used, delta, lam, way)
            if start is None:
                found, b = problem.best(keep=6, most=60)
                start = found.theta[b : b + 1]
            else:
                theta = np.concatenate([start, problem.starts(1)])
                found = problem.solve(theta, tol=1e-5, most=30)
            tried.append((float(found.f.min()), lam, way, found.theta[int(np.argmin(found.f))]))
    return min(tried, key=lambda one: one[0])[1:]


def _held_out(
    law: CurveLaw,
    used: Sequence[ContinualCurve],
    theta: Floats,
    delta: float,
    momentum: float,
    convention: str,
) -> list[HeldOut]:
    """By how much a fit of the others misses each continual run; none of fewer than three."""
    held: list[HeldOut] = []
    later = [j for j, c in enumerate(used) if c.continual]
    for j in later if len(later) >= 3 else ():
        rest = [c for k, c in enumerate(used) if k != j]
        less = problem_of(law, rest, delta, momentum, convention)
        again = less.solve(theta[None], tol=1e-5, most=40)
        one = problem_of(law, [used[j]], delta, momentum, convention)
        with np.errstate(all="ignore"):
            miss = one.log_loss - np.log(one.model(again.theta[:1])[0][0])
        if np.isfinite(miss).all():
            size = float(np.sqrt(np.mean(miss**2)))
            sign = 1.0 if miss.mean() >= 0 else -1.0
            held.append(HeldOut(used[j].name, "curve", sign * size, 0.0))
    return held


def _digest(used: Sequence[ContinualCurve]) -> str:
    """SHA-256 of the curves and the schedules behind them."""
    sha = hashlib.sha256()
    for c in used:
        sha.update(c.name.encode() + repr((c.new_share, c.size)).encode())
        for column in (c.step.astype("<i8"), c.loss, c.schedule.rates()):
            sha.update(np.ascontiguousarray(column).tobytes())
        if c.before is not None:
            sha.update(np.ascontiguousarray(c.before.rates()).tobytes())
    return sha.hexdigest()
