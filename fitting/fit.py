"""Fit a law to runs: the global optimum, how sure it is, and what is wrong with it.

f = fit(get_law("chinchilla"), runs)
f.params, f.status, f.predict({"N": 70e9, "D": 1.4e12})
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from fitting import prior
from fitting.diagnose import DEGENERATE, Warned, refuse, unidentified, warnings_of
from fitting.engine import Engine, Optimum, hopeless
from fitting.errors import FittingError, wrong_with
from fitting.floor import VANISHED, with_floor
from fitting.intervals import (
    Calibration,
    affordable,
    bootstrap,
    budget_labels,
    calibrate,
    sandwich,
)
from fitting.law import Law
from fitting.laws import get_law
from fitting.links import Floats
from fitting.objective import Objective
from fitting.predict import Line, Prediction, check_level, lines_of, predict
from fitting.runs import Runs

FORMAT = 1

# (lower, upper); None: open on that side.
Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Data:
    """What a fit remembers of its runs. inputs: {name: (smallest, largest)}; loss and compute
    likewise (compute None where the runs have none); digest: sha256, see `Runs.digest`.
    lines: the directions in which the runs do not spread, see `predict.Line`. weights: of every
    point that was given, masked ones too; () where all count the same."""

    n_points: int
    n_runs: int
    inputs: dict[str, tuple[float, float]]
    loss: tuple[float, float]
    compute: tuple[float, float] | None
    digest: str
    dropped: dict[int, str]
    lines: tuple[Line, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fit:
    """A fitted law; frozen. Make one with `fit`, or with `Fit.from_dict` from FIT.json.

    status: "converged", "degenerate" (an optimum, but one that the data do not pin down; the
    warnings say how) or "not_converged". message: the status in a sentence.
    values [p], draws [draws, p]: parameters in the law's order, full precision.
    certificate: what shows that this is the optimum: gradient, decrement, curvature, condition
    (in centred coordinates) and how many starts agree.
    unidentified: parameters of which the runs say nothing; their intervals are open.
    with_floor: where the runs leave it open if there is a floor, the parameters in the law's order
    of the best law with a substantial one, up to which predictions reach (`fitting.floor`).
    """

    law: Law
    status: str
    message: str
    values: Floats
    draws: Floats
    objective: Objective
    objective_value: float
    level: float
    warnings: tuple[Warned, ...]
    certificate: dict[str, float]
    calibration: Calibration
    data: Data
    n_convention: str
    flops_convention: str
    loss_unit: str
    seed: int
    interval_method: str
    versions: dict[str, str]
    unidentified: tuple[str, ...] = ()
    with_floor: tuple[float, ...] = ()

    @property
    def params(self) -> dict[str, float]:
        """{name: value}, full precision (rounding alone can triple the objective)."""
        return dict(zip(self.law.param_names, self.values.tolist(), strict=True))

    def intervals(self, level: float | None = None) -> dict[str, Interval]:
        """{param: (lower, upper)} from the draws, at `level` (default: the fit's own).

        None is an open end: the parameter is unidentified, or its draws pile up at the bound of
        its range (for a floor: at zero), so that the runs do not say where it ends.
        """
        chosen = self.level if level is None else check_level(level)
        if len(self.draws) == 0:
            return {}
        tail = 0.5 * (1 - chosen)
        low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        floor = self.law.powers.floor if self.law.powers else None
        found: dict[str, Interval] = {}
        for j, p in enumerate(self.law.params):
            if p.name in self.unidentified:
                found[p.name] = (None, None)
                continue
            nothing = VANISHED * self.data.loss[0] if p.name == floor else p.link.lower
            margin = 1e-6 * min(p.link.upper - p.link.lower, 1.0) if p.name != floor else 0.0
            found[p.name] = (
                None if low[j] <= nothing + margin else float(low[j]),
                None if high[j] >= p.link.upper - margin or high[j] <= nothing else float(high[j]),
            )
        return found

    def predict(self, inputs: Mapping[str, ArrayLike], level: float | None = None) -> Prediction:
        """The loss of new runs, with an interval that is meant to hold; see `Prediction`."""
        return predict(self, inputs, level)

    def to_dict(self) -> dict[str, Any]:
        """FIT.json: plain floats, lists and strings, nothing rounded."""
        return {
            "format": FORMAT,
            "law": self.law.name,
            "status": self.status,
            "message": self.message,
            "params": self.params,
            "objective": {
                "kind": self.objective.kind,
                "delta": self.objective.delta,
                "asymmetry": self.objective.asymmetry,
                "reduction": "sum",
                "value": self.objective_value,
                **self._priors(),
                **({"weights": list(self.data.weights)} if self.data.weights else {}),
                "dropped": [
                    {"row": row, "reason": reason} for row, reason in self.data.dropped.items()
                ],
            },
            "intervals": {
                "level": self.level,
                "method": self.interval_method,
                **{name: list(pair) for name, pair in self.intervals().items()},
            },
            "unidentified": list(self.unidentified),
            **self._with_floor(),
            "warnings": [w.to_dict() for w in self.warnings],
            "n_points": self.data.n_points,
            "n_runs": self.data.n_runs,
            "digest": self.data.digest,
            "data": {
                "inputs": {k: list(v) for k, v in self.data.inputs.items()},
                "loss": list(self.data.loss),
                "compute": None if self.data.compute is None else list(self.data.compute),
                "lines": [line.to_dict() for line in self.data.lines],
            },
            "n_convention": self.n_convention,
            "flops_convention": self.flops_convention,
            "loss_unit": self.loss_unit,
            "calibration": self.calibration.to_dict(),
            "certificate": self.certificate,
            "seed": self.seed,
            "versions": self.versions,
            "draws": self.draws.tolist(),
        }

    def _priors(self) -> dict[str, Any]:
        """What the law's priors added to the sum (the value is without them), if it has any."""
        held = {p.name: p.prior for p in self.law.params if p.prior is not None}
        if not held:
            return {}
        return {
            "priors": {k: {"mean": v.mean, "sd": v.sd} for k, v in held.items()},
            "prior_weight": prior.WEIGHT,
        }

    def _with_floor(self) -> dict[str, Any]:
        if not self.with_floor:
            return {}
        return {"with_floor": dict(zip(self.law.param_names, self.with_floor, strict=True))}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Fit":
        """Read FIT.json back; a FittingError if it is not one."""
        try:
            law = get_law(document["law"])
            o, d, i = document["objective"], document["data"], document["intervals"]
            compute = d["compute"]
            return cls(
                law=law,
                status=document["status"],
                message=document["message"],
                values=law.values(document["params"]),
                draws=np.array(document["draws"], dtype=float).reshape(-1, len(law.params)),
                objective=Objective(o["kind"], o["delta"], o["asymmetry"]),
                objective_value=float(o["value"]),
                level=float(i["level"]),
                warnings=tuple(Warned(w["code"], w["message"]) for w in document["warnings"]),
                certificate=dict(document["certificate"]),
                calibration=Calibration(**document["calibration"]),
                data=Data(
                    int(document["n_points"]),
                    int(document["n_runs"]),
                    {k: (float(v[0]), float(v[1])) for k, v in d["inputs"].items()},
                    (float(d["loss"][0]), float(d["loss"][1])),
                    None if compute is None else (float(compute[0]), float(compute[1])),
                    document["digest"],
                    {int(m["row"]): m["reason"] for m in o["dropped"]},
                    tuple(Line(**line) for line in d.get("lines", ())),
                    tuple(map(float, o.get("weights", ()))),
                ),
                n_convention=document["n_convention"],
                flops_convention=document["flops_convention"],
                loss_unit=document["loss_unit"],
                seed=int(document["seed"]),
                interval_method=i["method"],
                versions=dict(document["versions"]),
                unidentified=tuple(document.get("unidentified", ())),
                with_floor=tuple(law.values(document["with_floor"]).tolist())
                if "with_floor" in document
                else (),
            )
        except FittingError:
            raise
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FittingError(
                "bad_document",
                f"This is not a fit: {wrong_with(error)}.",
                "Give what `fit --out` wrote, unchanged; --json prints it without its draws.",
            ) from None


def fit(
    law: Law,
    runs: Runs,
    *,
    objective: Objective | None = None,
    draws: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    starts: int = 4,
    by_budget: bool = False,
) -> Fit:
    """The global optimum of `objective` for `law` on `runs`, with draws and calibration.

    draws: bootstrap resamples of runs, each refitted to its own optimum (fewer, with a warning,
    where there are so many points that it would take minutes); 0 takes the sandwich covariance
    instead. level: of the intervals that are reported. by_budget: the runs of each compute budget
    are resampled among themselves, so that every resample has the budgets as they were planned;
    calibration is the same either way. The same seed gives the same bits. Raises FittingError for
    unusable data; a fit that failed is returned with its status.
    """
    objective = objective or Objective()
    check_level(level)
    if draws < 0:
        raise FittingError("bad_option", f"draws is {draws}.", "Give 0 or more.")
    refuse(law, runs)
    given, runs = runs, runs.with_compute() if "C" in law.input_names else runs
    engine = Engine.of(law, runs, objective)
    best = engine.cold(count=starts, seed=seed)
    if not np.isfinite(best.objective):
        raise FittingError(
            "bad_value",
            f"{law.name} has no finite value on these runs from any start.",
            "Check the units of the inputs against the law's page.",
        )
    calibration = calibrate(engine, best, seed)
    failed, drawn = 0, 0
    alone = hopeless(engine, best)
    if alone:
        draws = 0
    if draws:
        drawn = affordable(engine, draws)
        strata = _budgets(runs) if by_budget else None
        sample, failed = bootstrap(engine, best, drawn, seed, strata)
        method = "bootstrap over runs" + (" of each budget" if by_budget else "")
    else:
        sample, method = _normal_draws(engine, best, seed), "sandwich"
    warned = warnings_of(engine, best, sample, calibration, runs)
    if alone:
        warned.append(
            Warned(
                "no_resamples",
                f"All {engine.loss.size} points together have no optimum, so no resamples of them "
                "were looked for: the draws are the sandwich's. Use a law with fewer parameters.",
            )
        )
    unseen = unidentified(engine, best)
    if unseen and not DEGENERATE & {w.code for w in warned}:
        warned.append(
            Warned(
                "not_identified",
                f"These runs say nothing about {', '.join(unseen)}: no prediction within the data "
                "moves with it. Its interval is open; use a law without it, or add runs that it "
                "matters to.",
            )
        )
    if drawn < draws:
        warned.append(
            Warned(
                "fewer_draws",
                f"{drawn} of {draws} resamples were drawn: each refits {engine.loss.size} points. "
                "The ends of the intervals are rougher. Thin the points of each run, or ask for "
                "no draws and take the sandwich.",
            )
        )
    needed = math.ceil(2 / (1 - level) - 1e-9)
    if 0 < draws < needed:
        warned.append(
            Warned(
                "few_draws",
                f"{draws} resamples do not reach the ends of a {level:.0%} interval: less than one "
                f"lies beyond each. Its parameters' ends are too narrow; draw {needed} at least.",
            )
        )
    if failed > 0.02 * drawn:
        warned.append(
            Warned(
                "resamples_failed",
                f"{failed} of {drawn} resamples reached no optimum of their own: these runs leave "
                "some parameters open. They count where they stopped, so the ends of the "
                "intervals are rough. Add runs, of more sizes above all.",
            )
        )
    status, message = _status(best, warned)
    floored = with_floor(engine, sample, seed)
    used = runs.unmasked()
    compute = used.compute()
    return Fit(
        law=law,
        status=status,
        message=message,
        values=best.values,
        draws=sample,
        objective=objective,
        objective_value=float(
            objective.value(
                engine.loss,
                np.asarray(law.evaluate(engine.inputs, best.values), dtype=float),
                engine.weights,
            )
        ),
        level=level,
        warnings=tuple(warned),
        certificate=_certificate(best),
        calibration=calibration,
        data=Data(
            n_points=runs.n_used,
            n_runs=int(np.unique(used.group).size),
            inputs={k: (float(v.min()), float(v.max())) for k, v in engine.inputs.items()},
            loss=(float(engine.loss.min()), float(engine.loss.max())),
            compute=None if compute is None else (float(compute.min()), float(compute.max())),
            digest=given.digest,
            dropped=dict(runs.masked),
            lines=lines_of(engine.inputs),
            weights=() if runs.weights is None else tuple(runs.weights.tolist()),
        ),
        n_convention=runs.n_convention,
        flops_convention=runs.flops_convention,
        loss_unit=runs.loss_unit,
        seed=seed,
        interval_method=method,
        versions={"numpy": np.__version__, "scipy": scipy.__version__},
        unidentified=unseen,
        with_floor=() if floored is None else tuple(floored.tolist()),
    )


def _budgets(runs: Runs) -> NDArray[np.int64]:
    """The budget of each used point; a FittingError where runs cannot be drawn by budget."""
    runs = runs.unmasked()
    compute = runs.compute()
    if compute is None:
        raise FittingError(
            "missing_input", "These runs have no compute.", "Give N and D, or FLOPs."
        )
    label = budget_labels(compute)
    largest = np.zeros(int(runs.group.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, runs.group, label)
    alone = int((np.bincount(largest[np.unique(runs.group)]) == 1).sum())
    if alone:
        raise FittingError(
            "bad_option",
            f"{alone} of {int(label.max()) + 1} budgets have a single run, which resampled by "
            "budget would never change.",
            "Draw over all runs (by_budget off), or mask the lone runs.",
        )
    return label


def _normal_draws(engine: Engine, best: Optimum, seed: int, count: int = 400) -> Floats:
    """Draws from the normal approximation with the sandwich covariance."""
    covariance = sandwich(engine, best)
    value, vector = np.linalg.eigh(0.5 * (covariance + covariance.T))
    root = vector * np.sqrt(np.maximum(value, 0.0))
    rng = np.random.default_rng([seed, 13])
    theta = best.theta + rng.standard_normal((count, best.theta.size)) @ root.T
    return engine.values(np.clip(theta, engine.lower, engine.upper))


def _status(best: Optimum, warned: list[Warned]) -> tuple[str, str]:
    bad = [w for w in warned if w.code in DEGENERATE]
    if bad:  # a fit that runs away also fails to converge; what it runs from is the news
        return "degenerate", bad[0].message
    if not best.converged:
        return "not_converged", (
            f"Stopped after {best.iterations} iterations with {best.decrement:.1e} of the "
            "objective still to gain; do not use the parameters."
        )
    return "converged", (
        f"{best.agree} of {best.starts} starts reached the same optimum; one more step would gain "
        f"{best.decrement:.0e} of the objective."
    )


def _certificate(best: Optimum) -> dict[str, float]:
    h = 0.5 * (best.hessian + best.hessian.T)
    scale = np.sqrt(np.abs(np.diag(h)))
    scale = np.where(scale > 0, scale, 1.0)
    eigen = np.linalg.eigvalsh(h / np.outer(scale, scale))
    return {
        "gradient_norm": float(np.linalg.norm(best.gradient / scale)),
        "decrement": float(best.decrement) if np.isfinite(best.decrement) else -1.0,
        "smallest_curvature": float(eigen[0]),
        "condition": float(eigen[-1] / eigen[0]) if eigen[0] > 0 else -1.0,
        "starts": best.starts,
        "agreeing": best.agree,
        "iterations": best.iterations,
    }
