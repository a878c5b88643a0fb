"""Pages of a list, newest first. A cursor is opaque, and stays good while rows are added."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.services.errors import ServiceError
from app.storage.rows import Page as StoredPage

DEFAULT_LIMIT = 50
MAX_LIMIT = 500

Item = TypeVar("Item")
Stored = TypeVar("Stored")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """items, newest first, and the cursor that asks for the next ones (None: no more)."""

    items: list[Item]
    next_cursor: str | None


def cursor_of(last_id: int) -> str:
    return base64.urlsafe_b64encode(f"before:{last_id}".encode()).decode().rstrip("=")


def after_of(cursor: str | None) -> int | None:
    """The id after which (going down) the next page starts; None for the first page."""
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        word, _, last = text.partition(":")
        if word != "before" or not last.isdecimal() or not 0 < int(last) < 2**63:
            raise ValueError(text)
        return int(last)
    except (ValueError, binascii.Error):
        raise ServiceError(
            "invalid",
            "That cursor is not one of ours.",
            "Use next_cursor of the page before, unchanged, or leave it out for the first page.",
            column="cursor",
            value=cursor,
        ) from None


def page_of(stored: StoredPage[Stored], shown: Callable[[Stored], Item]) -> Page[Item]:
    """A page of storage as a page of `shown` items."""
    return Page(
        [shown(item) for item in stored.items],
        None if stored.next is None else cursor_of(stored.next),
    )
