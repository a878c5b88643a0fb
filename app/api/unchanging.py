"""What never changes once it is stored: its ETag holds for ever."""

import hashlib
from datetime import datetime
from typing import Any, Protocol

from fastapi import Response

UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "If-None-Match has its ETag: nothing has changed."}
}


class Unchanging(Protocol):
    """A fit, link or task; its document has `draws` where they were asked for."""

    @property
    def id(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def document(self) -> dict[str, Any]: ...
    @property
    def created_at(self) -> datetime: ...


def etag_of(one: Unchanging) -> str:
    has_draws = "draws" in one.document
    text = f"{type(one).__name__} {one.id} {one.digest} {one.created_at.isoformat()} {has_draws}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def unchanged(one: Unchanging, response: Response, if_none_match: str) -> Response | None:
    """304 for a caller who has it; else None, and `response` says how long it may be kept."""
    etag = etag_of(one)
    headers = {"ETag": etag, "Cache-Control": "private, max-age=31536000, immutable"}
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return None
