"""The first page: what is there, how the last forecast did, what to do next."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.dashboard import render
from app.dashboard.pages import fits as fit_pages
from app.dashboard.pages import forecasts as forecast_pages
from app.dashboard.pages.database import reading
from app.services import overview as service

router = APIRouter(include_in_schema=False)


@router.get("/")
def overview(request: Request) -> HTMLResponse:
    figures: dict[str, Any] = {}
    latest = None
    with reading(request) as connection:
        what = service.overview(connection)
        if what["fits"]:
            opened = fit_pages.open_fit(connection, what["fits"][0]["id"])
            if opened is not None:
                latest = fit_pages.summary(opened)
                drawn = fit_pages.figures_of(opened, only=("fitted",))
                figures.update({item.id: item.figure for item in drawn})
                latest["note"] = drawn[0].note if drawn else ""
    rows = what["forecasts"]
    if rows:
        figures["forecasts"] = forecast_pages.figure(rows)
    scored = [row for row in rows if row["actual"] is not None]
    return render.page(
        request,
        "overview.html",
        page="Overview",
        figures=figures,
        headline=(scored or rows or [None])[0],
        latest_fit=latest,
        **{key: what[key] for key in ("counts", "projects", "sweeps", "forecasts", "next_step")},
    )
