"""Kaplan et al. 2020, "Scaling Laws for Neural Language Models", equation 1.3: L(C).

The loss of the best model at each training compute. The paper counts in PF-days; here C is in
FLOPs, as everywhere in this package, and `PF_DAY` converts.
"""

from typing import Any

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded

PF_DAY = 1e15 * 24 * 3600  # FLOPs: 8.64e19


def loss(C: Any, *, C_c: Any, alpha_C: Any) -> Any:
    return (C_c / C) ** alpha_C


LAW = Law(
    name="kaplan_compute",
    title="Kaplan L(C): the compute frontier",
    latex=r"L(C) = \left(\frac{C_c}{C}\right)^{\alpha_C}",
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.3",
    about="Only for runs that are each the best of their budget. With the naive compute 6NBS at "
    "one fixed batch the paper finds C_c = 1.6e7 PF-days and an exponent of .057 instead.",
    formula=loss,
    inputs=(Input("C", "FLOPs", "training compute, optimally spent", (1e16, 1e24)),),
    params=(
        Param("C_c", "compute at which the loss would be 1 nat", (1e22, 1e32), LOG),
        Param("alpha_C", "how fast more compute helps", (0.02, 0.2), bounded(0.0, 3.0)),
    ),
    published=Published(
        {"C_c": 3.1e8 * PF_DAY, "alpha_C": 0.050},
        at={"C": PF_DAY},
        loss=2.65808,
        source="Kaplan et al. 2020, eq. 1.3 (C_min; 3.1e8 PF-days)",
        rtol=1e-4,
    ),
)
