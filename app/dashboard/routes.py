"""Every page of the dashboard behind three routers: what a reader may see, what acts, and what
anybody may see."""

from fastapi import APIRouter

from app.dashboard.pages import (
    comparisons,
    cpt,
    curves,
    fits,
    forecasts,
    laws,
    links,
    overview,
    predict,
    runs,
    sign_in,
    static,
    tasks,
    time,
)

router = APIRouter(include_in_schema=False)
"""Pages with data: include it behind whatever decides who may read."""
_PAGES = (
    overview,
    runs,
    fits,
    links,
    tasks,
    predict,
    curves,
    cpt,
    time,
    forecasts,
    laws,
    comparisons,
)
for _page in _PAGES:
    router.include_router(_page.router)

acting_router = APIRouter(include_in_schema=False)
"""What changes something: include it behind whatever decides who may submit, and from where."""
acting_router.include_router(runs.acting_router)

public_router = APIRouter(include_in_schema=False)
"""Style, script and the sign-in page: needed before anybody is known."""
for _page in (static, sign_in):
    public_router.include_router(_page.router)
