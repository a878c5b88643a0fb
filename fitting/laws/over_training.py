"""Gadre et al. 2024, "Language models scale reliably with over-training", equation 4.

L(C, M) = E + (a M^eta + b M^-eta) C^-eta, with compute C = 6 N D and token multiplier M = D / N.
Each M has a power law in compute of its own, all with one exponent. In N and D this is the tied
law with A = a 6^-eta and B = b 6^-eta and an exponent of 2 eta.
"""

from typing import Any

from fitting.law import Input, Law, Param, Published
from fitting.links import LOG, bounded


def loss(N: Any, D: Any, *, E: Any, a: Any, b: Any, eta: Any) -> Any:
    C, M = 6.0 * N * D, D / N
    return E + (a * M**eta + b * M**-eta) * C**-eta


LAW = Law(
    name="over_training",
    title="Over-training: compute and token multiplier",
    latex=r"L(C, M) = E + \left(a M^{\eta} + b M^{-\eta}\right) C^{-\eta},"
    r"\quad C = 6 N D,\; M = D / N",
    source="Gadre et al. 2024, arXiv 2403.08540, eq. 4",
    about="For models trained on far more tokens than the optimum, to be cheap to serve. Five "
    "small runs, one of them over-trained, fixed the authors' law.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size", (1e7, 1e10)),
        Input("D", "tokens", "training tokens", (1e8, 1e12)),
    ),
    params=(
        Param("E", "loss without end of compute", (0.3, 3.0), LOG),
        Param("a", "what a small model loses", (1.0, 1e6), LOG),
        Param("b", "what little data loses", (1.0, 1e6), LOG),
        Param("eta", "how fast compute helps, at any multiplier", (0.05, 0.5), bounded(0.0, 1.5)),
    ),
    published=Published(
        # Printed as L = E + 113.69 N^-.24247 + 189.52 6^(b/2) (M N)^b with b = -.24247:
        # a = 113.69 6^eta and b = 189.52 with eta = .121235.
        {"E": 1.5083, "a": 113.69 * 6**0.121235, "b": 189.52, "eta": 0.121235},
        at={"N": 1.4e9, "D": 28e9},
        loss=2.64393,
        source="Gadre et al. 2024, mlfoundations/scaling, C4, five runs",
        rtol=1e-4,
    ),
    linear=("E", "a", "b"),
)


def from_authors_form(*, E: float, a: float, b: float, exponent: float) -> dict[str, float]:
    """Coefficients of the authors' code, E + a N^x + b 6^(x/2) (M N)^x, as this law's parameters.

    x (`exponent`) is negative and equals -2 eta.
    """
    eta = -exponent / 2.0
    return {"E": E, "a": a * 6.0**eta, "b": b, "eta": eta}
