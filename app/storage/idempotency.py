"""What was answered to an Idempotency-Key, in the transaction that did the work."""

from datetime import timedelta
from typing import Any, TypedDict

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.storage.tables import idempotency_keys


class Claimed(TypedDict):
    request_digest: str
    status_code: int
    response: Any


def claim(connection: Connection, key: str, route: str, request_digest: str) -> Claimed | None:
    """None: the key is the caller's, and so is the work. Else what was answered before.

    While another transaction holds the key this waits for it, so that two equal requests at once
    do the work once. If that transaction rolls back, the key is the caller's.
    """
    mine = connection.execute(
        insert(idempotency_keys)
        .values(key=key, route=route, request_digest=request_digest)
        .on_conflict_do_nothing()
        .returning(idempotency_keys.c.key)
    ).one_or_none()
    if mine is not None:
        return None
    row = connection.execute(
        select(
            idempotency_keys.c.request_digest,
            idempotency_keys.c.status_code,
            idempotency_keys.c.response,
        ).where(idempotency_keys.c.key == key, idempotency_keys.c.route == route)
    ).one()
    return Claimed(
        request_digest=row.request_digest, status_code=row.status_code, response=row.response
    )


def keep(connection: Connection, key: str, route: str, status_code: int, response: Any) -> None:
    """Store the answer of the work that was claimed, in the same transaction."""
    connection.execute(
        update(idempotency_keys)
        .where(idempotency_keys.c.key == key, idempotency_keys.c.route == route)
        .values(status_code=status_code, response=response)
    )


def forget(connection: Connection, older_than: timedelta) -> int:
    """Delete the keys of requests so long ago that nobody repeats them; how many."""
    return connection.execute(
        delete(idempotency_keys).where(idempotency_keys.c.created_at < func.now() - older_than)
    ).rowcount
