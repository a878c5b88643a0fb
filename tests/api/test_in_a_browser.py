"""What a person at a browser is told when something is wrong, and the one button that acts."""

import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, Engine, text

from app.services import overview
from app.storage import projects, runs
from tests.api.conftest import HERE

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def words_of(page: str) -> str:
    """What is read in the page's main part."""
    assert page.startswith("<!doctype html>")
    main = re.search(r"<main.*?</main>", page, re.S)
    assert main is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", main[0]))


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/nope", 404, "The menu above leads to every page"),
        ("/runs/abc", 422, "path.run_id: Input should be a valid integer"),
        ("/runs?before=x", 422, "Check the address"),
        ("/runs?project=%00", 422, "NUL character"),
        ("/runs/99999999999999999999", 422, "less than or equal to 9223372036854775807"),
        ("/runs/7777/retry", 405, "Method Not Allowed"),
    ],
)
def test_a_page_says_what_is_wrong_in_words(
    client: TestClient, path: str, status: int, says: str
) -> None:
    answer = client.get(path, headers=BROWSER)
    assert answer.status_code == status
    assert says in words_of(answer.text)
    assert "openapi" not in words_of(answer.text), "words for programs"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    # a program is told as ever, and so is a browser that looks at what is for programs
    assert client.get(path).headers["content-type"] == "application/problem+json"
    rest = client.get("/v1/runs/7777", headers=BROWSER)
    assert rest.headers["content-type"] == "application/problem+json"


def test_an_error_of_ours_is_a_page_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(overview, "sweeps", broken)
    answer = client.get("/sweeps/1", headers=BROWSER)
    assert answer.status_code == 500
    assert "The server's log has the trace" in words_of(answer.text).replace("&#39;", "'")
    assert "secret" not in answer.text


@pytest.fixture
def failed(engine: Engine, request: pytest.FixtureRequest) -> int:
    """A run that failed."""
    with engine.begin() as connection:
        project = projects.create(connection, request.node.name)
        run = runs.create(connection, runs.NewRun(project.id, "broke", status="failed", steps=10))
        connection.execute(
            text("update runs set message = 'The GPU fell off.', failures = 3 where id = :i"),
            {"i": run.id},
        )
        return run.id


def waiting(connection: Connection, run_id: int) -> int:
    jobs = text(
        "select count(*) from procrastinate_jobs where (args ->> 'run_id')::bigint = :i "
        "and status = 'todo'"
    )
    return int(connection.execute(jobs, {"i": run_id}).scalar_one())


def test_a_failed_run_is_queued_again_from_its_page(
    client: TestClient, engine: Engine, failed: int
) -> None:
    page = client.get(f"/runs/{failed}", headers=BROWSER).text
    action = re.search(r'<form[^>]* method="post" action="([^"]+)"><button>Train again', page)
    assert action is not None and "The GPU fell off." in page
    # not for a page of another site, though no key is asked for here
    evil = {**BROWSER, "origin": "http://127.0.0.1:9999", "sec-fetch-site": "same-site"}
    refused = client.post(action[1], headers=evil)
    assert refused.status_code == 403 and "another site" in words_of(refused.text)
    own = {**BROWSER, "origin": HERE, "sec-fetch-site": "same-origin"}
    pressed = client.post(action[1], headers=own, follow_redirects=False)
    assert (pressed.status_code, pressed.headers["location"]) == (303, f"/runs/{failed}")
    with engine.begin() as connection:
        assert runs.get(connection, failed).status == "queued"
        assert waiting(connection, failed) == 1
    again = client.get(f"/runs/{failed}", headers=BROWSER).text
    assert "Train again" not in again and "The GPU fell off." not in again
    # pressed in two windows: once
    twice = client.post(action[1], headers=own)
    assert twice.status_code == 409 and "is queued" in words_of(twice.text)
    with engine.begin() as connection:
        assert waiting(connection, failed) == 1


def test_what_does_not_match_is_named_as_it_was_sent(client: TestClient) -> None:
    rows = [{"N": 1e8, "D": 2e9, "loss": 3.0}]
    answer = client.post("/v1/imports", json={"project": "", "rows": rows}).json()
    assert answer["detail"].startswith("body.project: String should have at least 1 char")
