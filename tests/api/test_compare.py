"""/v1/compare, and the law "auto" of /v1/fits, over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app.services import jobs

FROM_RUNS = {"project": "ladder", "validation_set": "validation"}
LAWS = ["tied", "kaplan_size", "chinchilla", "data_constrained"]


def test_laws_are_ranked_on_runs_and_on_points(client: TestClient, ladder: dict[str, Any]) -> None:
    by_runs = client.post("/v1/compare", json={**FROM_RUNS, "laws": LAWS})
    assert by_runs.status_code == 200, by_runs.text
    found = by_runs.json()
    scores = [one["score"] for one in found["ranked"]]
    assert scores == sorted(scores) and {one["law"] for one in found["ranked"]} == set(LAWS[:3])
    assert found["ranked"][-1]["law"] == "kaplan_size"
    assert [one["law"] for one in found["skipped"]] == ["data_constrained"]
    assert found["run_ids"] == ladder["imported"]["run_ids"] and found["n_points"] == 24
    assert found["drawn_from"] is None  # all of them judge
    by_points = client.post("/v1/compare", json={"points": ladder["rows"], "laws": LAWS}).json()
    assert [one["law"] for one in by_points["ranked"]] == [one["law"] for one in found["ranked"]]
    assert [one["score"] for one in by_points["ranked"]] == pytest.approx(scores, rel=1e-9)


def test_laws_of_compute_take_it_from_flops_or_six_n_d(
    client: TestClient, ladder: dict[str, Any]
) -> None:
    points = [{name: row[name] for name in ("N", "D", "loss")} for row in ladder["rows"]]
    C = [6 * one["N"] * one["D"] for one in points]

    def largest(points: list[dict[str, float]]) -> float:
        body = {"law": "henighan_compute", "points": points, "draws": 0}
        made = client.post("/v1/fits", json=body)
        assert made.status_code == 201, made.text
        assert client.get(f"{made.headers['location']}/diagnostics").status_code == 200
        return float(made.json()["document"]["data"]["inputs"]["C"][1])

    assert largest(points) == pytest.approx(max(C))
    doubled = [{**one, "flops": 2 * c} for one, c in zip(points, C, strict=True)]
    assert largest(doubled) == pytest.approx(2 * max(C))
    body = {"law": "henighan_compute", "points": [{"N": 1e8, "loss": 3.0}] * 9}
    refused = client.post("/v1/fits", json=body)
    assert refused.status_code == 422 and "no 'C'" in refused.json()["detail"]


def test_auto_is_answered_now_or_by_a_job(
    client: TestClient, engine: Engine, ladder: dict[str, Any]
) -> None:
    body = {**FROM_RUNS, "law": "auto", "draws": 10}
    now = client.post("/v1/fits", json=body)
    assert now.status_code == 201, now.text
    ranked = now.json()["document"]["compared"]["ranked"]
    assert now.json()["law"] == ranked[0]["law"]
    later = client.post("/v1/fits", json=body, headers={"Prefer": "respond-async"})
    assert later.status_code == 202, later.text
    job = jobs.perform(engine, later.json()["id"])
    assert job.result is not None and job.status == "finished"
    made = client.get(job.result["url"]).json()
    assert made["document"]["params"] == now.json()["document"]["params"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"points": [{"N": 1e8, "D": 1e9, "loss": 3.0}] * 3}, "No law can be judged"),
        ({"points": [{"x": 1.0, "loss": 3.0}]}, "No law takes"),
        ({"project": "ladder"}, "validation set"),
        ({**FROM_RUNS, "laws": ["none"]}, "there is no law"),
    ],
)
def test_a_refusal_says_why(
    client: TestClient, ladder: dict[str, Any], body: dict[str, Any], says: str
) -> None:
    refused = client.post("/v1/compare", json=body)
    assert refused.status_code == 422 and says in refused.json()["detail"], refused.text


def test_diagnostics_of_a_fit(client: TestClient, ladder: dict[str, Any]) -> None:
    answer = client.get(f"/v1/fits/{ladder['fit']['id']}/diagnostics")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert len(found["residuals"]) == 24 and 0.001 < found["noise"] < 0.004
    for one in found["parameters"]:
        assert one["value"] == ladder["fit"]["document"]["params"][one["name"]]
        assert one["profile"]["lower"] < one["value"] < one["profile"]["upper"]
    assert client.get("/v1/fits/999/diagnostics").status_code == 404


def test_one_side_weights_and_points_left_out_are_stored(
    client: TestClient, ladder: dict[str, Any]
) -> None:
    points = [
        {"N": row["N"], "D": row["D"], "loss": row["loss"], "weight": 1 + i % 2}
        for i, row in enumerate(ladder["rows"])
    ]
    points[4] |= {"left_out": "diverged", "loss": 9.0}
    objective = {"kind": "one-sided-log", "delta": 2e-3, "asymmetry": 5.0}
    body = {"law": "chinchilla", "points": points, "objective": objective, "draws": 0}
    made = client.post("/v1/fits", json=body)
    assert made.status_code == 201, made.text
    stored = made.json()["document"]["objective"]
    assert {name: stored[name] for name in objective} == objective
    assert stored["weights"] == [1.0 + i % 2 for i in range(24)]
    assert stored["dropped"] == [{"row": 4, "reason": "diverged"}]
    assert made.json()["request"]["asymmetry"] == 5.0
    asked = client.get(f"{made.headers['location']}/diagnostics")
    assert asked.status_code == 200, asked.text
    assert [one["left_out"] for one in asked.json()["residuals"]][3:6] == [None, "diverged", None]
    assert (
        "one-sided-log, δ = 0.002, asymmetry 5, weighted"
        in client.get(f"/fits/{made.json()['id']}").text
    )
    epochs = [{**one, "U": one["D"] / 3} for one in points]
    again = client.post("/v1/fits", json=body | {"points": epochs}).json()
    assert "repeated_tokens" in {one["code"] for one in again["document"]["warnings"]}
    assert again["document"]["params"] == made.json()["document"]["params"]
    assert client.get(f"/fits/{again['id']}").status_code == 200
    ranked = client.post("/v1/compare", json={"points": points, "laws": LAWS[:2]})
    assert ranked.status_code == 200 and ranked.json()["n_points"] == 23
    refused = client.post("/v1/fits", json=body | {"by_budget": True, "draws": 5})
    assert refused.status_code == 422 and "single run" in refused.json()["detail"]
    refused = client.post("/v1/fits", json=body | {"objective": {"asymmetry": 0.5}})
    assert refused.status_code == 422
