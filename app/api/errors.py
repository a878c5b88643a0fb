"""The only table from what went wrong to an HTTP status, and the one shape that errors have.

Every error is `application/problem+json` (RFC 9457) with two members of ours: `kind`, a word that
programs can branch on, and `hint`, what to do. Where they are known, `row`, `column`, `value` and
`errors` say where.
"""

import traceback
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
_HTTP_HINTS = {
    404: "GET /openapi.json lists every path.",
    405: "GET /openapi.json lists the methods of every path.",
    413: "Send less at once: split the import, or ask for fewer points.",
    415: "Send application/json, or multipart/form-data for a file.",
}


def problem(
    status: int, title: str, detail: str, *, kind: str, hint: str = "", **more: Any
) -> JSONResponse:
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
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)


def of_service_error(error: ServiceError) -> JSONResponse:
    status, title = STATUS[error.kind]
    details = error.details()
    details.pop("hint", None)
    return problem(status, title, error.message, kind=error.kind, hint=error.hint, **details)


def of_fitting_error(error: FittingError) -> JSONResponse:
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


def of_request_errors(errors: Sequence[Any]) -> JSONResponse:
    """The framework's list of what does not match the schema, first one first."""
    shown = [
        {
            "where": ".".join(str(part) for part in error["loc"]),
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
        wants_page = "text/html" in request.headers.get("accept", "")
        if error.kind == "unauthenticated" and request.method == "GET" and wants_page:
            # with a key that did not do, say so: the form alone would look as if nothing happened
            return RedirectResponse(f"{SIGN_IN}?refused=1" if request.cookies else SIGN_IN, 303)
        return of_service_error(error)

    @app.exception_handler(FittingError)
    def fitting(request: Request, error: FittingError) -> JSONResponse:
        return of_fitting_error(error)

    # a row that went or changed between a service's look and its write
    @app.exception_handler(NotFound)
    def gone(request: Request, error: NotFound) -> JSONResponse:
        return of_service_error(not_found(error.kind, error.key))

    @app.exception_handler(Conflict)
    def changed(request: Request, error: Conflict) -> JSONResponse:
        hint = "Look at it again: it has changed meanwhile."
        return of_service_error(ServiceError("conflict", f"{error}.", hint))

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return of_request_errors(error.errors())

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        response = problem(
            error.status_code,
            "Not found" if error.status_code == 404 else "The request was refused",
            str(error.detail),
            kind={404: "not_found", 413: "too_large"}.get(error.status_code, "invalid"),
            hint=_HTTP_HINTS.get(error.status_code, "GET /openapi.json describes every request."),
        )
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def database(request: Request, error: Exception) -> JSONResponse:
        log.error("database_unavailable", error=str(error), path=request.url.path)
        return problem(
            *STATUS["unavailable"],
            "The database does not answer.",
            kind="unavailable",
            hint="Try again in a moment; `scalewright db status` says what is wrong.",
        )

    @app.exception_handler(DataError)
    def data(request: Request, error: DataError) -> JSONResponse:
        """A NUL in the address: bodies are looked through before, this has come with a query."""
        if "NUL" not in str(error.orig):
            return unexpected(request, error)
        return problem(
            *STATUS["invalid"],
            "A text of the request holds a NUL character, which no text of ours has.",
            kind="invalid",
            hint="Leave it out of the address.",
        )

    @app.exception_handler(DBAPIError)
    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        # as text: a renderer that shows local variables would show keys
        trace = "".join(traceback.format_exception(error))
        log.error("unexpected_error", path=request.url.path, trace=trace)
        return problem(
            500,
            "An error of ours",
            "Something went wrong that this service did not foresee.",
            kind="internal",
            hint="Nothing was stored. The server's log has the trace: please report it.",
        )
