"""The only table from what went wrong to an HTTP status, and the one shape that errors have.

Every error is `application/problem+json` (RFC 9457) with two members of ours: `kind`, a word that
programs can branch on, and `hint`, what to do. Where they are known, `row`, `column`, `value` and
`errors` say where. A browser that asked for a page is told the same on a page.
"""

import traceback
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.dashboard import render
from app.services.errors import ServiceError, not_found, shortened
from app.storage.errors import Conflict, NotFound
from fitting import FittingError

log = structlog.get_logger(__name__)

STATUS: dict[str, tuple[int, str]] = {
    "not_found": (404, "Not found"),
    "invalid": (422, "The input cannot be used"),
    "not_enough_data": (422, "There is not enough data"),
    "conflict": (409, "In conflict with what is there"),
    "too_large": (413, "Too large"),
    "unauthenticated": (401, "A key is needed"),
    "forbidden": (403, "The key does not allow this"),
    "unavailable": (503, "Not available now"),
}
FITTING_STATUS = 422
SIGN_IN = "/sign-in"
MEDIA_TYPE = "application/problem+json"
# What is for programs, also when a browser asks for it.
_NO_PAGES = ("/v1", "/docs", "/redoc", "/openapi.json", "/metrics", "/static")
_PAGE_HINTS = {
    404: "The menu above leads to every page.",
    405: "The menu above leads to every page.",
    422: "Check the address, or find the page through the menu above.",
}
_HTTP_HINTS = {
    404: "GET /openapi.json lists every path.",
    405: "GET /openapi.json lists the methods of every path.",
    413: "Send less at once: split the import, or ask for fewer points.",
    415: "Send application/json, or multipart/form-data for a file.",
}


class Problem(JSONResponse):
    """A problem document as a response."""

    media_type = MEDIA_TYPE

    def __init__(self, document: dict[str, Any], headers: dict[str, str]) -> None:
        super().__init__(document, document["status"], headers=headers)
        self.document = document


def problem(
    status: int, title: str, detail: str, *, kind: str, hint: str = "", **more: Any
) -> Problem:
    """One problem document. Members of `more` that are None are left out."""
    body: dict[str, Any] = {
        "type": f"urn:scalewright:error:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "kind": kind,
        "hint": hint,
    }
    body.update({name: value for name, value in more.items() if value is not None})
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = "2"
    return Problem(body, headers)


def asks_for_page(request: Request) -> bool:
    """Whether a person at a browser waits for the answer; what programs ask for never is a page."""
    path = request.url.path
    return "text/html" in request.headers.get("accept", "") and not path.startswith(_NO_PAGES)


def as_asked(request: Request, found: Problem, hint: str | None = None) -> Response:
    """The document, or a page that says the same; `hint` is the page's own, where it has one."""
    if not asks_for_page(request):
        return found
    said = found.document
    page = render.page(
        request,
        "message.html",
        page="",
        status_code=said["status"],
        heading=said["title"],
        text=" ".join(filter(None, [said["detail"], said["hint"] if hint is None else hint])),
    )
    for name in ("allow", "retry-after"):
        if name in found.headers:
            page.headers[name] = found.headers[name]
    return page


def to_sign_in(request: Request) -> RedirectResponse:
    """Ask a person for a key, and come back here with it."""
    # with a key that did not do, say so: the form alone would look as if nothing happened
    query = {"refused": "1"} if render.COOKIE in request.cookies else {}
    there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.method == "GET" and there != "/":
        query["then"] = there
    return RedirectResponse(SIGN_IN + (f"?{urlencode(query)}" if query else ""), 303)


def of_service_error(error: ServiceError) -> Problem:
    status, title = STATUS[error.kind]
    details = error.details()
    details.pop("hint", None)
    return problem(status, title, error.message, kind=error.kind, hint=error.hint, **details)


def of_fitting_error(error: FittingError) -> Problem:
    details = {name: shortened(value) for name, value in error.details.items()}
    # fitting counts rows of an array from 0; people count the points that they sent from 1
    if isinstance(details.get("row"), int):
        details["row"] += 1
    for taken in ("status", "title", "detail", "kind", "hint"):
        details.pop(taken, None)
    return problem(
        FITTING_STATUS,
        "These numbers cannot be used",
        error.message,
        kind=error.kind,
        hint=error.hint,
        **details,
    )


