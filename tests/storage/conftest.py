"""Rows that most storage tests start from."""

import itertools
from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from app.storage import projects, runs

_numbers = itertools.count(1)

MakeRun = Callable[..., runs.Run]


def make_run(connection: Connection, **given: object) -> runs.Run:
    """A queued run in a project of its own, unless told otherwise."""
    number = next(_numbers)
    if "project_id" not in given:
        given["project_id"] = projects.create(connection, f"project {number}").id
    return runs.create(
        connection,
        runs.NewRun(**{"name": f"run {number}", "status": "queued", **given}),  # type: ignore[arg-type]
    )


@pytest.fixture
def run(connection: Connection) -> runs.Run:
    return make_run(connection)
