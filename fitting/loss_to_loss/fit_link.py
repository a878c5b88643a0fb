"""Fit a link to pairs: by the paper's way, with E_1 free, with noise in both, or all sets at once.

link = fit_link(pair(source, target))
link.params, link.predict(2.31).value
"""

import numpy as np
import scipy

from fitting.diagnose import Warned
from fitting.errors import FittingError
from fitting.fit import fit
from fitting.intervals import Calibration
from fitting.laws import get_law
from fitting.links import Floats
from fitting.loss_to_loss.calibrate import calibrate_link
from fitting.loss_to_loss.formula import at
from fitting.loss_to_loss.kinds import KappaPrior, default_prior, kind_of, method_of
from fitting.loss_to_loss.link import Link, LinkData
from fitting.loss_to_loss.methods import PREPARE, Estimator, Options
from fitting.loss_to_loss.pairs import Pairs, frontier
from fitting.loss_to_loss.resample import resampled_cells
from fitting.predict import check_level
from fitting.runs import Runs

# Links below this miss by 5 % and more at 20 times the compute; those above .99 by 1 to 3 %.
LEAST_R2 = 0.96
DEGENERATE = frozenset({"floor_at_bound", "kappa_at_bound"})
FEWEST_FOR_SOURCE_LAW = 8
LEAST_SD = 1e-6  # of a prior on kappa: tighter than this is a constant


def fit_link(
    pairs: Pairs,
    kind: str = "train_to_train",
    *,
    method: str | None = None,
    E0: float | None = None,
    E1: float | None = None,
    floor_law: str | None = None,
    kappa_prior: tuple[float, float] | str | None = "default",
    noise_ratio: float = 1.0,
    draws: int = 400,
    resample: str = "cell",
    level: float = 0.9,
    seed: int = 0,
) -> Link:
    """The link of the pairs' first two sets.

    kind: "train_to_train", "train_to_test", "test_to_test" or "general". method: "joint" (the
    default where sets share cells), "paper_ols", "free_E1" (the default along the frontier) or
    "odr". E0, E1: floors that are known; else they come from each set's own law (`floor_law`), or
    from the joint fit. kappa_prior: (mean, sd) for the joint method, None for none; the default is
    N(1, .066) from train to train and none elsewhere. draws:
    resamples of cells (or of budgets), each with its floors refitted; 0 for none. Raises
    FittingError for what cannot be used; a link that these pairs do not pin down comes back with
    its status and warnings.
    """
    kind = kind_of(kind)
    chosen = method_of(method) if method else ("joint" if pairs.how == "exact" else "free_E1")
    check_level(level)
    if draws < 0:
        raise FittingError("bad_option", f"draws is {draws}.", "Give 0 or more.")
    if not noise_ratio > 0:
        raise FittingError("bad_option", f"noise_ratio is {noise_ratio}.", "It must be positive.")
    prior = _prior(kind, kappa_prior)
    options = Options(E0, E1, floor_law, prior, noise_ratio)

    def prepare(some: Pairs) -> Estimator:
        return PREPARE[chosen](some, options)

    estimator = prepare(pairs)
    best = estimator.best
    if not np.isfinite(best).all():
        raise FittingError(
            "bad_value", "The pairs give no finite link.", "Check that the losses fall together."
        )
    sample = np.zeros((0, 4))
    lost = 0
    if draws:
        sample = estimator.resampled(resampled_cells(pairs, draws, seed, resample))
        good = np.isfinite(sample).all(axis=1)
        lost, sample = int((~good).sum()), sample[good]
    freedom = 2 + (E0 is None) + (E1 is None)
    calibration, backtest = calibrate_link(pairs, best, prepare, freedom, seed)
    r2, r2_log = _r2(pairs, best)
    warned = [*pairs.warnings, *estimator.warnings, *_about(pairs, chosen, best, r2_log, backtest)]
    if lost > 0.02 * max(draws, 1):
        warned.append(
            Warned(
                "resamples_failed",
                f"{lost} of {draws} resamples have no link: the pairs leave it open. Add pairs.",
            )
        )
    certificate = {**estimator.certificate, **_inverse_consistency(pairs, best, chosen)}
    bad = [w for w in warned if w.code in DEGENERATE]
    converged = certificate.get("converged", 1.0) > 0
    if bad:
        status, message = "degenerate", bad[0].message
    elif not converged:
        status, message = "not_converged", "The joint fit stopped early; do not use the numbers."
    else:
        status = "converged"
        message = (
            f"{pairs.n_pairs} pairs, R2 {r2:.4f}; floors: E0 {estimator.floors['E0']}, "
            f"E1 {estimator.floors['E1']}."
        )
    return Link(
        kind=kind,
        method=chosen,
        names=(pairs.names[0], pairs.names[1]),
        status=status,
        message=message,
        values=best,
        draws=sample,
        level=level,
        floors=estimator.floors,
        r2=r2,
        r2_log=r2_log,
        warnings=tuple(warned),
        certificate=certificate,
        calibration=calibration,
        backtest=backtest,
        source_law=_source_law(pairs, seed),
        data=_data(pairs, best),
        unit=pairs.unit,
        n_convention=pairs.n_convention,
        flops_convention=pairs.flops_convention,
        seed=seed,
        resample=resample,
        versions={"numpy": np.__version__, "scipy": scipy.__version__},
        mixture=pairs.mixture,
    )


