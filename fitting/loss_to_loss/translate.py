"""A law of one data set carried over to another through a link: a whole law for a handful of runs.

The Kaplan form is closed under translation (authors' `translate()`): with L_0 = E_0 + [(A / N)^(a /
b) + B / D]^b, the linked law has a' = kappa a, b' = kappa b, A' = A K^(1 / (kappa a)), B' = B
K^(1 / (kappa b)), E' = E_1. The Chinchilla form is not (for kappa != 1); its translation is the
*coupled* form, E_1 + (A' / N^a + B' / D^b)^kappa with A' = A K^(1 / kappa), B' = B K^(1 / kappa).
Any other law, or a link whose E_0 is not the law's own, is kept as the composition. In every case
the map from L_0 to L_1 is increasing, so the compute-optimal N and D are the source law's: a link
says nothing about allocation, and cannot change it.
"""

import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fitting.diagnose import Warned
from fitting.errors import FittingError
from fitting.fit import Fit
from fitting.intervals import Calibration
from fitting.law import Law, Param
from fitting.laws import get_law
from fitting.links import LOG, Floats, bounded
from fitting.loss_to_loss.formula import PARAMS, at, slope
from fitting.loss_to_loss.link import Link

# A link's E_0 this close (in nats) to the law's own floor is the law's own.
SAME_FLOOR = 1e-9


@dataclass(frozen=True)
class Translated:
    """fit: the target's law, which predicts and allocates like any fit. form: "closed" (a law of
    the catalogue, storable as FIT.json) or "composition" (keep the source fit and the link)."""

    fit: Fit
    form: str
    source: Fit
    link: Link

    def to_dict(self) -> dict[str, Any]:
        """{"form", "law", "params", "intervals", "warnings", "source", "target", "fit"}."""
        return {
            "form": self.form,
            "law": self.fit.law.name,
            "title": self.fit.law.title,
            "params": self.fit.params,
            "intervals": {
                "level": self.fit.level,
                **{k: list(v) for k, v in self.fit.intervals().items()},
            },
            "warnings": [w.to_dict() for w in self.fit.warnings],
            "source": self.link.names[0],
            "target": self.link.names[1],
            "source_law": self.source.law.name,
            "fit": self.fit.to_dict() if self.form == "closed" else None,
        }


def translate(law_fit: Fit, link: Link) -> Translated:
    """The target's law from the source's fit and the link.

    Closed where the link's E_0 is the law's own floor (fit it with E0 = law_fit.params["E"]); else
    a composition, which has no value where the source law falls to the link's E_0.
    Draws of law and link are paired at random; the interval of the result carries both drifts.
    Raises FittingError for a law that is not one of N and D, or in another unit than the link.
    """
    names = law_fit.law.input_names
    if not {"N", "D"} <= set(names) or "E" not in law_fit.law.param_names:
        raise FittingError(
            "bad_option",
            f"{law_fit.law.name} is a law of {', '.join(names)}"
            + ("" if "E" in law_fit.law.param_names else " without a floor E")
            + "; a link carries over a law of N and D with one.",
            "Translate a fit of chinchilla or kaplan_floor.",
        )
    if law_fit.loss_unit != link.unit or law_fit.n_convention != link.n_convention:
        raise FittingError(
            "mixed_conventions",
            f"The law is in {law_fit.loss_unit} (N {law_fit.n_convention}), the link in "
            f"{link.unit} (N {link.n_convention}).",
            "Fit both in one unit and one convention.",
        )
    place = law_fit.law.param_names.index("E")
    E = float(law_fit.values[place])
    closed_law = {"kaplan_floor": "kaplan_floor", "chinchilla": "coupled"}.get(law_fit.law.name)
    closed = closed_law is not None and abs(E - float(link.values[2])) <= SAME_FLOOR
    values = np.concatenate([law_fit.values[None], _drawn(law_fit.draws, len(link.draws), 29)])
    links = np.concatenate([link.values[None], _drawn(link.draws, len(values) - 1, 31)])
    values = values[: len(links)]
    if closed:
        assert closed_law is not None
        law = get_law(closed_law)
        moved = _kaplan(values, links) if closed_law == "kaplan_floor" else _coupled(values, links)
    else:
        law = composed(law_fit.law)
        moved = np.concatenate([values, links], axis=1)
    moved = moved[np.isfinite(moved).all(axis=1)]
    warned = list(link.warnings)
    if link.status != "converged":
        warned.append(Warned("link_" + link.status, link.message))
    gap = abs(E - float(link.values[2]))
    if gap > 0.03:
        warned.append(
            Warned(
                "floors_disagree",
                f"The law's floor is {E:.4g}, the link's E0 {link.values[2]:.4g}: .03 apart "
                f"already moves kappa by .03. Fit the link with E0 = {E:.6g}.",
            )
        )
    made = replace(
        law_fit,
        law=law,
        status=law_fit.status if link.status == "converged" else "degenerate",
        message=f"{law_fit.law.name} of {link.names[0]} translated to {link.names[1]} by "
        f"{link.data.n_pairs} pairs ({link.method}).",
        values=moved[0],
        draws=moved[1:],
        warnings=tuple(warned),
        calibration=_both(law_fit, link),
        interval_method="draws of law and link",
        certificate={},
        with_floor=(),
    )
    return Translated(made, "closed" if closed else "composition", law_fit, link)


