"""Calibrations, step times and budgets of time and money, over HTTP, against a known machine."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from fitting.costs import Setup, Shape, count_step

# the machine: 200 TFLOP/s, 1 TB/s of 2-byte activations, 20 microseconds a layer, 30 ns a parameter
TRUTH = {"flops": 5e-15, "copies": 2e-12, "layers_gpus": 2e-5, "params_gpus": 3e-11}
FAMILY = {
    "d_model": 1024, "n_layers": 16, "d_ff": 2816, "vocab_size": 32000, "n_heads": 16,
    "seq_len": 2048,
}  # fmt: skip
SETUP = {"batch_tokens": 65536.0, "gpus": 1}


def seconds(shape: dict[str, Any], setup: dict[str, Any]) -> float:
    counts = count_step(Shape(**shape), Setup(**setup))
    return sum(rate * counts.feature(name) for name, rate in TRUTH.items()) / setup["gpus"]


def shape_of(width: int, depth: int) -> dict[str, Any]:
    return {**FAMILY, "d_model": width, "n_layers": depth, "d_ff": 2816 * width // 1024,
            "n_heads": width // 64}  # fmt: skip


@pytest.fixture(scope="module")
def calibration(client: TestClient) -> int:
    shapes = [(512, 8), (512, 32), (768, 12), (1024, 8), (1024, 24), (1536, 16), (2048, 4),
              (2048, 24)]  # fmt: skip
    body = {
        "hardware": "a known machine",
        "measurements": [
            {"shape": shape_of(*one), "setup": SETUP, "seconds": seconds(shape_of(*one), SETUP)}
            for one in shapes
        ],
    }
    made = client.post("/v1/calibrations", json=body)
    assert made.status_code == 201, made.text
    assert client.get(made.headers["Location"]).json() == made.json()
    assert client.get("/v1/calibrations").json()["items"][0]["id"] == made.json()["id"]
    return int(made.json()["id"])


def test_a_calibration_finds_the_machine_that_made_the_steps(
    client: TestClient, calibration: int
) -> None:
    document = client.get(f"/v1/calibrations/{calibration}").json()["document"]
    assert document["coefficients"] == pytest.approx(TRUTH, rel=1e-6)
    shape = shape_of(1280, 20)
    asked = client.post(
        "/v1/predictions/time",
        json={"calibration": calibration, "shape": shape, "setup": SETUP, "tokens": 6.5536e9},
    ).json()
    assert asked["step"]["seconds"] == pytest.approx(seconds(shape, SETUP), rel=1e-6)
    assert asked["run"]["steps"] == pytest.approx(1e5)
    assert asked["run"]["gpu_hours"] == pytest.approx(1e5 * seconds(shape, SETUP) / 3600, rel=1e-6)


def test_a_calibration_made_elsewhere_is_kept(client: TestClient, calibration: int) -> None:
    document = client.get(f"/v1/calibrations/{calibration}").json()["document"]
    kept = client.post("/v1/calibrations", json={"document": document})
    assert kept.status_code == 201, kept.text
    assert kept.json()["document"] == document
    for body in ({"document": {"kind": "law"}}, {"hardware": "x"}, {"measurements": []}):
        assert client.post("/v1/calibrations", json=body).status_code == 422


def test_far_beyond_the_measured_there_is_no_step_time(
    client: TestClient, calibration: int
) -> None:
    refused = client.post(
        "/v1/predictions/time",
        json={"calibration": calibration, "shape": shape_of(16384, 24), "setup": SETUP},
    )
    assert refused.status_code == 422
    assert "width 16384 is 8 times outside" in refused.json()["detail"]
    assert "Measure nearer" in refused.json()["hint"]


def test_a_data_sheet_stands_in_and_says_what_bounds_a_step(client: TestClient) -> None:
    gpus = client.get("/v1/gpus").json()["items"]
    assert gpus and all(gpu["source"] for gpu in gpus)
    asked = client.post(
        "/v1/predictions/time",
        json={"gpu": gpus[0]["name"], "shape": FAMILY, "setup": SETUP},
    ).json()
    ops = asked["roofline"]["ops"]
    assert sum(op["seconds"] for op in ops) == pytest.approx(asked["roofline"]["seconds"])
    assert {op["bound"] for op in ops} <= {"compute", "memory", "link"}
    unknown = client.post(
        "/v1/predictions/time", json={"gpu": "abacus", "shape": FAMILY, "setup": SETUP}
    )
    assert unknown.status_code == 422 and "abacus" in unknown.json()["detail"]


@pytest.mark.parametrize(
    "budget",
    [
        {"gpu_hours": 2000.0},
        {"hours": 100.0},
        {"dollars": 3000.0, "dollars_per_gpu_hour": 2.0},
        {"budget_flops": 1e21},
        {"gpu_hours": 2000.0, "hours": 100.0},
    ],
    ids=lambda budget: "+".join(budget),
)
def test_a_plan_spends_its_budget_and_no_more(
    client: TestClient, calibration: int, ladder: dict[str, Any], budget: dict[str, float]
) -> None:
    answer = client.post(
        "/v1/allocations",
        json={
            "fit": ladder["fit"]["id"],
            "machine": {"calibration": calibration},
            "shapes": {"widths": [768, 1024, 1536], "depths": [8, 16, 24], "gpus": [4, 16]},
            **budget,
        },
    )
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    best = plan["optimal"]
    # what it says it takes is what the machine takes
    setup = {**SETUP, "gpus": best["gpus"]}
    taken = best["steps"] * seconds(shape_of(best["width"], best["depth"]), setup) / 3600.0
    assert best["hours"] == pytest.approx(taken, rel=1e-5)
    assert best["gpu_hours"] == pytest.approx(taken * best["gpus"], rel=1e-5)
    used = {
        "gpu_hours": best["gpu_hours"],
        "hours": best["hours"],
        "dollars": best["gpu_hours"] * 2.0,
        "budget_flops": best["flops"],
    }
    limits = {name: value for name, value in budget.items() if name != "dollars_per_gpu_hour"}
    assert all(used[name] <= limit * (1 + 1e-6) for name, limit in limits.items())
    assert any(used[name] == pytest.approx(limit, rel=1e-6) for name, limit in limits.items())
    # and its loss is the law's
    law = client.post(
        "/v1/predictions",
        json={"fit": ladder["fit"]["id"], "points": [{"N": best["N"], "D": best["D"]}]},
    ).json()
    assert best["loss"] == pytest.approx(law["predictions"][0]["loss"], rel=1e-9)
    assert best["lower"] < best["loss"] < best["upper"]
    assert plan["config"]["model"]["d_model"] == best["width"]
    assert "shape_blind" in {warning["code"] for warning in plan["warnings"]}
    assert plan["more"][0]["gain"] > 0 and plan["sensitivity"]


def test_what_does_not_belong_together_is_refused(
    client: TestClient, calibration: int, ladder: dict[str, Any]
) -> None:
    fit = ladder["fit"]["id"]
    for body, named in (
        ({"gpu_hours": 10.0, "unique_tokens": 1e9}, "need a machine"),
        ({"machine": {"calibration": calibration}, "gpu_hours": 1.0, "utilisation": 0.5},
         "leave out utilisation"),
        ({"machine": {}, "gpu_hours": 1.0}, "one machine"),
        ({"machine": {"calibration": 10**6}, "gpu_hours": 1.0}, "calibration"),
        ({"machine": {"calibration": calibration}}, "budget"),
        ({"machine": {"calibration": calibration}, "dollars": 5.0}, "dollars_per_gpu_hour"),
    ):  # fmt: skip
        refused = client.post("/v1/allocations", json={"fit": fit, **body})
        assert refused.status_code in (404, 422), refused.text
        assert named in refused.json()["detail"]
