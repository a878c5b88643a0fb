"""Where pages get their connection from, and what an id in an address may be."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import Field
from sqlalchemy import Connection

from app.services.errors import ServiceError

Found = TypeVar("Found")

Id = Annotated[int, Field(le=2**63 - 1)]
"""More than Postgres' bigint holds is refused before it is asked for."""


def id_of(text: str) -> int | None:
    """The id in a query; None for what is none, or is more than a bigint may hold."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


def asked_or_newest(
    asked: str | None, newest: Sequence[Found], get: Callable[[int], Found | None]
) -> Found | None:
    """What a query asks for by its id, else the first of `newest`; None where there is none."""
    if asked is None:
        return newest[0] if newest else None
    number = id_of(asked)
    try:
        return None if number is None else get(number)
    except ServiceError:
        return None


@contextmanager
def reading(request: Request) -> Iterator[Connection]:
    """A connection for one page; what is only shown writes nothing."""
    with request.app.state.engine.connect() as connection:
        yield connection
