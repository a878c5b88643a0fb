"""What is wrong with a fit or its data, said in sentences with the numbers in them.

`refuse` raises on data that no fit can use; `warnings_of` lists what a reader must know; a code in
`DEGENERATE` turns the status of the fit into "degenerate".
"""

from dataclasses import dataclass, replace

import numpy as np

from fitting.engine import Engine, Optimum, hopeless
from fitting.errors import FittingError
from fitting.floor import FLOOR_SHARE, VANISHED
from fitting.intervals import (
    MAD_TO_SD,
    Calibration,
    distance,
    resample_counts,
    residuals,
    robust_sd,
)
from fitting.law import Law
from fitting.links import Floats
from fitting.objective import Objective
from fitting.regime import CUTS, moved_exponents
from fitting.runs import Runs

DEGENERATE = frozenset({"floor_vanishes", "parameter_at_bound", "one_value_only", "not_identified"})


@dataclass(frozen=True)
class Warned:
    """code: a stable word; message: a sentence with the numbers and the remedy."""

    code: str
    message: str

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


def refuse(law: Law, runs: Runs) -> None:
    """Raise FittingError for data from which this law cannot be fitted at all."""
    n, p = runs.n_used, len(law.params)
    if n < p:
        raise FittingError(
            "too_few_points",
            f"{law.name} has {p} parameters and {n} points were given"
            + (f" ({len(runs.masked)} more are masked)." if runs.masked else "."),
            f"Add at least {p - n} runs (three budgets with three sizes each is a sound minimum).",
            points=n,
            parameters=p,
        )
    loss = runs.loss[runs.used]
    if float(loss.max()) == float(loss.min()):
        raise FittingError(
            "constant_loss",
            f"All {n} losses are {float(loss[0])}.",
            "A law needs runs that differ in loss: check that the right column was read.",
            loss=float(loss[0]),
        )


def warnings_of(
    engine: Engine, best: Optimum, draws: Floats, calibration: Calibration, runs: Runs
) -> list[Warned]:
    """Everything a reader of this fit should be told."""
    return [
        *_about_units(engine, runs),
        *_about_data(engine, runs),
        *_about_training(engine.law, runs.unmasked()),
        *_about_parameters(engine, best),
        *_about_design(engine, best),
        *_about_outliers(engine, best, draws),
        *_about_steepness(engine, best),
        *_about_regime(engine, best),
        *_about_drift(calibration),
    ]


# A direction of the solver's coordinates along which the curvature is this small against the
# largest (unit diagonal) is one that the runs do not see; a parameter that moves along it by more
# than SHARE of its own length is open.
UNSEEN_CURVATURE = 1e-6
SHARE = 0.01


def unidentified(engine: Engine, best: Optimum) -> tuple[str, ...]:
    """Parameters of which these runs say nothing, because others make up for any change in them:
    one size only, tokens in step with size. Their draws stand still where the solver left them, so
    that no interval may be read from them."""
    metric = engine.problem(np.inf, alone=True).metric(best.theta[None], engine.weights)[0]
    scale = np.sqrt(np.maximum(np.diag(metric), 0.0))
    if not np.isfinite(metric).all():
        return ()
    held = scale > 1e-9 * max(float(scale.max()), 1e-300)
    open_ = {int(j) for j in np.flatnonzero(~held)}  # moves no prediction at all
    value, vector = np.linalg.eigh(metric[np.ix_(held, held)] / np.outer(scale[held], scale[held]))
    for k in np.flatnonzero(value < UNSEEN_CURVATURE * value[-1]):
        way = np.zeros(scale.size)
        way[held] = vector[:, k] / scale[held]
        line = engine.slope(best.theta) @ way
        open_ |= {int(j) for j in np.flatnonzero(np.abs(line) > SHARE * np.abs(line).max())}
    return tuple(name for j, name in enumerate(engine.law.param_names) if j in open_)


