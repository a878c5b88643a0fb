"""Kaplan et al. 2020, "Scaling Laws for Neural Language Models", equation 1.2: L(D).

The loss of a large model that is stopped early on D distinct tokens.
"""

from typing import Any

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(D: Any, *, D_c: Any, alpha_D: Any) -> Any:
    return (D_c / D) ** alpha_D


LAW = Law(
    name="kaplan_data",
    title="Kaplan L(D): a large model on limited data",
    latex=r"L(D) = \left(\frac{D_c}{D}\right)^{\alpha_D}",
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.2",
    about="A pure power law of the tokens, for models that are large enough not to matter. It has "
    "no floor; `henighan_data` adds one.",
    formula=loss,
    inputs=(Input("D", "tokens", "distinct training tokens", (1e7, 1e11)),),
    params=(
        Param("D_c", "tokens at which the loss would be 1 nat", (1e9, 1e17), LOG),
        Param("alpha_D", "how fast more data helps", (0.03, 0.3), bounded(0.0, 3.0)),
    ),
    published=Published(
        {"D_c": 5.4e13, "alpha_D": 0.095},
        at={"D": 1e10},
        loss=2.26244,
        source="Kaplan et al. 2020, eq. 1.2 (WebText2, nats per BPE token)",
        rtol=1e-4,
    ),
)
