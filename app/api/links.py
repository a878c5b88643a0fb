"""/v1/links: loss-to-loss, from the fit to what it predicts, translates and plans."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.links import (
    Kind,
    LinkIn,
    LinkOut,
    LinkPlanIn,
    LinkPlanOut,
    LinkPredictionIn,
    LinkPredictionOut,
    TranslationIn,
    TranslationOut,
)
from app.api.unchanging import UNCHANGED, etag_of, unchanged
from app.services import link_plans, links, paging, translations

router = APIRouter(
    prefix="/v1/links", tags=["links"], route_class=IdempotentRoute, dependencies=[READ]
)


@router.post("", status_code=201, dependencies=[SUBMIT])
def create_link(body: LinkIn, database: DatabaseDep, response: Response) -> LinkOut:
    """Fit target loss = K (source loss - E0)^kappa + E1 to pairs of runs with the same N and D, or
    to two evaluations of the same runs.

    A link that its pairs do not pin down is an answer with a status and warnings; input that
    cannot be paired or fitted is a 422 that says what to change.
    """
    with database.begin() as connection:
        made = links.create(connection, body.to_request())
    response.headers["Location"] = f"/v1/links/{made.id}"
    response.headers["ETag"] = etag_of(made)
    return LinkOut.model_validate(made)


@router.get("")
def list_links(
    database: DatabaseDep,
    project: str | None = None,
    kind: Kind | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[LinkOut]:
    """Links, newest first, without their draws."""
    with database.begin() as connection:
        page = links.page(connection, project=project, kind=kind, cursor=cursor, limit=limit)
        return PageOf[LinkOut].model_validate(page)


@router.post("/plan")
def plan_link(body: LinkPlanIn, database: DatabaseDep) -> LinkPlanOut:
    """The k runs to train on new data that narrow a link's forecast most within a cap on FLOPs:
    cells of the source, spread over its budgets. Nothing is stored."""
    with database.begin() as connection:
        return LinkPlanOut.model_validate(link_plans.plan(connection, body.to_request()))


@router.get(
    "/{link_id}",
    response_model=LinkOut,
    responses=UNCHANGED,
)
def get_link(
    link_id: Id,
    database: DatabaseDep,
    response: Response,
    draws: Annotated[bool, Query(description="With the draws: LINK.json as a whole.")] = False,
    if_none_match: Annotated[str, Header()] = "",
) -> LinkOut | Response:
    """One link. It never changes, so its ETag holds for ever."""
    with database.begin() as connection:
        link = links.get(connection, link_id, draws=draws)
    return unchanged(link, response, if_none_match) or LinkOut.model_validate(link)


@router.post("/{link_id}/predict")
def predict_link(link_id: Id, body: LinkPredictionIn, database: DatabaseDep) -> LinkPredictionOut:
    """The target's loss from the source's, measured or predicted: the answer says which, and a
    predicted one widens the interval by what its forecast may miss."""
    with database.begin() as connection:
        found, notes = links.predict(connection, link_id, body.asked())
    answer = found.to_dict()
    answer["warnings"] = [*answer["warnings"], *notes]
    return LinkPredictionOut.model_validate({**answer, "link": link_id, "source_fit": body.fit})


@router.post("/{link_id}/translate", status_code=201, dependencies=[SUBMIT])
def translate_fit(
    link_id: Id, body: TranslationIn, database: DatabaseDep, response: Response
) -> TranslationOut:
    """Carry a fit of the source over to the target, as a fit of its own that predicts, allocates
    and forecasts. Its compute-optimal N and D are the source's: a link cannot change them."""
    with database.begin() as connection:
        made = translations.create(connection, link_id, body.fit, own_floor=body.own_floor)
    if made.fit is not None:
        response.headers["Location"] = f"/v1/fits/{made.fit}"
    return TranslationOut.model_validate({**made.document, **vars(made)})