def composed(law: Law) -> Law:
    """The law of the linked loss, K (L_0 - E0)^kappa + E1, over the source law's own inputs."""
    inner = law.formula

    def loss(*inputs: Any, **params: Any) -> Any:
        link = {name: params.pop("link_" + name) for name in PARAMS}
        return link["K"] * (inner(*inputs, **params) - link["E0"]) ** link["kappa"] + link["E1"]

    kinds = inspect.Parameter
    extra = (
        Param("link_kappa", "exponent of the link", (0.8, 1.2), bounded(0.05, 8.0)),
        Param("link_K", "coefficient of the link", (0.5, 2.0), LOG),
        Param("link_E0", "source floor of the link", (0.3, 3.0), LOG),
        Param("link_E1", "target floor of the link", (0.3, 3.0), LOG),
    )
    loss.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in law.input_names]
        + [kinds(p.name, kinds.KEYWORD_ONLY) for p in (*law.params, *extra)]
    )
    return Law(
        name=f"{law.name}_linked",
        title=f"{law.title}, through a link",
        latex=rf"L_1 = K \left(L_0 - E_0\right)^{{\kappa}} + E_1,\quad {law.latex}",
        source=f"Brandfonbrener et al. 2024, arXiv 2411.12925; {law.source}",
        formula=loss,
        inputs=law.inputs,
        params=(*law.params, *extra),
    )


def _drawn(draws: Floats, count: int, seed: int) -> Floats:
    """`count` rows of draws in random order, repeated where there are fewer; none if none."""
    if not len(draws) or not count:
        return draws[:0]
    order = np.random.default_rng([seed]).permutation(max(count, len(draws))) % len(draws)
    return np.asarray(draws[order[: max(count, 0)]])


def _kaplan(values: Floats, links: Floats) -> Floats:
    _, A, B, alpha, beta = values.T
    kappa, K, _, E1 = links.T
    return np.stack(
        [E1, A * K ** (1 / (kappa * alpha)), B * K ** (1 / (kappa * beta)), kappa * alpha,
         kappa * beta], axis=1,
    )  # fmt: skip


def _coupled(values: Floats, links: Floats) -> Floats:
    _, A, B, alpha, beta = values.T
    kappa, K, _, E1 = links.T
    scale = K ** (1 / kappa)
    return np.stack([E1, A * scale, B * scale, alpha, beta, kappa], axis=1)


def _both(law_fit: Fit, link: Link) -> Calibration:
    """The source law's drift, as steep as the link is at its best run, with the link's own."""
    x = np.array([link.data.best_x])
    steep = float((slope(link.values[None], x)[0] * x / at(link.values[None], x)[0])[0])
    steep = steep if np.isfinite(steep) else 1.0
    own, more = law_fit.calibration, link.calibration
    return replace(
        more,
        noise=float(np.hypot(own.noise * steep, more.noise)),
        noise_freedom=min(own.noise_freedom, more.noise_freedom),
        drift=float(np.hypot(own.drift * steep, more.drift)),
        drift_freedom=min(own.drift_freedom, more.drift_freedom),
    )
