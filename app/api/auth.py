"""Who may do what: bearer keys with scopes, or, without keys, this machine alone."""

import hmac
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.dependencies import DatabaseDep, SettingsDep
from app.api.errors import as_asked, of_service_error
from app.services import keys
from app.services.errors import ServiceError
from app.settings import is_loopback

COOKIE = "scalewright_key"
# A revoked key works for this long at most.
REMEMBER_SECONDS = 5.0
_MOST_REMEMBERED = 1000
_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer sw_...`")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def caller(
    request: Request, credentials: Credentials, database: DatabaseDep, settings: SettingsDep
) -> keys.Caller:
    """The caller of this request. Raises ServiceError (unauthenticated) without a good key."""
    if settings.auth == "none":
        return keys.LOCAL
    key = credentials.credentials if credentials else None
    if not key and (key := request.cookies.get(COOKIE)):
        # SameSite already keeps the cookie from what other sites' pages post; this from what those
        # of other ports do as well
        refuse_other_origins(request)
    if not key:
        raise ServiceError(
            "unauthenticated", "This server asks for a key.", "Send Authorization: Bearer sw_..."
        )
    admin = settings.admin_key
    if admin and hmac.compare_digest(key.encode(), admin.get_secret_value().encode()):
        return keys.Caller("admin", frozenset({"admin"}))
    found = _remembered(request, key, database.engine)
    if found is None:
        raise ServiceError(
            "unauthenticated",
            "That key is not known, or was revoked.",
            "Ask whoever runs this server for another.",
        )
    request.state.key = key
    return found


def still_known(request: Request) -> bool:
    """Whether the key of a request that goes on for long, a stream, has not been revoked since."""
    key: str | None = getattr(request.state, "key", None)
    return key is None or _remembered(request, key, request.app.state.engine) is not None


def refuse_other_origins(request: Request) -> None:
    """A page of another origin cannot act with what this browser holds. Reading is left to the
    browser's own rules. Raises ServiceError (forbidden)."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    # a proxy may rewrite Host, so what the browser itself says of the site goes first
    same = site in ("same-origin", "none") if site else _is_host(origin, request)
    if not same:
        raise ServiceError(
            "forbidden",
            "This request comes from a page of another site.",
            "Send the key as Authorization: Bearer sw_..., or use this server's own pages.",
            value=origin or site,
        )


def _is_host(origin: str | None, request: Request) -> bool:
    """Whether the origin is the host that was asked; programs that send no origin are no pages."""
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _remembered(request: Request, key: str, engine: Engine) -> keys.Caller | None:
    memory: dict[str, tuple[float, keys.Caller]] = request.app.state.callers
    digest, now = keys.digest_of(key), time.monotonic()
    held = memory.get(digest)
    if held and held[0] > now:
        return held[1]
    with engine.begin() as connection:
        found = keys.find(connection, key)
    if found is None:
        memory.pop(digest, None)
    else:
        if len(memory) >= _MOST_REMEMBERED:
            memory.clear()
        memory[digest] = (now + REMEMBER_SECONDS, found)
    return found


CallerDep = Annotated[keys.Caller, Depends(caller)]


def require(scope: keys.Scope) -> Callable[[keys.Caller], None]:
    """A dependency that lets callers with `scope` pass and refuses the others."""

    def check(caller: CallerDep) -> None:
        if not caller.may(scope):
            raise ServiceError(
                "forbidden",
                f"The key {caller.name!r} has no scope {scope!r}.",
                f"Use a key with the scope {scope}.",
                value=scope,
            )

    return check


READ = Depends(require("read"))
SUBMIT = Depends(require("submit"))
ADMIN = Depends(require("admin"))


class ThisMachineOnly:
    """Without keys, answer only what was addressed to this machine by a page of this machine.

    The socket is on the loopback already; this stops a web page elsewhere from reaching it
    through the visitor's browser (a name that is pointed at 127.0.0.1, a form that posts here).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host = urlsplit(f"//{headers.get(b'host', '')}").hostname or ""
            origin = headers.get(b"origin")
            origin_host = urlsplit(origin).hostname or "" if origin else host
            if not (is_loopback(host) and is_loopback(origin_host)):
                refusal = of_service_error(
                    ServiceError(
                        "forbidden",
                        "This server answers requests from its own machine only.",
                        "Open it as http://127.0.0.1, or set SCALEWRIGHT_AUTH=keys.",
                        value=origin or host,
                    )
                )
                await as_asked(Request(scope), refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)
