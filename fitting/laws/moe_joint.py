"""Ludziejewski et al. 2025, "Joint MoE Scaling Laws": size, tokens and the number of experts.

L(N, D, E) = a Ê^delta N^(alpha + gamma ln Ê) + b Ê^omega D^(beta + zeta ln Ê) + c, where N counts
the active parameters and Ê saturates in the number of experts:
1 / Ê = 1 / (E - 1 + 1 / (1 / E_start - 1 / E_max)) + 1 / E_max.

The exponents are negative here, as the paper prints them.
"""

from typing import Any

import numpy as np

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded


def effective_experts(experts: Any, *, E_start: Any, E_max: Any) -> Any:
    """Ê: E_start for a dense model (one expert), E_max for experts without end."""
    return 1.0 / (1.0 / (experts - 1.0 + 1.0 / (1.0 / E_start - 1.0 / E_max)) + 1.0 / E_max)


def loss(
    N: Any,
    D: Any,
    experts: Any,
    *,
    a: Any,
    alpha: Any,
    delta: Any,
    gamma: Any,
    b: Any,
    beta: Any,
    omega: Any,
    zeta: Any,
    c: Any,
    E_start: Any,
    E_max: Any,
) -> Any:
    log_e = np.log(effective_experts(experts, E_start=E_start, E_max=E_max))
    size = a * np.exp(delta * log_e + (alpha + gamma * log_e) * np.log(N))
    data = b * np.exp(omega * log_e + (beta + zeta * log_e) * np.log(D))
    return size + data + c


LAW = Law(
    name="moe_joint",
    title="Mixture of experts: active parameters, tokens, experts",
    latex=r"L = a \hat E^{\delta} N^{\alpha + \gamma \ln \hat E}"
    r" + b \hat E^{\omega} D^{\beta + \zeta \ln \hat E} + c",
    source="Ludziejewski et al. 2025, arXiv 2502.05172",
    about="Compares mixtures of experts with dense models (one expert) under one law, by active "
    "parameters. Eleven parameters: give it dozens of runs over several expert counts.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "active parameters", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
        Input("experts", "experts", "number of experts; 1 is dense", (1, 64)),
    ),
    params=(
        Param("a", "what a small model loses, at N = 1", (1.0, 1e4), LOG),
        Param("alpha", "exponent of N, negative", (-0.6, -0.08), bounded(-3.0, 0.0)),
        Param("delta", "how experts change the size term", (-0.4, 0.1), bounded(-3.0, 3.0)),
        Param("gamma", "how experts change the size exponent", (-0.03, 0.03), bounded(-1.0, 1.0)),
        Param("b", "what little data loses, at D = 1", (1.0, 1e4), LOG),
        Param("beta", "exponent of D, negative", (-0.6, -0.08), bounded(-3.0, 0.0)),
        Param("omega", "how experts change the data term", (-0.1, 0.8), bounded(-3.0, 3.0)),
        Param("zeta", "how experts change the data exponent", (-0.05, 0.03), bounded(-1.0, 1.0)),
        Param("c", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
        Param("E_start", "effective experts of a dense model", (1.2, 4.0), bounded(1.0, 20.0)),
        Param("E_max", "effective experts at most", (60.0, 600.0), bounded(25.0, 1e5, log=True)),
    ),
    published=Published(
        {
            "a": 35.91,
            "alpha": -0.1889,
            "delta": -0.2285,
            "gamma": 0.0098,
            "b": 35.98,
            "beta": -0.1775,
            "omega": 0.5529,
            "zeta": -0.0259,
            "c": 1.3637,
            "E_start": 2.0732,
            "E_max": 290.4521,
        },
        # The paper's own reduction for one expert: 30.36 N^-.1817 + 53.98 D^-.1965 + 1.3637.
        at={"N": 1e9, "D": 1e11, "experts": 1},
        loss=2.43894,
        source="Ludziejewski et al. 2025, table of fitted coefficients",
        rtol=1e-3,
    ),
    linear=("a", "b", "c"),
)
