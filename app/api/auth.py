"""Who may do what: bearer keys with scopes, or, without keys, this machine alone."""

import hmac
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.dependencies import DatabaseDep, SettingsDep
from app.api.errors import of_service_error
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
    # pages send the key as a cookie that no other site's page can make the browser send
    key = credentials.credentials if credentials else request.cookies.get(COOKIE)
    if not key:
        raise ServiceError(
            "unauthenticated", "This server asks for a key.", "Send Authorization: Bearer sw_..."
        )
    admin = settings.admin_key
    if admin and hmac.compare_digest(key.encode(), admin.get_secret_value().encode()):
        return keys.Caller("admin", frozenset({"admin"}))
    found = _remembered(request, key, database)
    if found is None:
        raise ServiceError(
            "unauthenticated",
            "That key is not known, or was revoked.",
            "Ask whoever runs this server for another.",
        )
    return found


def _remembered(request: Request, key: str, database: DatabaseDep) -> keys.Caller | None:
    memory: dict[str, tuple[float, keys.Caller]] = request.app.state.callers
    digest, now = keys.digest_of(key), time.monotonic()
    held = memory.get(digest)
    if held and held[0] > now:
        return held[1]
    with database.engine.begin() as connection:
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
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)
