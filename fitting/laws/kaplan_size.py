"""Kaplan et al. 2020, "Scaling Laws for Neural Language Models", equation 1.1: L(N).

The loss of models trained to convergence on more data than they can use. N leaves the embeddings
out; with all parameters counted the fitted exponent is another one (Porian et al. 2024).
"""

from typing import Any

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(N: Any, *, N_c: Any, alpha_N: Any) -> Any:
    return (N_c / N) ** alpha_N


LAW = Law(
    name="kaplan_size",
    title="Kaplan L(N): converged models",
    latex=r"L(N) = \left(\frac{N_c}{N}\right)^{\alpha_N}",
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.1",
    about="A pure power law of the model size, for data without end. It has no floor, so it cannot "
    "hold for ever; `henighan_size` adds one.",
    formula=loss,
    inputs=(Input("N", "parameters", "model size, without embeddings", (1e6, 1e10)),),
    params=(
        Param("N_c", "size at which the loss would be 1 nat", (1e9, 1e17), LOG),
        Param("alpha_N", "how fast a larger model helps", (0.03, 0.3), bounded(0.0, 3.0)),
    ),
    published=Published(
        {"N_c": 8.8e13, "alpha_N": 0.076},
        at={"N": 1e9},
        loss=2.37564,
        source="Kaplan et al. 2020, eq. 1.1 (WebText2, nats per BPE token)",
        rtol=1e-4,
    ),
)
