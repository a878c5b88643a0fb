"""API keys, as digests: whoever reads the database learns no key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import Conflict, NotFound
from app.storage.rows import Page, columns_of, page_of, value_of
from app.storage.tables import api_keys


@dataclass(frozen=True)
class ApiKey:
    """`prefix` is the key's first characters, to tell keys apart in a list."""

    id: int
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


def create(
    connection: Connection, name: str, prefix: str, digest: str, scopes: Sequence[str]
) -> ApiKey:
    """Keep a key by its digest: SHA-256 in hex, enough for a random key of 256 bits."""
    row = connection.execute(
        insert(api_keys)
        .values(name=name, prefix=prefix, digest=digest, scopes=list(scopes))
        .on_conflict_do_nothing()
        .returning(*columns_of(ApiKey, api_keys))
    ).one_or_none()
    if row is None:
        raise Conflict("API key", "this key is stored already")
    return value_of(ApiKey, row)


def find_active(connection: Connection, digest: str) -> ApiKey | None:
    """The key of that digest, unless it was revoked."""
    row = connection.execute(
        select(*columns_of(ApiKey, api_keys)).where(
            api_keys.c.digest == digest, api_keys.c.revoked_at.is_(None)
        )
    ).one_or_none()
    return None if row is None else value_of(ApiKey, row)


def page(connection: Connection, *, after: int | None = None, limit: int = 50) -> Page[ApiKey]:
    return page_of(connection, ApiKey, api_keys, after=after, limit=limit)


def revoke(connection: Connection, key_id: int) -> None:
    """End a key, at once and for ever; twice is harmless."""
    changed = connection.execute(
        update(api_keys)
        .where(api_keys.c.id == key_id)
        .values(revoked_at=func.coalesce(api_keys.c.revoked_at, func.now()))
    ).rowcount
    if not changed:
        raise NotFound("API key", key_id)
