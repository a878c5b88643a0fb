"""What was answered to an `Idempotency-Key`, so that the same request gets the same answer."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from app.services.errors import ServiceError
from app.storage import idempotency as storage

# Nobody repeats a request after so long; then its key is free again.
KEPT_FOR = timedelta(days=7)


@dataclass(frozen=True)
class Stored:
    status_code: int
    response: dict[str, Any]


def claim(connection: Connection, key: str, scope: str, digest: str) -> Stored | None:
    """None: the key is ours and the work is to be done. Else what was answered before.

    Waits while another transaction holds the key. Raises ServiceError (conflict) where the key
    came with another body.
    """
    row = storage.claim(connection, key, scope, digest)
    if row is None:
        return None
    if row["request_digest"] != digest:
        raise ServiceError(
            "conflict",
            f"Idempotency-Key {key!r} was used before with another body.",
            "Send the same body to get the same answer, or a new key for a new request.",
            column="Idempotency-Key",
            value=key,
        )
    return Stored(row["status_code"], row["response"])


def keep(
    connection: Connection, key: str, scope: str, status_code: int, response: dict[str, Any]
) -> None:
    """Store the answer beside the claim, in the same transaction as the work."""
    storage.keep(connection, key, scope, status_code, response)


def sweep(connection: Connection) -> int:
    """Forget the answers that are older than a week; how many."""
    return storage.forget(connection, KEPT_FOR)
