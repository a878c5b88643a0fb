"""Which law forecasts these runs best: the runs of a fit, or of a project and validation set."""

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection

from app.dashboard import figures, render
from app.dashboard.pages.database import id_of, reading
from app.services import comparisons as service
from app.services import fits, projects
from app.services.errors import ServiceError
from app.services.fits import AUTO, FitRequest, Select
from fitting import LAWS, FittingError

router = APIRouter(include_in_schema=False)


@router.get("/compare")
def compare(
    request: Request, fit: str = "", project: str = "", validation_set: str = ""
) -> HTMLResponse:
    """Computed when asked for, which takes seconds; the bare page only asks."""
    shown: dict[str, Any] = {"ranked": []}
    refusal = ""
    with reading(request) as connection:
        known = projects.page(connection, limit=200).items
        try:
            asked = request_of(connection, fit, project, validation_set)
            if asked is not None:
                project, validation_set = str(asked.project or ""), asked.validation_set or ""
                shown = standing(service.compare(connection, asked).to_dict())
        except (ServiceError, FittingError) as error:
            refusal = f"{error.message} {error.hint}".strip()
    return render.page(
        request,
        "compare.html",
        page="Laws",
        projects=[one.name for one in known],
        fit="" if id_of(fit) is None else fit,
        project=project,
        validation_set=validation_set,
        refusal=refusal,
        compared=shown,
        figures={"ranking": ranking(shown)} if shown["ranked"] else {},
    )


def request_of(
    connection: Connection, fit: str, project: str, validation_set: str
) -> FitRequest | None:
    """What is to be compared; None where nothing was asked for."""
    if fit:
        if (number := id_of(fit)) is None:
            raise ServiceError("not_found", "There is no such fit.", "Fits lists them.")
        asked = fits.request_from(fits.get(connection, number).request)
        return replace(asked, law=AUTO)
    if project and not validation_set:
        raise ServiceError(
            "invalid", "No validation set is named.", "Name the one whose losses are compared."
        )
    if project:
        return FitRequest(law=AUTO, project=project, validation_set=validation_set, select=Select())
    return None


def standing(document: dict[str, Any]) -> dict[str, Any]:
    """A comparison, or the one that a fit of the law `auto` keeps, with the laws' titles."""
    titles = {law.name: law.title for law in LAWS.values()}
    rows = [{**row, "title": titles.get(row["law"], "")} for row in document["ranked"]]
    return {**document, "ranked": rows}


def ranking(document: dict[str, Any]) -> Any:
    return figures.ranking(
        [figures.Standing(row["law"], row["error"], row["score"]) for row in document["ranked"]]
    )