def _about_data(engine: Engine, runs: Runs) -> list[Warned]:
    out = []
    for i in engine.law.inputs:
        values = engine.inputs[i.name]
        if np.ptp(np.log(values)) < 1e-6 if (values > 0).all() else np.ptp(values) == 0:
            out.append(
                Warned(
                    "one_value_only",
                    f"Every run has {i.name} = {values[0]:.6g}: the data say nothing about how "
                    f"loss depends on {i.name}. Add runs with another {i.about}.",
                )
            )
    if {"N", "D"} <= set(engine.inputs):
        budgets = _distinct(distance(engine), 0.1)
        if budgets < 3:
            out.append(
                Warned(
                    "few_budgets",
                    f"The runs span {budgets} compute budget(s); with fewer than three, an "
                    "extrapolation rests on the form of the law alone. Add a budget.",
                )
            )
    return out


def _about_training(law: Law, runs: Runs) -> list[Warned]:
    """Runs whose schedule was not finished, and runs that saw their tokens more than once."""
    out = []
    if runs.cooled is not None and not runs.cooled.all():
        open_ = int((~runs.cooled).sum())
        whose = "All" if open_ == len(runs) else f"{open_} of {len(runs)}"
        out.append(
            Warned(
                "unfinished_schedules",
                f"{whose} points were measured before the cool-down, where the loss is 1 to 3% "
                "higher than at its end"
                + (": they are no law together with the others. " if open_ < len(runs) else ". ")
                + "Fit finished runs only.",
            )
        )
    unique = runs.unique_tokens if runs.unique_tokens is not None else runs.inputs.get("U")
    if unique is not None and "U" not in law.input_names and "D" in runs.inputs:
        epochs = runs.inputs["D"] / unique
        again = int((epochs > 1.001).sum())
        if again:
            out.append(
                Warned(
                    "repeated_tokens",
                    f"{again} of {len(runs)} points saw tokens more than once (up to "
                    f"{epochs.max():.3g} epochs), which {law.name} counts as fresh. Beyond about "
                    "four epochs they are worth less: use data_constrained.",
                )
            )
    return out


def _distinct(values: Floats, apart: float) -> int:
    """How many clusters `values` form when gaps above `apart` separate them."""
    ordered = np.sort(values)
    return 1 + int((np.diff(ordered) > apart).sum())


def _about_parameters(engine: Engine, best: Optimum) -> list[Warned]:
    out = []
    law = engine.law
    for j, p in enumerate(law.params):
        value = best.values[j]
        low, high = p.link.lower, p.link.upper
        width = high - low
        at = low if value - low <= 1e-9 * min(width, 1.0) else None
        if np.isfinite(high) and high - value <= 1e-9 * min(width, 1.0):
            at = high
        floor = law.powers.floor if law.powers else None
        if p.name == floor:
            if value < VANISHED * float(engine.loss.min()):
                out.append(
                    Warned(
                        "floor_vanishes",
                        f"{p.name} went to zero ({value:.3g}): these runs do not show where the "
                        "loss levels off. Predictions far beyond them may be too low; their "
                        f"intervals reach up to what a floor at {FLOOR_SHARE:.0%} of the smallest "
                        "loss would give. Add larger runs, or check how N is counted.",
                    )
                )
        elif at is not None and (at != 0 or not p.link.log):
            out.append(
                Warned(
                    "parameter_at_bound",
                    f"{p.name} ended at its bound {at:g}: the data do not determine it.",
                )
            )
    return out


def _about_units(engine: Engine, runs: Runs) -> list[Warned]:
    """A model that knows nothing loses ln V a token, ln 256 = 5.5 nats or 8 bits a byte."""
    ceiling = {"nats/token": 12.6, "nats/byte": 5.6, "bits/byte": 8.1}[runs.loss_unit]
    middle, largest = float(np.median(engine.loss)), float(engine.loss.max())
    if largest > ceiling:
        return [
            Warned(
                "loss_looks_like_perplexity",
                f"The largest loss is {largest:.4g}, above what a model that knows nothing would "
                f"have in {runs.loss_unit} ({ceiling:g}). If this column is perplexity, take its "
                "logarithm; if it is summed, divide by the tokens.",
            )
        ]
    if runs.loss_unit == "nats/token" and middle < 0.5:
        return [
            Warned(
                "loss_looks_like_bits",
                f"The median loss is {middle:.4g}, low for nats a token: if these are bits or nats "
                "a byte or a character, say so in loss_unit.",
            )
        ]
    return []


