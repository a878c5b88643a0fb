"""Henighan et al. 2020, "Scaling Laws for Autoregressive Generative Modeling", equation 1.1.

L(x) = L_inf + (x_0 / x)^alpha: a power law plus the entropy of the data, for x = parameters,
tokens or compute. Here A = x_0^alpha, which the solver finds more easily; `scale` gives x_0 back.
`MODALITIES` is the paper's table 1.
"""

from typing import Any, NamedTuple

from fitting.law import Input, Law, Param, PowerSum, Published
from fitting.laws.kaplan_compute import PF_DAY
from fitting.links import LOG, bounded


class PowerLaw(NamedTuple):
    """floor [nats/token], scale x_0 [parameters, or PF-days], exponent alpha; as printed."""

    floor: float
    scale: float
    exponent: float


class Modality(NamedTuple):
    """One row of table 1: L(N), L(C), and N_opt = (C / scale)^exponent, C in PF-days."""

    size: PowerLaw
    compute: PowerLaw | None = None
    optimal_size: tuple[float, float] | None = None


# Henighan et al. 2020, table 1. The row "text to image, image" repeats the optimal size of
# "image VQ 32x32" in the copy that this was read from: treat that one entry with care.
MODALITIES = {
    "language": Modality(
        PowerLaw(0.0, 1.47e14, 0.070), PowerLaw(0.0, 3.47e8, 0.048), (3.3e-13, 0.73)
    ),
    "image 8x8": Modality(
        PowerLaw(3.12, 8.0e1, 0.24), PowerLaw(3.13, 1.8e-8, 0.19), (5.3e-14, 0.64)
    ),
    "image 16x16": Modality(
        PowerLaw(2.64, 2.8e2, 0.22), PowerLaw(2.64, 1.6e-8, 0.16), (4.8e-12, 0.75)
    ),
    "image 32x32": Modality(
        PowerLaw(2.20, 6.3e1, 0.13), PowerLaw(2.21, 3.6e-9, 0.1), (1.6e-13, 0.65)
    ),
    "image VQ 16x16": Modality(
        PowerLaw(3.99, 2.7e4, 0.13), PowerLaw(4.09, 6.1e-7, 0.11), (6.2e-14, 0.64)
    ),
    "image VQ 32x32": Modality(
        PowerLaw(3.07, 1.9e4, 0.14), PowerLaw(3.17, 2.6e-6, 0.12), (9.4e-13, 0.7)
    ),
    "text to image, text": Modality(PowerLaw(0.0, 5.6e8, 0.037)),
    "text to image, image": Modality(
        PowerLaw(2.0, 5.1e3, 0.16), PowerLaw(1.93, 1.5e-6, 0.15), (9.4e-13, 0.7)
    ),
    "image to text, text": Modality(PowerLaw(0.0, 7.0e8, 0.039)),
    "image to text, image": Modality(
        PowerLaw(2.0, 5.5e3, 0.15), PowerLaw(1.97, 1.5e-6, 0.16), (3.3e-12, 0.72)
    ),
    "video VQ 16x16x16": Modality(
        PowerLaw(1.01, 3.7e4, 0.24), PowerLaw(0.95, 2.2e-5, 0.14), (1.13e-12, 0.71)
    ),
    "math, extrapolation": Modality(
        PowerLaw(0.28, 1.1e4, 0.16), PowerLaw(0.14, 1.4e-5, 0.17), (2.3e-12, 0.69)
    ),
}


def size_loss(N: Any, *, L_inf: Any, A: Any, alpha: Any) -> Any:
    return L_inf + A * N**-alpha


def data_loss(D: Any, *, L_inf: Any, A: Any, alpha: Any) -> Any:
    return L_inf + A * D**-alpha


def compute_loss(C: Any, *, L_inf: Any, A: Any, alpha: Any) -> Any:
    return L_inf + A * C**-alpha


def scale(A: Any, alpha: Any) -> Any:
    """x_0 of the paper, in the unit of the input: where the reducible loss would be 1 nat."""
    return A ** (1.0 / alpha)


def _params(what: str, coefficients: tuple[float, float]) -> tuple[Param, ...]:
    return (
        Param("L_inf", "the entropy of the data: what no model can predict", (0.3, 3.0), LOG),
        Param("A", f"the reducible loss at one unit of {what}", coefficients, LOG),
        Param("alpha", f"how fast more {what} helps", (0.03, 1.0), bounded(0.0, 3.0)),
    )


_LATEX = (
    r"L({x}) = L_\infty + \left(\frac{{{x}_0}}{{{x}}}\right)^{{\alpha}}, \quad A = {x}_0^\alpha"
)
_ABOUT = (
    "Fits each modality that its authors tried: language, images, video, mathematics. The floor "
    "and the exponent trade against each other unless the runs span some decades."
)
_IMAGE = MODALITIES["image 8x8"]
assert _IMAGE.compute is not None

LAW = (
    Law(
        name="henighan_size",
        title="Power law plus constant, of model size",
        latex=_LATEX.format(x="N"),
        source="Henighan et al. 2020, arXiv 2010.14701, eq. 1.1 and table 1",
        about=_ABOUT,
        formula=size_loss,
        inputs=(Input("N", "parameters", "model size", (1e5, 1e10)),),
        params=_params("parameters", (1.0, 1e6)),
        published=Published(
            {"L_inf": 3.12, "A": _IMAGE.size.scale**_IMAGE.size.exponent, "alpha": 0.24},
            at={"N": 1e8},
            loss=3.15441,
            source="Henighan et al. 2020, table 1, images 8x8",
            rtol=1e-4,
        ),
        powers=PowerSum("L_inf", (("A", "N", "alpha"),)),
        linear=("L_inf", "A"),
    ),
    Law(
        name="henighan_data",
        title="Power law plus constant, of tokens",
        latex=_LATEX.format(x="D"),
        source="Henighan et al. 2020, arXiv 2010.14701, eq. 1.1",
        about=_ABOUT,
        formula=data_loss,
        inputs=(Input("D", "tokens", "training tokens", (1e7, 1e12)),),
        params=_params("data", (1.0, 1e6)),
        powers=PowerSum("L_inf", (("A", "D", "alpha"),)),
        linear=("L_inf", "A"),
    ),
    Law(
        name="henighan_compute",
        title="Power law plus constant, of compute",
        latex=_LATEX.format(x="C"),
        source="Henighan et al. 2020, arXiv 2010.14701, eq. 1.1 and table 1",
        about=_ABOUT + " For runs that are each the best of their budget.",
        formula=compute_loss,
        inputs=(Input("C", "FLOPs", "training compute, optimally spent", (1e15, 1e24)),),
        params=_params("compute", (1.0, 1e8)),
        published=Published(
            {
                "L_inf": 3.13,
                "A": (_IMAGE.compute.scale * PF_DAY) ** _IMAGE.compute.exponent,
                "alpha": 0.19,
            },
            at={"C": PF_DAY},
            loss=3.16377,
            source="Henighan et al. 2020, table 1, images 8x8 (PF-days)",
            rtol=1e-4,
        ),
        powers=PowerSum("L_inf", (("A", "C", "alpha"),)),
        linear=("L_inf", "A"),
    ),
)
