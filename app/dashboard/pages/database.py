"""Where pages get their connection from, and what an id in an address may be."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Request
from pydantic import Field
from sqlalchemy import Connection

Id = Annotated[int, Field(le=2**63 - 1)]
"""More than Postgres' bigint holds is refused before it is asked for."""


@contextmanager
def reading(request: Request) -> Iterator[Connection]:
    """A connection for one page; what is only shown writes nothing."""
    with request.app.state.engine.connect() as connection:
        yield connection