def _about_design(engine: Engine, best: Optimum) -> list[Warned]:
    """Do the runs tell the terms apart? Asked in centred coordinates, where a sound design has a
    condition number of about 1e3 (the 240 runs of Besiroglu et al.: 1.1e3) instead of 3.5e11."""
    out: list[Warned] = []
    x = [np.log(v) for v in engine.inputs.values() if (v > 0).all()]
    names = list(engine.inputs)
    if len(x) == 2 and len(names) == 2 and min(np.ptp(x[0]), np.ptp(x[1])) > 1e-6:
        r = float(np.corrcoef(x[0], x[1])[0, 1])
    else:
        r = 0.0
    condition = 0.0
    if engine.where is not None:
        metric = engine.problem(np.inf).metric(best.theta[None], engine.weights)[0]
        scale = np.sqrt(np.maximum(np.diag(metric), 1e-300))
        eigen = np.linalg.eigvalsh(metric / np.outer(scale, scale))
        condition = float(eigen[-1] / max(eigen[0], 1e-16))
    if condition < 1e5 and abs(r) < 0.998:
        return out
    if abs(r) >= 0.998:
        why = (
            f"{names[0]} and {names[1]} rise together in these runs (correlation {r:.4f} of the "
            "logarithms), so that their terms cannot be told apart"
        )
    else:
        why = f"the runs do not tell the terms apart (condition {condition:.1e}, sound: 1e3)"
    code = "not_identified" if condition > 1e6 else "exponents_tied"
    advice = "Trust predictions along the runs' own path only; add runs off it."
    out.append(Warned(code, f"{why[0].upper()}{why[1:]}. {advice}"))
    return out


# Residuals beyond so many robust standard deviations are asked what they do to the fit.
SUSPECT = 5.0
# Under squares, so many resamples of the other points say what the standard error is.
RESAMPLES = 40


def _seen(engine: Engine, values: Floats) -> Floats:
    """The residuals as the objective sees them: of the loss, or of its logarithm."""
    if engine.objective.raw:
        return np.asarray(engine.loss - engine.law.evaluate(engine.inputs, values))
    return residuals(engine, values)


