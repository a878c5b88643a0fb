"""The main job over HTTP: import or sweep, fit, predict, allocate, forecast, score."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app.services import jobs, scheduling
from app.storage import recording
from app.storage.recording import Batch, EvaluationLine
from tests.services.conftest import SPEC


def test_a_fit_has_an_etag_that_holds(client: TestClient, ladder: dict[str, Any]) -> None:
    url = f"/v1/fits/{ladder['fit']['id']}"
    fit = client.get(url)
    assert fit.json()["run_ids"] == ladder["imported"]["run_ids"]
    assert "draws" not in fit.json()["document"]
    unchanged = client.get(url, headers={"If-None-Match": f'"other", {fit.headers["etag"]}'})
    assert unchanged.status_code == 304 and unchanged.content == b""
    with_draws = client.get(url, params={"draws": True})
    assert len(with_draws.json()["document"]["draws"]) == 50
    assert with_draws.headers["etag"] != fit.headers["etag"]
    points = client.get(f"{url}/points").json()["points"]
    assert len(points) == 24 and points[0]["inputs"]["N"] == pytest.approx(1e7)


def test_predictions_carry_interval_and_reach(client: TestClient, ladder: dict[str, Any]) -> None:
    fit_id = ladder["fit"]["id"]
    body = {"fit": fit_id, "points": [{"N": 1e10, "D": 1e12}], "keep": True}
    answer = client.post("/v1/predictions", json=body)
    assert answer.status_code == 201
    (one,) = answer.json()["predictions"]
    assert one["lower"] < one["loss"] < one["upper"]
    assert one["reach"] == {"N": pytest.approx(10.0), "D": pytest.approx(10.0)}
    kept = client.get(answer.headers["location"]).json()
    assert kept == answer.json()
    listed = client.get("/v1/predictions", params={"fit_id": fit_id}).json()["items"]
    assert kept in listed


def test_a_hundred_thousand_points_are_answered_and_more_are_refused(
    client: TestClient, ladder: dict[str, Any]
) -> None:
    at = {"N": [1e9 + i for i in range(100_000)], "D": [1e11]}
    answer = client.post("/v1/predictions", json={"fit": ladder["fit"]["id"], "at": at})
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 100_000
    at["N"].append(1.0)
    refused = client.post("/v1/predictions", json={"fit": ladder["fit"]["id"], "at": at})
    assert refused.status_code == 413


def test_an_allocation_spends_its_budget(client: TestClient, ladder: dict[str, Any]) -> None:
    fit_id = ladder["fit"]["id"]
    by_flops = client.post("/v1/allocations", json={"fit": fit_id, "budget_flops": 5.76e23}).json()
    optimal = by_flops["optimal"]
    assert 6 * optimal["N"] * optimal["D"] == pytest.approx(5.76e23, rel=1e-6)
    # GPU-hours: 5.76e23 / (989e12 * 0.4 * 3600)
    hours = 5.76e23 / (989e12 * 0.4 * 3600)
    by_hours = client.post("/v1/allocations", json={"fit": fit_id, "gpu_hours": hours}).json()
    assert by_hours["optimal"]["N"] == pytest.approx(optimal["N"], rel=1e-9)
    both = client.post(
        "/v1/allocations", json={"fit": fit_id, "gpu_hours": 1.0, "budget_flops": 1e20}
    )
    assert both.status_code == 422
    neither = client.post("/v1/allocations", json={"fit": fit_id})
    assert neither.status_code == 422 and "budget_flops" in neither.json()["detail"]


def test_a_file_is_imported_and_a_bad_one_leaves_nothing(client: TestClient) -> None:
    good = b"run,N,D,val_loss\na,1e8,2e9,3.2\nb,2e8,4e9,3.0\n"
    form = {"project": "files", "validation_set": "c4", "columns": json.dumps({"run": "run"})}
    made = client.post("/v1/imports", data=form, files={"file": ("runs.csv", good)})
    assert made.status_code == 201, made.text
    assert made.json()["columns"]["loss"] == "val_loss" and made.json()["n_runs"] == 2
    runs = client.get("/v1/runs", params={"project": "files"}).json()["items"]
    assert [run["losses"] for run in runs] == [{"c4": 3.0}, {"c4": 3.2}]
    assert runs[0]["loss"] == 3.0 and runs[0]["flops_6nd"] == 4.8e18

    bad = b"run,N,D,val_loss\nc,1e8,2e9,3.2\nd,2e8,4e9,nan\n"
    refused = client.post("/v1/imports", data=form, files={"file": ("more.csv", bad)})
    assert refused.status_code == 422
    assert (refused.json()["row"], refused.json()["value"]) == (3, "nan")
    after = client.get("/v1/runs", params={"project": "files"}).json()["items"]
    assert len(after) == 2
    twice = client.post("/v1/imports", data=form, files={"file": ("runs.csv", good)})
    assert twice.status_code == 409
    key = {"Idempotency-Key": "file"}
    lines = b'{"run": "e", "N": 1e8, "D": 2e9, "loss": 3.3}\n'
    sent = [
        client.post("/v1/imports", data=form, files={"file": ("x.jsonl", lines)}, headers=key)
        for _ in range(2)
    ]
    assert sent[0].status_code == 201 and sent[0].json() == sent[1].json()
    assert client.delete(f"/v1/imports/{made.json()['id']}").status_code == 204
    assert len(client.get("/v1/runs", params={"project": "files"}).json()["items"]) == 1


@pytest.mark.parametrize(
    ("form", "files", "column"),
    [
        ({"project": "files"}, {}, "file"),
        ({}, {"file": ("a.csv", b"N,D,loss\n1,2,3\n")}, None),
        ({"project": "files", "columns": "["}, {"file": ("a.csv", b"N,D,loss\n")}, "columns"),
        ({"project": "files", "loss_unit": "x"}, {"file": ("a.csv", b"N,D,loss\n")}, None),
        ({"project": "files", "format": "xls"}, {"file": ("a.csv", b"N,D,loss\n")}, None),
    ],
)
def test_a_form_that_is_not_whole_is_refused(
    client: TestClient, form: dict[str, str], files: Any, column: str | None
) -> None:
    files = files or {"other": ("a.csv", b"")}
    refused = client.post("/v1/imports", data=form, files=files)
    assert refused.status_code == 422 and refused.json().get("column") == column


def test_curves_are_read_back_reduced(client: TestClient) -> None:
    rows = [
        {"run": "long", "step": step, "loss": 3 + 5 / step, "lr": 0.01} for step in range(1, 3001)
    ]
    made = client.post("/v1/imports", json={"project": "curves", "rows": rows})
    assert made.status_code == 201 and made.json()["n_points"] == 3000
    run_id = made.json()["run_ids"][0]
    curve = client.get(f"/v1/runs/{run_id}/curve", params={"max_rows": 100}).json()
    assert curve["reduced"] and 20 < len(curve["step"]) <= 100
    assert sum(curve["n_points"]) == 3000 and curve["tokens"][0] is None
    exact = client.get(
        f"/v1/runs/{run_id}/curve", params={"after_step": 2990, "max_rows": 1000}
    ).json()
    assert exact["step"] == list(range(2991, 3001)) and not exact["reduced"]
    assert client.get(f"/v1/runs/{run_id}/metrics").json()["names"] == []
    assert client.get(f"/v1/runs/{run_id}/metrics/grad_norm").status_code == 404


def test_from_a_sweep_to_a_scored_forecast(
    client: TestClient, engine: Engine, ladder: dict[str, Any]
) -> None:
    client.post("/v1/projects", json={"name": "spine"})
    body = {"project": "spine", "name": "ladder", **SPEC}
    plan = client.post("/v1/sweeps", params={"dry_run": True, "processes": 2}, json=body)
    assert plan.status_code == 200, plan.text
    assert plan.json()["dry_run"] and plan.json()["estimate"]["seconds"] > 0
    assert client.get("/v1/sweeps", params={"project": "spine"}).json()["items"] == []
    sweep = client.post("/v1/sweeps", json=body)
    assert sweep.status_code == 201, sweep.text
    assert sweep.json()["progress"]["runs"] == len(plan.json()["runs"])
    runs = client.get("/v1/runs", params={"sweep_id": sweep.json()["id"], "kind": "branch"}).json()
    assert len(runs["items"]) == 6

    target = client.post(
        "/v1/runs",
        json={
            "project": "spine", "name": "target", "sweep": sweep.json()["id"],
            "size": {"d_model": 64, "n_layers": 2}, "budget_flops": 1e13, "hold": True,
        },
    ).json()  # fmt: skip
    assert target["status"] == "planned"
    asked = {"fit": ladder["fit"]["id"], "run": target["id"], "validation_set": "code"}
    forecast = client.post("/v1/forecasts", json=asked)
    assert forecast.status_code == 201, forecast.text
    made = forecast.json()
    assert made["made"] == "before_training" and made["actual"] is None

    # held until its forecast is written; released once; a branch is its trunk's to release
    started = client.post(f"/v1/runs/{target['id']}/start")
    assert started.status_code == 200 and started.json()["status"] == "queued"
    assert client.post(f"/v1/runs/{target['id']}/start").status_code == 409
    assert client.post(f"/v1/runs/{runs['items'][0]['id']}/start").status_code == 409

    with engine.begin() as connection:
        attempt = recording.claim_run(connection, target["id"], "worker")
        assert attempt is not None
        line = EvaluationLine(target["steps"], "code", made["loss"] / 1.02)
        recording.record(connection, target["id"], attempt, Batch(evaluations=[line]))
        recording.finish_run(connection, target["id"], attempt)
        scheduling.ended(connection, target["id"])
    scored = client.get(forecast.headers["location"]).json()
    assert scored["error"] == pytest.approx(0.02) and scored["inside"] is not None
    late = client.post("/v1/forecasts", json=asked)
    assert late.status_code == 409 and "backtest" in late.json()["hint"]
    cancelled = client.post(f"/v1/sweeps/{sweep.json()['id']}/cancel").json()
    assert cancelled["progress"]["ended"]
    assert client.post(f"/v1/runs/{target['id']}/cancel").status_code == 409


def test_a_long_fit_is_a_job(client: TestClient, engine: Engine, ladder: dict[str, Any]) -> None:
    body = {
        "law": "chinchilla",
        "project": "ladder",
        "validation_set": "validation",
        "draws": 10,
        "select": {"run_ids": ladder["imported"]["run_ids"][:20]},
    }
    answer = client.post("/v1/fits", json=body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    where = answer.headers["location"]
    assert client.get(where).json()["status"] == "queued"
    # what a worker's task does
    jobs.perform(engine, answer.json()["id"])
    jobs.perform(engine, answer.json()["id"])
    job = client.get(where).json()
    assert job["status"] == "finished" and job["progress"] == 1.0
    fit = client.get(job["result"]["url"]).json()
    assert len(fit["run_ids"]) == 20
    assert client.post(f"{where}/cancel").status_code == 409
    refused = client.post(
        "/v1/fits", json={**body, "validation_set": "x"}, headers={"Prefer": "respond-async"}
    )
    assert refused.status_code == 422


def test_a_refusal_in_a_job_is_its_answer(client: TestClient, engine: Engine) -> None:
    points = [{"N": 1e8, "D": 1e9 * (i + 1), "loss": 3.0} for i in range(8)]
    body = {"law": "chinchilla", "points": points}
    answer = client.post("/v1/fits", json=body, headers={"Prefer": "respond-async"})
    job = jobs.perform(engine, answer.json()["id"])
    direct = client.post("/v1/fits", json=body)
    if direct.status_code == 201:
        assert job.status == "finished"
    else:
        assert job.status == "failed" and job.result is not None
        assert job.result["detail"] == direct.json()["detail"]


def test_int64_does_not_overflow(client: TestClient) -> None:
    """JSON integers: 7e9 parameters on 1e13 tokens is 4.2e23 FLOPs, past int64."""
    rows = [
        {"N": n, "D": d, "loss": 1.8 + 400 * float(n) ** -0.34 + 2000 * float(d) ** -0.36}
        for n in (412_000_000, 1_000_000_000, 7_000_000_000)
        for d in (70_000_000_000, 500_000_000_000, 10_000_000_000_000)
    ]
    fit = client.post("/v1/fits", json={"law": "chinchilla", "points": rows, "draws": 0})
    assert fit.status_code == 201, fit.text
    assert fit.json()["document"]["data"]["compute"][1] == pytest.approx(4.2e23)
    huge = [{**row, "N": row["N"] * 10**300} for row in rows]
    refused = client.post("/v1/fits", json={"law": "chinchilla", "points": huge})
    assert refused.status_code == 422


def test_the_pages_are_served(client: TestClient, ladder: dict[str, Any]) -> None:
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert client.get("/v1/corpora").json()["items"][0]["name"] == "code"
