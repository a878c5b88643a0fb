"""`Idempotency-Key`: a creating POST that is sent twice creates once.

The key is claimed, the work done and the answer kept in ONE transaction. A second request with
the same key waits on the first one's row, then gets its stored answer; with another body it is
refused. An error stores nothing, so the same key may try again.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from app.importers.jsonl import named_once
from app.services import idempotency
from app.services.errors import ServiceError

HEADER = "Idempotency-Key"
MAX_KEY = 255
REPLAYED = "Idempotency-Replayed"
KEPT_HEADERS = ("location", "etag", "preference-applied")
# Each of these holds a database connection while it waits for a thread.
_MOST_AT_ONCE = 4


class NamedOnceRequest(Request):
    """Refuses a JSON object that names a member twice, of which the last would win in silence."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = json.loads(await self.body(), object_pairs_hook=named_once)
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise
            except ValueError as error:
                # the one error of a body that the framework passes on with its sentence
                raise json.JSONDecodeError(str(error), "", 0) from None
        return self._json


class IdempotentRoute(APIRoute):
    """The route class of every router that takes bodies: it acts on POSTs that carry the header,
    and reads JSON in which every name is given once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def idempotent(plain: Request) -> Response:
            request = NamedOnceRequest(plain.scope, plain.receive)
            key = request.headers.get(HEADER)
            if key is None or request.method != "POST":
                return await handler(request)
            return await _once(request, _checked(key), handler)

        return idempotent


async def _once(
    request: Request, key: str, handler: Callable[[Request], Coroutine[Any, Any, Response]]
) -> Response:
    scope = _scope(request)
    digest = _digest(await request.body(), request.headers.get("content-type", ""))
    limit: anyio.CapacityLimiter = request.app.state.idempotent_limiter
    async with limit:
        transaction = await run_in_threadpool(request.app.state.engine.begin)
        connection = await run_in_threadpool(transaction.__enter__)
        try:
            stored = await run_in_threadpool(idempotency.claim, connection, key, scope, digest)
            if stored is not None:
                response = _replayed(stored)
            else:
                request.state.connection = connection
                response = await handler(request)
                await run_in_threadpool(
                    idempotency.keep, connection, key, scope, response.status_code, _kept(response)
                )
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(
                    transaction.__exit__, type(error), error, error.__traceback__
                )
            raise
        await run_in_threadpool(transaction.__exit__, None, None, None)
        return response


def limiter() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(_MOST_AT_ONCE)


def _checked(key: str) -> str:
    if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise ServiceError(
            "invalid",
            f"The {HEADER} is not 1 to {MAX_KEY} printable ASCII characters.",
            "Send a UUID.",
            column=HEADER,
            value=key,
        )
    return key


def _scope(request: Request) -> str:
    """Two callers, or two paths, never share a key."""
    said = request.headers.get("authorization", "") + request.headers.get("cookie", "")
    caller = hashlib.sha256(said.encode()).hexdigest()[:32] if said else "local"
    return f"{caller} {request.method} {request.url.path}?{request.url.query}"


def _digest(body: bytes, content_type: str) -> str:
    """The same JSON written differently is the same body; a form's boundary is no part of it."""
    if content_type.startswith("application/json"):
        with contextlib.suppress(ValueError, RecursionError):
            body = json.dumps(json.loads(body), sort_keys=True).encode("utf-8", "replace")
    elif "boundary=" in content_type:
        boundary = content_type.split("boundary=", 1)[1].split(";")[0].strip('" ')
        body = body.replace(boundary.encode("latin-1"), b"boundary")
    return hashlib.sha256(body).hexdigest()


def _kept(response: Response) -> dict[str, Any]:
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    return {"body": bytes(response.body).decode("utf-8"), "headers": headers}


def _replayed(stored: idempotency.Stored) -> Response:
    return Response(
        stored.response["body"],
        stored.status_code,
        headers={**stored.response["headers"], REPLAYED: "true"},
        media_type="application/json",
    )