def of_request_errors(errors: Sequence[Any]) -> Problem:
    """The framework's list of what does not match the schema, first one first."""
    shown = [
        {
            # the framework's name of what it checks with is no place in the body
            "where": ".".join(str(part) for part in error["loc"] if "[" not in str(part)),
            "message": _message(error),
            "value": shortened(error.get("input")),
        }
        for error in errors[:20]
    ]
    first = shown[0] if shown else {"where": "body", "message": "not valid", "value": None}
    return problem(
        422,
        "The request does not match the schema",
        f"{first['where']}: {first['message']}.",
        kind="invalid",
        hint="GET /openapi.json has the schema and an example of every body.",
        errors=shown,
    )


def _message(error: Any) -> str:
    """What does not match; of text that is no JSON, what is wrong with it."""
    if error["type"] != "json_invalid":
        return str(error["msg"])
    return f"this is not JSON: {error.get('ctx', {}).get('error', error['msg'])}"


class TooLargeIsAProblem:
    """The framework's body limit answers in plain text, outside of every handler: say it as all
    other errors are said."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def watching(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                kind = dict(message["headers"]).get(b"content-type", b"")
                replaced = not kind.startswith(MEDIA_TYPE.encode())
                if replaced:
                    status, title = STATUS["too_large"]
                    answer = problem(
                        status,
                        title,
                        "The body is larger than this server takes.",
                        kind="too_large",
                        hint=_HTTP_HINTS[413],
                    )
                    await answer(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, watching)


def install(app: FastAPI) -> None:
    """Give every error of the application its document."""

    @app.exception_handler(ServiceError)
    def service(request: Request, error: ServiceError) -> Response:
        # a person at a page is asked for the key; a program is told that it needs one
        if error.kind == "unauthenticated" and asks_for_page(request):
            return to_sign_in(request)
        return as_asked(request, of_service_error(error))

    @app.exception_handler(FittingError)
    def fitting(request: Request, error: FittingError) -> Response:
        return as_asked(request, of_fitting_error(error))

    # a row that went or changed between a service's look and its write
    @app.exception_handler(NotFound)
    def gone(request: Request, error: NotFound) -> Response:
        return as_asked(request, of_service_error(not_found(error.kind, error.key)))

    @app.exception_handler(Conflict)
    def changed(request: Request, error: Conflict) -> Response:
        hint = "Look at it again: it has changed meanwhile."
        return as_asked(request, of_service_error(ServiceError("conflict", f"{error}.", hint)))

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> Response:
        return as_asked(request, of_request_errors(error.errors()), _PAGE_HINTS[422])

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        response = problem(
            error.status_code,
            "Not found" if error.status_code == 404 else "The request was refused",
            str(error.detail),
            kind={404: "not_found", 413: "too_large"}.get(error.status_code, "invalid"),
            hint=_HTTP_HINTS.get(error.status_code, "GET /openapi.json describes every request."),
        )
        response.headers.update(error.headers or {})
        return as_asked(request, response, _PAGE_HINTS.get(error.status_code))

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def database(request: Request, error: Exception) -> Response:
        log.error("database_unavailable", error=str(error), path=request.url.path)
        found = problem(
            *STATUS["unavailable"],
            "The database does not answer.",
            kind="unavailable",
            hint="Try again in a moment; `scalewright db status` says what is wrong.",
        )
        return as_asked(request, found)

    @app.exception_handler(DataError)
    def data(request: Request, error: DataError) -> Response:
        """A NUL in the address: bodies are looked through before, this has come with a query."""
        if "NUL" not in str(error.orig):
            return unexpected(request, error)
        found = problem(
            *STATUS["invalid"],
            "A text of the request holds a NUL character, which no text of ours has.",
            kind="invalid",
            hint="Leave it out of the address.",
        )
        return as_asked(request, found)

    @app.exception_handler(DBAPIError)
    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        # as text: a renderer that shows local variables would show keys
        trace = "".join(traceback.format_exception(error))
        log.error("unexpected_error", path=request.url.path, trace=trace)
        found = problem(
            500,
            "An error of ours",
            "Something went wrong that this service did not foresee.",
            kind="internal",
            hint="Nothing was stored. The server's log has the trace: please report it.",
        )
        return as_asked(request, found)
