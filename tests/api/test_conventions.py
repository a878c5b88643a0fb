"""What every route promises: problem documents, keys that make twice once, pages, limits."""

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from app import main
from app.api import errors
from app.errors import KINDS
from app.settings import Settings
from fitting.errors import KINDS as FITTING_KINDS
from tests.api.conftest import client_of


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"] == f"urn:scalewright:error:{body['kind']}"
    assert body["title"] and body["detail"] and body["hint"]
    return dict(body)


def test_every_kind_of_refusal_has_a_status() -> None:
    assert set(errors.STATUS) == set(KINDS)
    assert all(400 <= status < 600 for status, _ in errors.STATUS.values())
    assert FITTING_KINDS and errors.FITTING_STATUS == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/projects/nobody", None, 404),
        ("GET", "/v1/runs/999999", None, 404),
        ("GET", "/v1/runs/999999/events", None, 404),
        ("GET", "/v1/runs/0", None, 422),
        ("GET", "/v1/runs/99999999999999999999", None, 422),
        ("GET", "/v1/runs?project=nobody", None, 404),
        ("GET", "/v1/runs?limit=0", None, 422),
        ("GET", "/v1/runs?cursor=garbage", None, 422),
        ("GET", "/v1/fits/999999", None, 404),
        ("GET", "/v1/laws/newton", None, 404),
        ("PUT", "/v1/projects", {}, 405),
        ("POST", "/v1/projects", {"name": ""}, 422),
        ("POST", "/v1/projects", {"name": "a\u0000b"}, 422),
        ("POST", "/v1/projects", {"name": "x", "description": "\u0000"}, 422),
        ("POST", "/v1/projects", {"name": "x", "colour": "red"}, 422),
        ("POST", "/v1/fits", {"law": "newton", "points": [{"x": 1.0}]}, 422),
        ("POST", "/v1/fits", {"law": "chinchilla"}, 422),
        ("POST", "/v1/fits", {"law": "chinchilla", "points": [{"N": 1.0, "D": 1.0}]}, 422),
        ("POST", "/v1/predictions", {"fit": 999999, "at": {"N": [1.0], "D": [1.0]}}, 404),
        ("POST", "/v1/sweeps", {"project": "nobody", "name": "s"}, 422),
    ],
)
def test_a_refusal_is_a_problem_document(
    client: TestClient, method: str, path: str, body: Any, status: int
) -> None:
    problem(client.request(method, path, json=body), status)


def test_a_body_that_is_no_json_is_a_problem(client: TestClient) -> None:
    answer = client.post("/v1/projects", content=b"{", headers={"content-type": "application/json"})
    assert problem(answer, 422)["errors"]


def test_an_unsupported_body_is_415(client: TestClient) -> None:
    problem(client.post("/v1/imports", content=b"x", headers={"content-type": "text/plain"}), 415)


def test_few_points_name_the_numbers(client: TestClient) -> None:
    points = [{"N": 1e8, "D": 1e9, "loss": 3.0}, {"N": 2e8, "D": 1e9, "loss": 2.9}]
    body = problem(client.post("/v1/fits", json={"law": "chinchilla", "points": points}), 422)
    assert "5" in body["detail"] and "2" in body["detail"]


def test_a_point_that_is_not_a_number_names_its_row(client: TestClient) -> None:
    points: list[dict[str, Any]] = [{"N": 1e8, "D": 1e9, "loss": 3.0} for _ in range(4)]
    points[2]["loss"] = "three"
    body = problem(client.post("/v1/fits", json={"law": "chinchilla", "points": points}), 422)
    assert (body["row"], body["column"], body["value"]) == (3, "loss", "three")


def test_the_same_key_creates_once(client: TestClient, engine: Engine) -> None:
    key = {"Idempotency-Key": "one"}
    first = client.post("/v1/projects", json={"name": "once"}, headers=key)
    again = client.post("/v1/projects", content=b'{ "name" :"once"}', headers={
        **key, "content-type": "application/json"})  # fmt: skip
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert again.headers["location"] == first.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    with engine.begin() as connection:
        made = connection.execute(text("select count(*) from projects where name = 'once'"))
        assert made.scalar_one() == 1


def test_the_same_key_with_another_body_is_refused(client: TestClient) -> None:
    key = {"Idempotency-Key": "two"}
    assert client.post("/v1/projects", json={"name": "two"}, headers=key).status_code == 201
    problem(client.post("/v1/projects", json={"name": "three"}, headers=key), 409)


