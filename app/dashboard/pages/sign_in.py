"""Sign in with an API key, where the server asks for keys: the key becomes a cookie.

The cookie is out of reach of scripts (HttpOnly). Pages elsewhere may link here with it, and do no
more (SameSite=Lax, and app/api/auth.py). It lasts until the browser closes, or its owner signs out.
"""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.dashboard import render

router = APIRouter(include_in_schema=False)

COOKIE = render.COOKIE
"""The name under which app/api/auth.py looks for the key of a page."""


@router.get("/sign-in")
def sign_in(request: Request, refused: bool = False, then: str = "/") -> HTMLResponse:
    """`then`: the page that was asked for, shown once the key is there."""
    return render.page(request, "sign_in.html", page="", refused=refused, then=_of_ours(then))


@router.post("/sign-in")
def keep_key(
    request: Request,
    key: Annotated[str, Form(max_length=500)] = "",
    then: Annotated[str, Form()] = "/",
) -> Response:
    key, then = key.strip(), _of_ours(then)
    if not (key and key.isascii() and key.isprintable()):  # no header can hold it: it is no key
        again = f"/sign-in?{urlencode({'refused': 1, 'then': then})}"
        return RedirectResponse(again, status_code=303, headers=render.HEADERS)
    answer = RedirectResponse(then, status_code=303, headers=render.HEADERS)
    # whether the key is good is decided where it is used
    answer.set_cookie(
        COOKIE,
        key,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/sign-out")
def forget_key(request: Request) -> Response:
    answer = RedirectResponse("/sign-in", status_code=303, headers=render.HEADERS)
    answer.delete_cookie(
        COOKIE, httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )
    return answer


def _of_ours(then: str) -> str:
    """The address where it is a path of this server, else the overview: a browser reads two
    slashes, also with a backslash or a tab among them, as another server's name."""
    other = then.startswith("//") or "\\" in then or not then.isprintable()
    return then if then.startswith("/") and not other else "/"
