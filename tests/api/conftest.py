"""The whole application on a real database, called over HTTP."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.services.conftest import chinchilla_rows, write_corpora

HERE = "http://127.0.0.1"
MakeClient = Callable[[Settings], AbstractContextManager[TestClient]]


@contextmanager
def client_of(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    write_corpora(settings)
    with client_of(settings) as client:
        yield client


@pytest.fixture(scope="module")
def ladder(client: TestClient) -> dict[str, Any]:
    """A project of imported runs that follow the published Chinchilla law, and its first fit."""
    rows = chinchilla_rows(0.002)
    imported = client.post("/v1/imports", json={"project": "ladder", "rows": rows})
    assert imported.status_code == 201, imported.text
    fit = client.post(
        "/v1/fits",
        json={
            "law": "chinchilla",
            "project": "ladder",
            "validation_set": "validation",
            "draws": 50,
        },
    )
    assert fit.status_code == 201, fit.text
    return {"imported": imported.json(), "fit": fit.json(), "rows": rows}


@pytest.fixture
def csv_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "runs.csv"
        path.write_text(text)
        return path

    return write
