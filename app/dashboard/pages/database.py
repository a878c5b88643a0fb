"""Where pages get their connection from."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from sqlalchemy import Connection


@contextmanager
def reading(request: Request) -> Iterator[Connection]:
    """A connection for one page; pages write nothing."""
    with request.app.state.engine.connect() as connection:
        yield connection
