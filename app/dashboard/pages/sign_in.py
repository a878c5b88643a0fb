"""Sign in with an API key, where the server asks for keys: the key becomes a cookie.

The cookie is for this site's own pages (SameSite=Strict) and out of reach of scripts (HttpOnly). It
lasts until the browser closes, or its owner signs out.
"""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.dashboard import render

router = APIRouter(include_in_schema=False)

COOKIE = render.COOKIE
"""The name under which app/api/auth.py looks for the key of a page."""


@router.get("/sign-in")
def sign_in(request: Request, refused: bool = False) -> HTMLResponse:
    return render.page(request, "sign_in.html", page="", refused=refused)


@router.post("/sign-in")
def keep_key(request: Request, key: Annotated[str, Form(max_length=500)] = "") -> Response:
    answer = RedirectResponse("/", status_code=303, headers=render.HEADERS)
    # whether the key is good is decided where it is used
    answer.set_cookie(
        COOKIE,
        key.strip(),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/sign-out")
def forget_key(request: Request) -> Response:
    answer = RedirectResponse("/sign-in", status_code=303, headers=render.HEADERS)
    answer.delete_cookie(
        COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer
