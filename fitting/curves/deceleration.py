"""Loss deceleration: a curve's one break, as a description and never as a forecast.

Mircea et al. 2025 (zsl): ln L = ln b - c0 ln t - c1 f1 ln(1 + (t / d1)^(1 / f1)), the broken power
law of Caballero et al. 2022 without a floor. t_d = d1 is where the curve slows, L_d = b d1^-c0 the
loss there, r_d = c0 + c1 the rate after it. It knows nothing of learning rates; asked to forecast
the end from the first 30 % it was off by .02 to .14 nats, which is why there is no predict here.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import curve_fit

from fitting.errors import FittingError
from fitting.links import Floats

NOTE = "A description of this curve. It is blind to the learning rate: not a forecast."


@dataclass(frozen=True)
class Deceleration:
    """t_d (step), L_d (loss), r_d (rate after); fitted: L_d (T / t_d)^-r_d at the last step T,
    measured beside it; sd: of the residuals, in log loss."""

    t_d: float
    L_d: float
    r_d: float
    b: float
    c0: float
    c1: float
    f1: float
    last_step: int
    fitted: float
    measured: float
    sd: float
    note: str = NOTE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def log_averaged(step: ArrayLike, loss: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """The authors' smoothing: the mean over [t / 1.2, t] at steps of two significant digits."""
    at = np.asarray(step, dtype=float)
    y = np.asarray(loss, dtype=float)
    order = np.argsort(at, kind="stable")
    at, y = at[order], y[order]
    top = int(at[-1])
    wanted = [
        m * 10**e
        for e in range(0, int(np.log10(max(top, 10))) + 1)
        for m in (range(10, 100) if e else range(1, 100))
        if m * 10**e <= top
    ]
    steps = np.unique(np.array(wanted, dtype=np.int64))
    sums = np.concatenate([[0.0], np.cumsum(y)])
    high = np.searchsorted(at, steps, side="right")
    low = np.searchsorted(at, steps / 1.2, side="left")
    some = high > low
    return steps[some], (sums[high[some]] - sums[low[some]]) / (high - low)[some]


def log_loss(t: Floats, log_b: float, c0: float, c1: float, log_d: float, f1: float) -> Floats:
    """The formula, in logarithms."""
    u = (np.log(t) - log_d) / f1
    return np.asarray(log_b - c0 * np.log(t) - c1 * f1 * np.logaddexp(0.0, u))


def fit_deceleration(
    step: ArrayLike, loss: ArrayLike, *, first_step: int = 100, smooth: bool = True
) -> Deceleration:
    """The break of one curve. smooth: average first (see `log_averaged`), as the authors do."""
    at, y = log_averaged(step, loss) if smooth else (np.asarray(step), np.asarray(loss, float))
    keep = at > first_step
    t, log_y = at[keep].astype(float), np.log(y[keep])
    if t.size < 12:
        raise FittingError(
            "too_few_points", f"{t.size} points after step {first_step}.", "Give a longer curve."
        )
    start = [float(log_y[0] + 0.1 * np.log(t[0])), 0.1, -0.05, float(np.log(6000.0)), 0.3]
    middle = float(np.sqrt(t[0] * t[-1]))
    best, least = None, np.inf
    for log_d in {float(np.log(6000.0)), float(np.log(middle))}:
        if not np.log(t[0]) < log_d < np.log(t[-1]):
            continue
        start[3] = log_d
        try:
            found, _ = curve_fit(
                log_loss, t, log_y, p0=start, method="dogbox", max_nfev=4_000,
                bounds=(
                    [-20.0, 0.0, -3.0, float(np.log(t[0])), 1e-3],
                    [20.0, 3.0, 3.0, float(np.log(t[-1])), 5.0],
                ),
            )  # fmt: skip
        except RuntimeError:
            continue
        cost = float(((log_loss(t, *found) - log_y) ** 2).sum())
        if cost < least:
            best, least = found, cost
    if best is None:
        raise FittingError("bad_value", "No break could be fitted.", "Give a longer curve.")
    log_b, c0, c1, log_d, f1 = (float(v) for v in best)
    residual = log_y - log_loss(t, *best)
    t_d, L_d = float(np.exp(log_d)), float(np.exp(log_b - c0 * log_d))
    fitted = L_d * float(t[-1] / t_d) ** -(c0 + c1)
    return Deceleration(
        t_d, L_d, c0 + c1, float(np.exp(log_b)), c0, c1, f1, int(t[-1]), fitted,
        float(np.exp(log_y[-1])), float(np.std(residual)),
    )  # fmt: skip
