"""API keys: made once, shown once, kept as a digest."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Connection

from app.services import paging
from app.services.errors import ServiceError, not_found
from app.storage import keys as storage
from app.storage.errors import NotFound

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[str, ...] = get_args(Scope)
# A scope includes the ones before it.
_INCLUDES = {"read": {"read"}, "submit": {"read", "submit"}, "admin": {"read", "submit", "admin"}}
PREFIX = "sw_"
SHOWN_CHARACTERS = 8
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Caller:
    """Who sent a request. `name` is "local" where no keys are asked for."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        return any(scope in _INCLUDES.get(held, ()) for held in self.scopes)


LOCAL = Caller("local", frozenset({"admin"}))


def digest_of(key: str) -> str:
    """SHA-256 is enough here: a key is 256 random bits, not a password that could be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()


def create(connection: Connection, name: str, scopes: list[str]) -> str:
    """A new key; the only time that its text is seen."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ServiceError(
            "invalid",
            f"{unknown[0] if unknown else 'No scope'} is not a scope.",
            f"Use one or more of {', '.join(SCOPES)}.",
            column="scopes",
        )
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS:
        raise ServiceError(
            "invalid",
            f"A key's name has 1 to {MAX_NAME_CHARACTERS} characters.",
            "Name whoever holds the key, so that it can be found and revoked.",
            column="name",
            value=name,
        )
    key = PREFIX + secrets.token_urlsafe(32)
    storage.create(connection, name, key[: len(PREFIX) + SHOWN_CHARACTERS], digest_of(key), scopes)
    return key


def find(connection: Connection, key: str) -> Caller | None:
    """The caller that holds the key; None if there is none or it was revoked."""
    found = storage.find_active(connection, digest_of(key))
    return None if found is None else Caller(found.name, frozenset(found.scopes))


def page(
    connection: Connection, *, cursor: str | None = None, limit: int = paging.DEFAULT_LIMIT
) -> paging.Page[storage.ApiKey]:
    """Newest first, the revoked ones too."""
    stored = storage.page(connection, after=paging.after_of(cursor), limit=limit)
    return paging.page_of(stored, lambda key: key)


def revoke(connection: Connection, key_id: int) -> None:
    """End a key; twice is harmless."""
    try:
        storage.revoke(connection, key_id)
    except NotFound:
        raise not_found("key", key_id) from None
