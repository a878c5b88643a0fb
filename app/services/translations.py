"""Translations: a stored fit carried over a link to another data set, kept as a fit of its own.

What comes out predicts, allocates and forecasts as any fit does. Where it is no law of the registry
(a composition), it is answered and not kept: a stored fit names its law.
"""

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from app.services import fits, links
from app.services.errors import ServiceError
from app.services.fits import FitRequest
from app.storage import fits as storage
from fitting import Fit
from fitting.loss_to_loss import translate as carried_over

SAME_FLOOR = 1e-9
"""The library's: floors this close (in nats) are one floor."""


@dataclass(frozen=True)
class Translation:
    """link: the one that carried the fit over: the one asked about, or that link fitted again
    with the fit's floor. fit: the id of the fit that was made; None where it is a composition."""

    link: int
    source_fit: int
    fit: int | None
    form: str
    document: dict[str, Any]


def create(
    connection: Connection, link_id: int, fit_id: int, *, own_floor: bool = True
) -> Translation:
    """Carry the fit over and store the law that comes out.

    own_floor: where the link's E0 was fitted and is not the fit's, fit the link again with the
    fit's floor as E0 (a link of its own, stored too), because only then is the linked law one of
    the registry; False keeps the link's E0. The stored fit shows the target's paired runs as its
    points. Raises ServiceError or FittingError where fit and link do not go together.
    """
    source = fits.get(connection, fit_id)
    fit = fits.load(connection, fit_id)
    link = links.get(connection, link_id)
    if own_floor and fit.loss_unit == link.document["loss_unit"]:
        link = _with_floor(connection, link, fit)
    made = carried_over(fit, links.load(connection, link.id))
    document = fits.finite(made.to_dict())
    document.pop("fit", None)
    stored = _kept(connection, link, source, made.fit) if made.form == "closed" else None
    return Translation(link.id, fit_id, stored, made.form, document)


def _with_floor(connection: Connection, link: links.StoredLink, fit: Fit) -> links.StoredLink:
    """The link with E0 at the fit's own floor: itself, or fitted again to the same runs."""
    floor = fit.params.get("E")
    request = links.request_from(link.request)
    if (
        floor is None
        or request.E0 is not None
        or abs(floor - float(link.document["E0"])) <= SAME_FLOOR
    ):
        return link
    again = links.create(connection, replace(request, E0=floor))
    if again.digest != link.digest:
        raise ServiceError(
            "conflict",
            f"The runs of link {link.id} have changed since, or are gone.",
            f'Fit it again with "E0": {floor:.9g}, the floor of the fit, and translate by that.',
            value=link.id,
        )
    return again


def _kept(connection: Connection, link: links.StoredLink, source: fits.StoredFit, fit: Fit) -> int:
    target = link.request["target"]
    pairs = link.document["pairs"]
    request = FitRequest(
        law=fit.law.name,
        project=target.get("project"),
        validation_set=target.get("validation_set"),
        inputs={name: [row[name] for row in pairs] for name in ("N", "D")},
        loss=[row["target"] for row in pairs],
        flops=[row["flops"] for row in pairs],
        n_convention=fit.n_convention,
        flops_convention=fit.flops_convention,
        loss_unit=fit.loss_unit,
        level=fit.level,
        draws=len(fit.draws),
        seed=fit.seed,
    )
    document = fits.finite({**fit.to_dict(), "translated": {"link": link.id, "fit": source.id}})
    return storage.create(
        connection,
        project_id=link.project_id,
        law=fit.law.name,
        status=fit.status,
        digest=document["digest"],
        request=fits.describe_request(request),
        document=document,
        run_ids=sorted({*link.run_ids, *source.run_ids}),
    ).id
