"""The dashboard on a real database, without the rest of the service."""

import re
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


def page(pages: TestClient, address: str, status: int = 200) -> str:
    """A page's text, held to what all pages keep: no script but our own files and JSON, which is
    not run, and a name for every table and field."""
    answer = pages.get(address)
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe-eval" not in answer.headers["content-security-policy"]
    for kind in re.findall(r"<script([^>]*)>", answer.text):
        assert 'src="/static/' in kind or 'type="application/json"' in kind
    assert " onclick" not in answer.text and "javascript:" not in answer.text
    for table in re.findall(r"<table>(.*?)</table>", answer.text, re.S):
        assert "<caption>" in table
    for field in re.findall(r'<(?:select|input type="text") id="([^"]+)"', answer.text):
        assert f'<label for="{field}"' in answer.text
    return answer.text


@pytest.fixture(scope="module")
def seeded(engine: Engine) -> Seeded:
    with engine.begin() as connection:
        return seed(connection)