def _about_outliers(engine: Engine, best: Optimum, draws: Floats) -> list[Warned]:
    """Names the points whose removal moves an exponent by more than its standard error."""
    n = engine.loss.size
    if len(draws) < 20 or n > 20_000 or hopeless(engine, best):
        return []
    squares = np.isinf(engine.objective.solver_delta)
    r = _seen(engine, best.values)
    if squares:  # such points pull squares to themselves: judged from a fit that gives them less
        width = 1.345 * MAD_TO_SD * float(np.median(np.abs(r)))
        if width <= 1e-9:  # losses without noise
            return []
        kind = Objective("huber-raw" if engine.objective.raw else "huber-log", width)
        other = replace(engine, objective=kind).warm(best.theta, np.ones((1, n)))
        r = _seen(engine, engine.values(other.theta)[0])
        scale = robust_sd(r, len(best.values))
    else:
        scale = MAD_TO_SD * float(np.median(np.abs(r)))
    order = np.argsort(-np.abs(r), kind="stable")
    suspects = [int(i) for i in order[: max(1, n // 10)] if abs(r[i]) > SUSPECT * scale]
    if not suspects or scale <= 0 or n - len(suspects) < len(best.values) + 1:
        return []
    keep = np.ones((1, n))
    keep[0, suspects] = 0.0
    refitted = engine.warm(best.theta, keep).theta
    without = engine.values(refitted)[0]
    if squares:
        # draws with and without such a point lie apart, and would hide what it does
        left = engine.subset(np.flatnonzero(keep[0]))
        counts = resample_counts(left.group, RESAMPLES, np.random.default_rng(23))
        draws = left.values(left.warm(refitted[0], counts).theta)
    low, high = np.quantile(draws, [0.16, 0.84], axis=0)
    moved = []
    for j, p in enumerate(engine.law.params):
        error = 0.5 * float(high[j] - low[j])
        if not p.link.log and error > 0 and abs(without[j] - best.values[j]) > error:
            moved.append(f"{p.name} {best.values[j]:.3g} -> {without[j]:.3g}")
    if not moved:
        return []
    named = ", ".join(str(int(engine.rows[i]) + 1) for i in sorted(suspects)[:10])
    more = f" and {len(suspects) - 10} more" if len(suspects) > 10 else ""
    return [
        Warned(
            "outliers",
            f"Rows {named}{more} lie over {SUSPECT:g} standard deviations from the law and move it "
            f"by more than its standard error ({'; '.join(moved)}). Look at these runs; mask them "
            "if something went wrong in training.",
        )
    ]


# Exponents of N and D in published fits of trained-out runs lie below 0.7.
STEEP = 0.8


def _about_steepness(engine: Engine, best: Optimum) -> list[Warned]:
    """In the initial transient loss falls faster than any later power law: an exponent near or
    above one is its mark (runs of under about a thousand steps, losses before the cool-down)."""
    exponents = _exponents(engine)
    found = dict(zip(engine.law.param_names, best.values.tolist(), strict=True))
    steep = dict.fromkeys(e for e in exponents if found[e] > STEEP)
    return [
        Warned(
            "steep_exponent",
            f"{name} is {found[name]:.2f}; trained-out runs give 0.2 to 0.7. The smallest runs may "
            "still be in their initial transient (fewer than about 1,000 steps, or not cooled "
            "down): leave them out and fit again.",
        )
        for name in steep
    ]


def _exponents(engine: Engine) -> list[str]:
    """The parameters that are slopes of their own, of a law of N and D."""
    names = engine.law.param_names
    if not {"N", "D"} <= set(engine.inputs):
        return []
    if engine.law.powers is not None:
        return [e for _, _, e in engine.law.powers.terms]
    if "k" in names:  # under an outer exponent they are no slopes of their own
        return []
    return [name for name in names if name in ("alpha", "beta")]


def _about_regime(engine: Engine, best: Optimum) -> list[Warned]:
    """Exponents that grow or fall as the runs of fewest tokens are left out."""
    return [
        Warned(
            "exponent_moves_with_the_cut",
            f"{one.name} {'falls' if one.values[-1] < one.values[0] else 'grows'} as the runs of "
            f"fewest tokens are left out: {' -> '.join(f'{v:.2f}' for v in one.values)} (all, "
            f"without {', '.join(f'{100 * cut:.0f}%' for cut in CUTS)} of the points), by "
            f"{one.times:.1f} times what resamples reach"
            + _by_how_much_closer(*one.scatter)
            + ". These runs have not reached the power-law regime: leave the shortest out until "
            "the exponents hold, or train longer ones, and trust no extrapolation of this fit.",
        )
        for one in moved_exponents(engine, best, tuple(dict.fromkeys(_exponents(engine))))
    ]


def _by_how_much_closer(before: float, after: float) -> str:
    if not after < 0.8 * before:
        return ""
    return f", and the others scatter by {after:.2%} about their law, not {before:.2%}"


def _about_drift(calibration: Calibration) -> list[Warned]:
    """Runs that are not (yet) in the power-law regime: refits to the smaller ones miss the larger
    ones on one side, by more than noise explains."""
    c = calibration
    steady = c.origins >= 3 and c.one_sided >= 0.99 and c.span >= 0.4
    least = 0.01 if steady else 0.03
    if c.one_sided < 0.99 or abs(c.bias) < least or c.seen < least:
        return []
    side = "higher" if c.bias > 0 else "lower"
    return [
        Warned(
            "drift_of_one_sign",
            f"Refits to the smaller runs miss the larger ones on one side ({c.origins} cuts): "
            f"losses come out {side} by {100 * abs(c.bias):.1f}% per decade of compute. The runs "
            "may not have reached the power-law regime (few steps, losses before the cool-down) or "
            "do not share one recipe. Drop the smallest runs and see whether it goes away.",
        )
    ]
