"""What stands behind a fit: residuals, how sure each parameter is by three methods, and how well
the runs tell the parameters apart. Computed when asked for; nothing is stored.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import fits
from fitting import Fit, FittingError, Runs
from fitting.fit import Interval
from fitting.intervals import robust_sd
from fitting.isoflop import side_by_side
from fitting.profile import Profile, profiles, sandwich_intervals

# Residuals beyond so many robust standard deviations are marked, as in fitting.diagnose.
SUSPECT = 5.0


def diagnose(connection: Connection, fit_id: int) -> dict[str, Any]:
    """Everything that is known about a stored fit beyond its document; no NaN in it.

    ServiceError where there is no such fit, or where its runs are not what they were.
    """
    fit = fits.load(connection, fit_id)
    runs, points = fits.runs_of(connection, fit_id)
    noise, rows = residuals(fit, runs, points)
    document = {
        "fit_id": fit_id,
        "law": fit.law.name,
        "status": fit.status,
        "message": fit.message,
        "level": fit.level,
        "warnings": [one.to_dict() for one in fit.warnings],
        "noise": noise,
        "residuals": rows,
        "parameters": parameters(fit, runs),
        "correlations": correlations(fit),
        "certificate": fit.certificate,
        "calibration": fit.calibration.to_dict(),
        "isoflop": isoflop(fit, runs),
    }
    return dict(fits.finite(document))


def residuals(fit: Fit, runs: Runs, points: fits.Measured) -> tuple[float, list[dict[str, Any]]]:
    """The noise of one run about the law (robust, in log loss), and every point against the law.

    deviations: the residual in units of that noise; suspect: beyond SUSPECT of them.
    """
    law = np.asarray(fit.law.loss(fit.law.columns(runs.inputs), fit.params), dtype=float)
    off = np.log(runs.loss) - np.log(law)
    noise = robust_sd(off[runs.used], len(fit.law.params))
    scale = noise if np.isfinite(noise) and noise > 1e-12 else float("nan")
    inputs = [column.tolist() for column in runs.inputs.values()]
    rows = [
        {
            "run_id": run_id,
            "run": run,
            "inputs": dict(zip(runs.inputs, at, strict=True)),
            "loss": loss,
            "law": says,
            "residual": residual,
            "deviations": residual / scale,
            "suspect": abs(residual / scale) > SUSPECT,
            "left_out": runs.masked.get(i),
        }
        for i, (run_id, run, loss, says, residual, *at) in enumerate(
            zip(
                points.run_ids, points.run, runs.loss.tolist(), law.tolist(), off.tolist(),
                *inputs, strict=True,
            )
        )
    ]  # fmt: skip
    return noise, rows


def parameters(fit: Fit, runs: Runs) -> list[dict[str, Any]]:
    """Each parameter with its intervals side by side; one that cannot be had says why."""
    intervals = fit.intervals()
    sandwich: Mapping[str, tuple[float, float]] = {}
    shapes: Mapping[str, Profile] = {}
    why = {"sandwich": None, "profile": None}
    try:
        sandwich = sandwich_intervals(fit, runs)
    except (FittingError, np.linalg.LinAlgError) as error:
        why["sandwich"] = _reason(error)
    try:
        shapes = profiles(fit, runs)
    except (FittingError, np.linalg.LinAlgError) as error:
        why["profile"] = _reason(error)
    return [
        {
            "name": name,
            "value": value,
            "draws": {"method": fit.interval_method, "interval": _pair(intervals, name)},
            "sandwich": {"interval": _pair(sandwich, name), "reason": why["sandwich"]},
            "profile": None if name not in shapes else shapes[name].to_dict(),
            "profile_reason": why["profile"],
        }
        for name, value in fit.params.items()
    ]


def correlations(fit: Fit) -> dict[str, Any]:
    """Of the draws, on the scale that the solver works on (ln A, not A); condition: of the
    problem in centred coordinates, about 1e3 where the runs tell the parameters apart."""
    names = list(fit.law.param_names)
    matrix: list[list[float]] = []
    if len(fit.draws) > 2:
        with np.errstate(all="ignore"):
            line = fit.law.to_line(fit.draws)
            line = line[np.isfinite(line).all(axis=1)]
            matrix = np.atleast_2d(np.corrcoef(line.T)).tolist() if len(line) > 2 else []
    condition = fit.certificate.get("condition", -1.0)
    return {
        "names": names,
        "on_log_scale": [p.name for p in fit.law.params if p.link.log],
        "matrix": matrix,
        "condition": condition if condition > 0 else None,
    }


def isoflop(fit: Fit, runs: Runs) -> list[dict[str, Any]]:
    """Hoffmann et al.'s approaches 1, 2 and 3 on these runs, for a law of N and D; each with its
    power laws, or with the reason why it says nothing."""
    if set(fit.law.input_names) != {"N", "D"}:
        return []
    found = []
    for method, one in side_by_side(runs, fit).items():
        if isinstance(one, FittingError):
            found.append({"method": method, "refused": one.message, "hint": one.hint})
        else:
            found.append(one.to_dict())
    return found


def _pair(
    intervals: Mapping[str, Interval] | Mapping[str, tuple[float, float]], name: str
) -> list[float | None] | None:
    return list(intervals[name]) if name in intervals else None


def _reason(error: Exception) -> Any:
    return error.message if isinstance(error, FittingError) else "The curvature is singular."