def _prior(kind: str, given: tuple[float, float] | str | None) -> KappaPrior | None:
    if given is None or isinstance(given, str):
        return None if given is None else default_prior(kind)
    mean, sd = given
    if not (np.isfinite(mean) and LEAST_SD <= sd <= 1 / LEAST_SD):
        raise FittingError(
            "bad_option",
            f"kappa_prior is {given}.",
            f"Give (mean, sd) with an sd of {LEAST_SD:g} to {1 / LEAST_SD:g}, or None for none.",
        )
    return mean, sd


def _r2(pairs: Pairs, best: Floats) -> tuple[float, float]:
    """R2 of the losses, and of log(y - E1) on log(x - E0), over the pairs above both floors."""
    x, y = pairs.x[pairs.paired], pairs.y[pairs.paired]
    predicted = at(best[None], x)[0]
    good = np.isfinite(predicted) & (y > best[3])
    x, y, predicted = x[good], y[good], predicted[good]
    v, p = np.log(y - best[3]), np.log(np.maximum(predicted - best[3], 1e-300))

    def share(a: Floats, b: Floats) -> float:
        total = float(((a - a.mean()) ** 2).sum())
        return float(1 - ((a - b) ** 2).sum() / total) if total > 0 else 0.0

    return share(y, predicted), share(v, p)


def _inverse_consistency(pairs: Pairs, best: Floats, method: str) -> dict[str, float]:
    """kappa there times kappa back by least squares: r^2, 1 where x has no noise to speak of."""
    if method == "joint":
        return {"kappa_there_and_back": 1.0}
    x, y = pairs.x[pairs.paired], pairs.y[pairs.paired]
    good = (x > best[2]) & (y > best[3])
    if good.sum() < 3:
        return {}
    u, v = np.log(x[good] - best[2]), np.log(y[good] - best[3])
    if not (np.ptp(u) > 0 and np.ptp(v) > 0):
        return {}
    return {"kappa_there_and_back": float(np.corrcoef(u, v)[0, 1] ** 2)}


def _about(
    pairs: Pairs, method: str, best: Floats, r2_log: float, backtest: tuple[object, ...]
) -> list[Warned]:
    out = []
    if r2_log < LEAST_R2:
        out.append(
            Warned(
                "low_r2",
                f"R2 is {r2_log:.3f} (of the logarithms above the floors), below {LEAST_R2}: such "
                "links missed by 5 % and more at 20 times the compute.",
            )
        )
    if not backtest:
        out.append(
            Warned(
                "no_backtest",
                f"{pairs.n_pairs} pairs over "
                f"{np.unique(pairs.budget[pairs.paired]).size} budget(s) "
                "are too few to backtest: intervals rest on a prior.",
            )
        )
    if method != "odr" and method != "joint" and r2_log < 0.995:
        out.append(
            Warned(
                "noisy_source",
                f"R2 is {r2_log:.4f}: least squares shrinks kappa by about as much, because x is "
                "noisy too. Use odr or joint.",
            )
        )
    if not 0.051 < best[0] < 7.99:
        out.append(Warned("kappa_at_bound", f"kappa = {best[0]:.3g} ran to its bound."))
    return out


def _source_law(pairs: Pairs, seed: int) -> Calibration | None:
    """How well the source's own Chinchilla law forecasts, for source losses that are predicted."""
    rows = pairs.measured[:, 0]
    if int(rows.sum()) < FEWEST_FOR_SOURCE_LAW:
        return None
    runs = Runs({"N": pairs.N[rows], "D": pairs.D[rows]}, pairs.losses[rows, 0])
    try:
        return fit(get_law("chinchilla"), runs, draws=0, seed=seed).calibration
    except FittingError:
        return None


def _data(pairs: Pairs, best: Floats) -> LinkData:
    paired = pairs.paired
    x, y, C = pairs.x[paired], pairs.y[paired], pairs.compute[paired]
    rows = frontier(C, x, pairs.budget[paired])
    gap, log_C = np.log(np.maximum(x[rows] - best[2], 1e-9)), np.log10(C[rows])
    pace = 0.0
    if np.unique(log_C).size > 1:
        fall = -float(np.polyfit(log_C, gap, 1)[0])  # of log(x - E0) in a decade
        pace = 1.0 / max(fall, 0.02)
    return LinkData(
        n_pairs=pairs.n_pairs,
        n_source=int(pairs.measured[:, 0].sum()),
        n_target=int(pairs.measured[:, 1].sum()),
        budgets=int(np.unique(pairs.budget[paired]).size),
        x=(float(x.min()), float(x.max())),
        y=(float(y.min()), float(y.max())),
        compute=(float(C.min()), float(C.max())),
        best_x=float(x.min()),
        decades_per_log_gap=pace,
    )
