"""The dashboard on a real database, without the rest of the service."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app import dashboard
from tests.dashboard.seeded import Seeded, seed


@pytest.fixture(scope="module")
def pages(engine: Engine) -> Iterator[TestClient]:
    """A client of the pages on this module's database."""
    application = FastAPI()
    application.include_router(dashboard.public_router)
    application.include_router(dashboard.router)
    application.state.engine = engine
    with TestClient(application) as client:
        yield client


@pytest.fixture(scope="module")
def seeded(engine: Engine) -> Seeded:
    with engine.begin() as connection:
        return seed(connection)
