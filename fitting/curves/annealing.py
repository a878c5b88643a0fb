"""Tissue et al. 2024, "Scaling Law with Learning Rate Annealing", equation 1.

L(s) = L0 + A S1^-alpha - C S2,   S1 = sum of eta,   S2 = sum_i sum_(k<=i) (eta_(k-1) - eta_k)
lambda^(i-k)

Four parameters and lambda. Good for levels: with a constant run and a cool-down it predicts unseen
schedules to .01 nats. What it cannot do, and so must not be asked: doubling the rate always lowers
its loss (no law here may choose the peak rate), and S2 goes on growing on zero-rate steps, which is
why S2 stops below a thousandth of the peak rate (ours; see `features.annealed`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.curves.features import annealed, area
from fitting.curves.law import CurveLaw, Features
from fitting.curves.schedule import Schedule
from fitting.law import Param
from fitting.links import LOG, Floats, bounded

# The paper's default; runs of a few thousand steps in small batches want .95 to .99: fit it.
MOMENTUM = 0.999
MOMENTA = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)

L0 = Param("L0", "the loss that no training removes", (0.5, 3.0), LOG)
A = Param("A", "size of what the summed learning rate removes", (0.1, 2.0), LOG)
ALPHA = Param("alpha", "exponent of the summed learning rate", (0.2, 0.8), bounded(0.01, 3.0))


def features(
    schedule: Schedule, steps: NDArray[np.int64], size: float | None, options: Mapping[str, Any]
) -> Features:
    """ln S1 and S2 after each step."""
    rates = schedule.rates()
    at = steps - 1
    # a run that starts at rate zero has learned nothing: keep its logarithm finite
    s1 = np.maximum(area(rates)[at], 1e-12 * schedule.peak_lr)
    found = {"log_s1": np.log(s1), "s2": annealed(rates, float(options["momentum"]))[at]}
    if size is not None:
        found["log_n"] = np.full(steps.size, np.log(size))
    return found


def formula(values: Floats, found: Features) -> tuple[Floats, Floats]:
    """L0 + A S1^-alpha - C S2, for values [B, (L0, A, alpha, C)]."""
    l0, a, alpha, c = (values[:, j, None] for j in range(4))
    power = np.exp(-alpha * found["log_s1"])
    s2 = np.broadcast_to(found["s2"], power.shape)
    slopes = np.stack([np.ones_like(power), power, -a * power * found["log_s1"], -s2], axis=1)
    return l0 + a * power - c * s2, slopes


def sized(values: Floats, found: Features) -> tuple[Floats, Floats]:
    """L0 + A S1^-alpha + B N^-beta - C S2 N^gamma, for values [B, 7]."""
    l0, a, alpha, c, b, beta, gamma = (values[:, j, None] for j in range(7))
    power = np.exp(-alpha * found["log_s1"])
    small = np.exp(-beta * found["log_n"])
    drop = np.exp(gamma * found["log_n"]) * found["s2"]
    slopes = np.stack(
        [
            np.ones_like(power),
            power,
            -a * power * found["log_s1"],
            -drop,
            small,
            -b * small * found["log_n"],
            -c * drop * found["log_n"],
        ],
        axis=1,
    )
    return l0 + a * power + b * small - c * drop, slopes


LAW = CurveLaw(
    name="annealing",
    title="Learning-rate annealing",
    latex=r"L(s) = L_0 + A\, S_1^{-\alpha} - C\, S_2",
    source="Tissue et al. 2024, arXiv 2408.11029, eq. 1",
    about="The sum of the learning rates drives the loss down, annealing adds to it. Four "
    "parameters: a step-decay run, or a constant run with two cool-downs, pins them down.",
    params=(L0, A, ALPHA, Param("C", "loss removed per unit of annealing S2", (0.01, 10.0), LOG)),
    features=features,
    formula=formula,
    pointwise=True,
    linear=("L0", "A", "C"),
    starts=tuple({"alpha": x} for x in (0.1, 0.25, 0.4, 0.55, 0.8, 1.2)),
    options={"momentum": MOMENTUM},
)

LAW_N = CurveLaw(
    name="annealing_n",
    title="Learning-rate annealing, with model size",
    latex=r"L(s, N) = L_0 + A\, S_1^{-\alpha} + B\, N^{-\beta} - C\, S_2\, N^{\gamma}",
    source="Tissue et al. 2024, arXiv 2408.11029, the N-extended form",
    about="The annealing law over several model sizes at once. Needs at least three sizes.",
    params=(
        *LAW.params,
        Param("B", "size of what parameters remove", (1.0, 1e4), LOG),
        Param("beta", "exponent of model size", (0.1, 0.6), bounded(0.01, 2.0)),
        Param("gamma", "how annealing grows with model size", (0.0, 0.2), bounded(-1.0, 1.0)),
    ),
    features=features,
    formula=sized,
    pointwise=True,
    linear=("L0", "A", "B", "C"),
    starts=tuple(
        {"alpha": x, "beta": y, "gamma": 0.05} for x in (0.25, 0.5, 0.8) for y in (0.15, 0.3, 0.5)
    ),
    options={"momentum": MOMENTUM},
    needs_size=True,
)