def test_an_error_keeps_no_key(client: TestClient) -> None:
    key = {"Idempotency-Key": "four"}
    problem(client.post("/v1/projects", json={"name": ""}, headers=key), 422)
    assert client.post("/v1/projects", json={"name": "four"}, headers=key).status_code == 201
    problem(client.post("/v1/projects", json={"name": "x"}, headers={"Idempotency-Key": ""}), 422)


def test_two_equal_requests_at_once_create_once(client: TestClient) -> None:
    answers: list[Any] = []

    def send() -> None:
        answers.append(
            client.post("/v1/projects", json={"name": "race"}, headers={"Idempotency-Key": "race"})
        )

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_pages_cover_everything_once_while_rows_are_added(client: TestClient) -> None:
    for i in range(7):
        client.post("/v1/projects", json={"name": f"page {i}"})
    seen: list[int] = []
    cursor: str | None = None
    while True:
        parameters: dict[str, Any] = {"limit": 3}
        if cursor:
            parameters["cursor"] = cursor
        page = client.get("/v1/projects", params=parameters).json()
        seen += [item["id"] for item in page["items"]]
        client.post("/v1/projects", json={"name": f"meanwhile {len(seen)}"})
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) and seen == sorted(seen, reverse=True)
    assert len(seen) >= 7


def test_a_body_past_the_limit_is_413(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "MAX_BODY_BYTES", 1000)
    with client_of(settings) as client:
        problem(client.post("/v1/projects", json={"name": "x", "description": "y" * 2000}), 413)


def test_a_page_of_another_site_cannot_reach_a_server_without_keys(client: TestClient) -> None:
    rebound = client.get("/v1/projects", headers={"host": "evil.example"})
    assert problem(rebound, 403)["kind"] == "forbidden"
    posted = client.post(
        "/v1/projects", json={"name": "evil"}, headers={"origin": "https://evil.example"}
    )
    problem(posted, 403)
    local = client.get("/v1/projects", headers={"host": "localhost:8421"})
    assert local.status_code == 200


def test_health_and_metrics(client: TestClient) -> None:
    health = client.get("/v1/health").json()
    assert health["status"] in ("ok", "degraded") and health["database"].startswith("postgresql ")
    client.get("/v1/runs/999999")
    scraped = client.get("/metrics")
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")
    line = 'scalewright_http_requests_total{method="GET",route="/v1/runs/{run_id}",status="404"}'
    assert line in scraped.text
    assert "scalewright_curve_points" in scraped.text


def test_the_documentation_asks_no_other_machine(client: TestClient) -> None:
    for path in ("/docs", "/redoc"):
        page = client.get(path)
        assert page.status_code == 200
        assert "https://" not in page.text.replace("https://fonts", "https://fonts"), path


@pytest.mark.parametrize("name", ["law", "project"])
def test_a_nul_in_the_address_is_refused(client: TestClient, name: str) -> None:
    refused = client.get("/v1/fits", params={name: "a\x00b"})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert "NUL" in refused.json()["detail"]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "twice"}], ids=["plain", "idempotent"])
def test_a_name_that_is_given_twice_is_refused_whole(
    client: TestClient, key: dict[str, str]
) -> None:
    headers = {"content-type": "application/json", **key}
    for body in (
        b'{"name": "first of two", "name": "second of two"}',
        b'{"project": "p", "rows": [{"N": 1e8, "D": 2e9, "loss": 3.1, "loss": 2.1}]}',
    ):
        path = "/v1/imports" if b"rows" in body else "/v1/projects"
        said = problem(client.post(path, content=body, headers=headers), 422)
        assert "is named more than once" in said["detail"]
    names = [one["name"] for one in client.get("/v1/projects").json()["items"]]
    assert not {"p", "first of two", "second of two"} & set(names)
    broken = problem(client.post("/v1/projects", content=b'{"name": ', headers=headers), 422)
    assert "Expecting value" in broken["detail"]
    once = client.post("/v1/projects", json={"name": f"named once {key}"}, headers=key)
    assert once.status_code == 201


def test_a_body_may_begin_with_a_mark_and_must_be_utf_8(client: TestClient) -> None:
    """Some editors and shells write a byte order mark before what they save."""
    headers = {"content-type": "application/json"}
    marked = b'\xef\xbb\xbf{"name": "marked"}'
    assert client.post("/v1/projects", content=marked, headers=headers).status_code == 201
    latin = '{"name": "café"}'.encode("latin-1")
    refused = client.post("/v1/projects", content=latin, headers=headers)
    assert refused.status_code in (400, 422)
    assert refused.headers["content-type"] == "application/problem+json"
