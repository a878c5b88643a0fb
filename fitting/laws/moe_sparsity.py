"""Abnar et al. 2025, "Parameters vs FLOPs": optimal sparsity for mixtures of experts.

L(N, D, S) = a / N^alpha + b / D^beta + c / (1 - S)^lambda + d / ((1 - S)^delta N^gamma) + e, with N
all parameters and S the share of experts that a token does not use. The input here is the share
that it does use, `active` = 1 - S, which is 1 for a dense model.
"""

from typing import Any

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(
    N: Any,
    D: Any,
    active: Any,
    *,
    a: Any,
    alpha: Any,
    b: Any,
    beta: Any,
    c: Any,
    lam: Any,
    d: Any,
    delta: Any,
    gamma: Any,
    e: Any,
) -> Any:
    return a * N**-alpha + b * D**-beta + c * active**-lam + d * active**-delta * N**-gamma + e


LAW = Law(
    name="moe_sparsity",
    title="Mixture of experts: sparsity",
    latex=r"L(N, D, S) = \frac{a}{N^{\alpha}} + \frac{b}{D^{\beta}}"
    r" + \frac{c}{(1 - S)^{\lambda}} + \frac{d}{(1 - S)^{\delta} N^{\gamma}} + e",
    source="Abnar et al. 2025, arXiv 2501.12370",
    about="How sparse a mixture of experts should be at a given total size. The paper reports an "
    "R2 of 99% on its runs and 68% on held-out ones: read forecasts with care.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "all parameters, active or not", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
        Input("active", "share", "share of the experts that a token uses, 1 - S", (0.02, 1.0)),
    ),
    params=(
        Param("a", "what a small model loses, at N = 1", (1.0, 1e6), LOG),
        Param("alpha", "how fast more parameters help", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("b", "what little data loses, at D = 1", (1.0, 1e6), LOG),
        Param("beta", "how fast more data helps", (0.1, 1.0), bounded(0.0, 3.0)),
        Param("c", "how much sparsity matters by itself", (0.05, 2.0), LOG),
        Param("lam", "its exponent; negative: sparser is better", (-0.4, 0.1), bounded(-3.0, 3.0)),
        Param("d", "how much sparsity costs a small model", (0.5, 1e3), LOG),
        Param("delta", "its exponent in the active share", (0.05, 0.5), bounded(-3.0, 3.0)),
        Param("gamma", "its exponent in N", (0.05, 0.6), bounded(0.0, 3.0)),
        Param("e", "loss of an infinite model on infinite data", (0.2, 2.0), LOG),
    ),
    published=Published(
        {
            "a": 16612.50,
            "alpha": 0.5962,
            "b": 5455.67,
            "beta": 0.3954,
            "c": 0.4598,
            "lam": -0.1666,
            "d": 17.26,
            "delta": 0.1603,
            "gamma": 0.1595,
            "e": 0.94,
        },
        at={"N": 1e10, "D": 1e11, "active": 0.25},
        loss=2.11485,
        source="Abnar et al. 2025, table of fitted coefficients",
        rtol=1e-4,
    ),
    linear=("a", "b", "c", "d", "e"),
)
