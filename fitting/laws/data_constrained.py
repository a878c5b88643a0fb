"""Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", equation 5.

Chinchilla for repeated data: of D training tokens only U are distinct. Repeats count for less and
less, with a half-value of R_D epochs; parameters beyond what U tokens can use likewise, with R_N:

    L(N, D, U) = E + A / N'^alpha + B / D'^beta
    D' = U_D (1 + R_D (1 - exp(-(D / U_D - 1) / R_D))),   U_D = min(D, U)
    N' = U_N (1 + R_N (1 - exp(-(N / U_N - 1) / R_N))),   U_N = min(N, N_opt(U_D))

N_opt(U) = G (U G)^(beta / alpha), G = (alpha A / (beta B))^(1 / (alpha + beta)), is the size that
Chinchilla would pair with U tokens. The minimum is not smooth in the parameters, so the law brings
its own derivatives.

The published R_D = 15.4 and R_N = 5.3 are not identified by the paper's 182 runs: R_D = 95 with
R_N = 1.7 fits them better. Trust the interval, not the number.
"""

from typing import Any

import numpy as np

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(
    N: Any, D: Any, U: Any, *, E: Any, A: Any, B: Any, alpha: Any, beta: Any, R_D: Any, R_N: Any
) -> Any:
    unique = np.minimum(D, U)
    n = _with_diminishing_returns(N, _usable_size(N, unique, A, B, alpha, beta), R_N)
    d = _with_diminishing_returns(D, unique, R_D)
    return E + A * n**-alpha + B * d**-beta


def effective_tokens(D: Any, U: Any, *, R_D: Any) -> Any:
    """D': the distinct tokens that would have taught as much as D tokens with U distinct ones."""
    return _with_diminishing_returns(D, np.minimum(D, U), R_D)


def _with_diminishing_returns(total: Any, first: Any, half_value: Any) -> Any:
    """`first` counts in full; each further helping of it for less. Equal to total if no excess."""
    excess = total / first - 1.0
    return first * (1.0 - half_value * np.expm1(-excess / half_value))


def _optimal_size(unique: Any, A: Any, B: Any, alpha: Any, beta: Any) -> Any:
    """The size that Chinchilla pairs with `unique` tokens: where dL/dlnN = dL/dlnD."""
    G = (alpha * A / (beta * B)) ** (1.0 / (alpha + beta))
    return G * (unique * G) ** (beta / alpha)


def _usable_size(N: Any, unique: Any, A: Any, B: Any, alpha: Any, beta: Any) -> Any:
    optimal = _optimal_size(unique, A, B, alpha, beta)
    return np.where(np.real(optimal) < N, optimal, N)


def jacobian(
    N: Any, D: Any, U: Any, *, E: Any, A: Any, B: Any, alpha: Any, beta: Any, R_D: Any, R_N: Any
) -> dict[str, Any]:
    """d loss / d parameter; at the kink N = N_opt, the derivative from the side without excess."""
    unique = np.minimum(D, U)
    optimal = _optimal_size(unique, A, B, alpha, beta)
    usable = _usable_size(N, unique, A, B, alpha, beta)
    n = _with_diminishing_returns(N, usable, R_N)
    d = _with_diminishing_returns(D, unique, R_D)
    n_term, d_term = A * n**-alpha, B * d**-beta

    def by_half_value(total: Any, first: Any, half_value: Any) -> Any:
        x = (total / first - 1.0) / half_value
        return first * (-np.expm1(-x) - x * np.exp(-x))

    # How N' follows the usable size, where it is the optimal one and not N itself.
    decay = np.exp(-(N / usable - 1.0) / R_N)
    by_usable = np.where(optimal < N, 1.0 + R_N * (1.0 - decay) - decay * N / usable, 0.0)
    total = alpha + beta
    log_G = np.log(alpha * A / (beta * B)) / total
    power = 1.0 + beta / alpha
    common = -alpha * n_term / n * by_usable * usable  # d loss / d ln N_opt
    return {
        "E": np.ones_like(n_term),
        "A": n_term / A + common * power / (total * A),
        "B": d_term / B - common * power / (total * B),
        "alpha": -n_term * np.log(n)
        + common
        * (
            -beta / alpha**2 * (np.log(unique) + log_G)
            + power * (1.0 / (alpha * total) - log_G / total)
        ),
        "beta": -d_term * np.log(d)
        + common
        * ((np.log(unique) + log_G) / alpha - power * (1.0 / (beta * total) + log_G / total)),
        "R_D": -beta * d_term / d * by_half_value(D, unique, R_D),
        "R_N": -alpha * n_term / n * by_half_value(N, usable, R_N),
    }


LAW = Law(
    name="data_constrained",
    title="Data-constrained: repeated epochs",
    latex=r"L(N, D, U) = E + \frac{A}{N'^{\alpha}} + \frac{B}{D'^{\beta}}, \quad "
    r"D' = U_D\left(1 + R_D\left(1 - e^{-(D / U_D - 1) / R_D}\right)\right)",
    source="Muennighoff et al. 2023, arXiv 2305.16264, eq. 5",
    about="What the loss will be when the distinct tokens run out and the data is repeated. "
    "R_D is about the number of extra epochs after which repeating stops paying; it is identified "
    "only by runs with many epochs.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size", (1e7, 1e10)),
        Input("D", "tokens", "training tokens, repeats counted", (1e8, 1e12)),
        Input("U", "tokens", "distinct tokens available", (1e8, 1e12)),
    ),
    params=(
        Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("A", "what a small model loses, at N = 1", (1.0, 1e6), LOG),
        Param("B", "what little data loses, at D = 1", (1.0, 1e7), LOG),
        Param("alpha", "how fast a larger model helps", (0.1, 1.0), bounded(0.01, 3.0)),
        Param("beta", "how fast more data helps", (0.1, 1.0), bounded(0.01, 3.0)),
        Param("R_D", "epochs after which repeats are worth 1/e", (1.0, 400.0), LOG),
        Param("R_N", "the same for parameters beyond the optimum", (0.5, 20.0), LOG),
    ),
    published=Published(
        {
            "E": np.exp(0.6254804),
            "A": np.exp(6.255414),
            "B": np.exp(7.3049974),
            "alpha": 0.3526596,
            "beta": 0.3526596,
            "R_D": 15.387756,
            "R_N": 5.309743,
        },
        at={"N": 6.34e9, "D": 242e9, "U": 25e9},
        loss=2.2256440889984477,
        source="Muennighoff et al. 2023, huggingface/datablations, the read-me's own example",
        rtol=1e-6,
    ),
    jacobian=jacobian,
)
