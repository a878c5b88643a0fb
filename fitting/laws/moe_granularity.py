"""Krajewski et al. 2024, "Scaling Laws for Fine-Grained Mixture of Experts", equation 3.

L(N, D, G) = c + (g / G^gamma + a) / N^alpha + b / D^beta. The granularity G says how many pieces
each expert of ordinary size is cut into; finer pieces lower the model term, by less and less.
"""

from typing import Any

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(
    N: Any, D: Any, G: Any, *, c: Any, g: Any, gamma: Any, a: Any, alpha: Any, b: Any, beta: Any
) -> Any:
    return c + (g * G**-gamma + a) * N**-alpha + b * D**-beta


LAW = Law(
    name="moe_granularity",
    title="Mixture of experts: granularity",
    latex=r"L(N, D, G) = c + \left(\frac{g}{G^{\gamma}} + a\right)\frac{1}{N^{\alpha}}"
    r" + \frac{b}{D^{\beta}}",
    source="Krajewski et al. 2024, arXiv 2402.07871, eq. 3",
    about="For one expansion rate (the paper's is 64). G = 1 is the usual mixture of experts.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size, active parameters", (1e7, 1e11)),
        Input("D", "tokens", "training tokens", (1e9, 1e13)),
        Input("G", "pieces", "granularity: pieces that an expert is cut into", (1, 64)),
    ),
    params=(
        Param("c", "loss of an infinite model on infinite data", (0.2, 3.0), LOG),
        Param("g", "what coarse experts lose", (0.1, 1e3), LOG),
        Param("gamma", "how fast finer experts help", (0.2, 1.5), bounded(0.0, 3.0)),
        Param("a", "what a small model loses, at N = 1", (1.0, 1e5), LOG),
        Param("alpha", "how fast a larger model helps", (0.08, 0.6), bounded(0.0, 3.0)),
        Param("b", "what little data loses, at D = 1", (1.0, 1e6), LOG),
        Param("beta", "how fast more data helps", (0.08, 0.6), bounded(0.0, 3.0)),
    ),
    published=Published(
        {
            "c": 0.47,
            "g": 2.1,
            "gamma": 0.58,
            "a": 18.1,
            "alpha": 0.115,
            "b": 30.8,
            "beta": 0.147,
        },
        at={"N": 1e9, "D": 1e11, "G": 8},
        loss=2.94182,
        source="Krajewski et al. 2024, table of fitted coefficients (expansion rate 64)",
        rtol=1e-4,
    ),
    linear=("c", "g", "a", "b"),
)
