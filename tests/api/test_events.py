"""Server-sent events: a first look, then what happens, then the end. No announcement is missed."""

import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import Engine, text
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import auth
from app.main import create_app
from app.services import jobs, keys
from app.settings import Settings
from app.storage import recording, runs
from app.storage.recording import Batch
from app.storage.runs import NewRun
from tests.api.conftest import HERE
from tests.services.conftest import SPEC, chinchilla_rows, write_corpora

# nobody waits that long: a stream that hangs is to fail, not to hold up the suite
HANGS = pytest.mark.timeout(300)


class Overheard:
    """The application, and what it sends as it sends it.

    The test client hands an answer over when it is whole; what is to happen while a stream is open
    has to wait for the stream's own words, on this side of the client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.words: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def overheard(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                self.words.put(message.get("body", b""))

        await self.app(scope, receive, overheard)

    def forget(self) -> None:
        while not self.words.empty():
            self.words.get()

    def wait_for(self, event: str) -> None:
        while f"event: {event}\n".encode() not in self.words.get(timeout=120):
            pass


@pytest.fixture(scope="module")
def server(settings: Settings) -> Overheard:
    return Overheard(create_app(settings))


@pytest.fixture(scope="module")
def client(settings: Settings, server: Overheard) -> Iterator[TestClient]:
    write_corpora(settings)
    with TestClient(server, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """A thread for what happens while the test reads a stream."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def events_of(client: TestClient, path: str, **headers: str) -> Iterator[tuple[str, Any, str]]:
    """(event, data, id) until the stream ends."""
    with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        event, data, last_id = "", "", ""
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                data += value
            elif name == "id":
                last_id = value
            elif not line and event:
                yield event, json.loads(data), last_id
                event = data = ""


@pytest.fixture(scope="module")
def sweep(client: TestClient) -> dict[str, Any]:
    client.post("/v1/projects", json={"name": "streams"})
    made = client.post("/v1/sweeps", json={"project": "streams", "name": "s", **SPEC})
    assert made.status_code == 201, made.text
    return dict(made.json())


@HANGS
def test_a_run_is_followed_to_its_end(
    client: TestClient,
    server: Overheard,
    beside: ThreadPoolExecutor,
    engine: Engine,
    sweep: dict[str, Any],
) -> None:
    runs = client.get("/v1/runs", params={"sweep_id": sweep["id"], "kind": "trunk"}).json()
    run_id = runs["items"][0]["id"]

    def train() -> None:
        server.wait_for("run")
        with engine.begin() as connection:
            attempt = recording.claim_run(connection, run_id, "worker")
        assert attempt is not None
        points = [(step, 1024.0 * step, 6 - step / 100, 0.01) for step in range(1, 101)]
        with engine.begin() as connection:
            recording.record(connection, run_id, attempt, Batch(points=points[:50]))
        server.wait_for("points")
        with engine.begin() as connection:
            recording.record(connection, run_id, attempt, Batch(points=points[50:]))
            recording.finish_run(connection, run_id, attempt)

    server.forget()
    training = beside.submit(train)
    seen = list(events_of(client, f"/v1/runs/{run_id}/events"))
    training.result()
    steps = [step for event, data, _ in seen if event == "points" for step in data["step"]]
    assert steps == list(range(1, 101)), "every step once"
    assert [event for event, _, _ in seen].count("points") == 2
    statuses = [data["status"] for event, data, _ in seen if event == "run"]
    assert statuses[0] == "queued" and statuses[-1] == "finished"
    assert seen[-1][:2] == ("end", {"status": "finished"})

    again = list(events_of(client, f"/v1/runs/{run_id}/events", **{"Last-Event-ID": "90"}))
    steps = [step for event, data, _ in again if event == "points" for step in data["step"]]
    assert steps == list(range(91, 101))


@HANGS
def test_a_sweep_ends_when_its_runs_have(
    client: TestClient, server: Overheard, beside: ThreadPoolExecutor, sweep: dict[str, Any]
) -> None:
    def cancel() -> None:
        server.wait_for("sweep")
        client.post(f"/v1/sweeps/{sweep['id']}/cancel").raise_for_status()

    server.forget()
    cancelling = beside.submit(cancel)
    seen = list(events_of(client, f"/v1/sweeps/{sweep['id']}/events"))
    cancelling.result()
    assert seen[0][0] == "sweep" and not seen[0][1]["progress"]["ended"]
    assert seen[-1][0] == "end" and seen[-1][1]["ended"]


@HANGS
def test_a_job_ends_with_its_result(
    client: TestClient, server: Overheard, beside: ThreadPoolExecutor, engine: Engine
) -> None:
    points = [{name: row[name] for name in ("N", "D", "loss")} for row in chinchilla_rows(0.001)]
    queued = client.post(
        "/v1/fits",
        json={"law": "chinchilla", "points": points, "draws": 0},
        headers={"Prefer": "respond-async"},
    ).json()

    def work() -> None:
        server.wait_for("job")
        jobs.perform(engine, queued["id"])

    server.forget()
    working = beside.submit(work)
    seen = list(events_of(client, f"/v1/jobs/{queued['id']}/events"))
    working.result()
    assert seen[0][1]["status"] == "queued"
    assert seen[-1][0] == "end" and seen[-1][1]["result"]["url"].startswith("/v1/fits/")


@HANGS
def test_a_stream_ends_when_its_key_is_revoked(
    settings: Settings,
    beside: ThreadPoolExecutor,
    engine: Engine,
    sweep: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "REMEMBER_SECONDS", 0.0)
    guarded = settings.model_copy(
        update={"auth": "keys", "admin_key": SecretStr("a" * 40), "host": "0.0.0.0"}
    )
    with engine.begin() as connection:
        key = keys.create(connection, "short-lived", ["read"])
        run_id = runs.create(
            connection, NewRun(sweep["project_id"], "waits", status="planned", steps=10)
        ).id
    server = Overheard(create_app(guarded))

    def revoke() -> None:
        server.wait_for("run")
        with engine.begin() as connection:
            connection.execute(text("update api_keys set revoked_at = now()"))
            connection.execute(text("update runs set step = step where id = :i"), {"i": run_id})

    with TestClient(server, base_url=HERE) as client:
        revoking = beside.submit(revoke)
        bearer = f"Bearer {key}"
        seen = list(events_of(client, f"/v1/runs/{run_id}/events", authorization=bearer))
        revoking.result()
        assert [event for event, _, _ in seen] == ["run"]
        refused = client.get("/v1/runs/1/events", headers={"authorization": bearer})
        assert refused.status_code == 401
