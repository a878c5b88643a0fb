"""Server-sent events: a first look, then what happens, then the end. No announcement is missed."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app.services import jobs
from app.storage import recording
from app.storage.recording import Batch
from tests.services.conftest import SPEC, chinchilla_rows


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


@pytest.mark.timeout(60)
def test_a_run_is_followed_to_its_end(
    client: TestClient, engine: Engine, sweep: dict[str, Any]
) -> None:
    runs = client.get("/v1/runs", params={"sweep_id": sweep["id"], "kind": "trunk"}).json()
    run_id = runs["items"][0]["id"]

    def train() -> None:
        with engine.begin() as connection:
            attempt = recording.claim_run(connection, run_id, "worker")
        assert attempt is not None
        for start in (1, 51):
            time.sleep(0.3)
            points = [
                (step, 1024.0 * step, 6 - step / 100, 0.01) for step in range(start, start + 50)
            ]
            with engine.begin() as connection:
                recording.record(connection, run_id, attempt, Batch(points=points))
        with engine.begin() as connection:
            recording.finish_run(connection, run_id, attempt)

    worker = threading.Thread(target=train)
    worker.start()
    seen = list(events_of(client, f"/v1/runs/{run_id}/events"))
    worker.join()
    steps = [step for event, data, _ in seen if event == "points" for step in data["step"]]
    assert steps == list(range(1, 101)), "every step once"
    statuses = [data["status"] for event, data, _ in seen if event == "run"]
    assert statuses[0] in ("queued", "running") and statuses[-1] == "finished"
    assert seen[-1][:2] == ("end", {"status": "finished"})

    again = list(events_of(client, f"/v1/runs/{run_id}/events", **{"Last-Event-ID": "90"}))
    steps = [step for event, data, _ in again if event == "points" for step in data["step"]]
    assert steps == list(range(91, 101))


@pytest.mark.timeout(60)
def test_a_sweep_ends_when_its_runs_have(client: TestClient, sweep: dict[str, Any]) -> None:
    stop = threading.Timer(0.5, lambda: client.post(f"/v1/sweeps/{sweep['id']}/cancel"))
    stop.start()
    seen = list(events_of(client, f"/v1/sweeps/{sweep['id']}/events"))
    stop.join()
    assert seen[0][0] == "sweep" and not seen[0][1]["progress"]["ended"]
    assert seen[-1][0] == "end" and seen[-1][1]["ended"]


@pytest.mark.timeout(60)
def test_a_job_ends_with_its_result(client: TestClient, engine: Engine) -> None:
    points = [{name: row[name] for name in ("N", "D", "loss")} for row in chinchilla_rows(0.001)]
    queued = client.post(
        "/v1/fits",
        json={"law": "chinchilla", "points": points, "draws": 0},
        headers={"Prefer": "respond-async"},
    ).json()
    work = threading.Timer(0.5, lambda: jobs.perform(engine, queued["id"]))
    work.start()
    seen = list(events_of(client, f"/v1/jobs/{queued['id']}/events"))
    work.join()
    assert seen[0][1]["status"] == "queued"
    assert seen[-1][0] == "end" and seen[-1][1]["result"]["url"].startswith("/v1/fits/")
