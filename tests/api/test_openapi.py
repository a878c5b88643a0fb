"""The document is true: every example runs, a new law appears by itself, nothing answers 500."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

import fitting
from app.settings import Settings
from fitting import Input, Law, Param
from fitting.links import LOG
from tests.api.conftest import client_of


def bodies(document: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """(path, name, body) of every example of a JSON body."""
    found = []
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        json_body = content.get("application/json", {})
        for name, example in json_body.get("examples", {}).items():
            found.append((path, name, example["value"]))
        schema = json_body.get("schema", {})
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        found += [(path, "of the schema", example) for example in schema.get("examples", [])]
    return found


def test_every_example_runs(client: TestClient, ladder: dict[str, Any]) -> None:
    """On a server that has what the examples name: a project, its first fit and first sweep."""
    assert ladder["fit"]["id"] == 1
    assert client.post("/v1/projects", json={"name": "demo"}).status_code == 201
    examples = bodies(client.get("/openapi.json").json())
    # what is made first is named by what comes later
    order = [
        "/v1/projects",
        "/v1/imports",
        "/v1/sweeps",
        "/v1/runs",
        "/v1/fits",
        "/v1/links",
        "/v1/tasks",
    ]
    examples.sort(key=lambda one: order.index(one[0]) if one[0] in order else len(order))
    assert {path for path, _, _ in examples} >= {
        *order, "/v1/compare", "/v1/predictions", "/v1/allocations", "/v1/forecasts", "/v1/keys",
    }  # fmt: skip
    for path, name, body in examples:
        if path == "/v1/fits":
            # as many draws as make a fit whole, so that fifteen laws take seconds
            body = {**body, "draws": 20}
        if "parent" in body:
            (trunk, *_) = client.get("/v1/runs?sweep_id=1&kind=trunk").json()["items"]
            body = {**body, "parent": trunk["id"]}
        answer = client.post(path.replace("{link_id}", "1").replace("{task_id}", "1"), json=body)
        assert answer.is_success, f"{path} {name}: {answer.text}"


def test_every_law_has_an_example(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["FitIn"]["properties"]["law"]
    assert schema["enum"] == [*fitting.LAWS, "auto"]
    names = {body["law"] for path, _, body in bodies(document) if path == "/v1/fits"}
    assert names == {*fitting.LAWS, "auto"}


def toy(N: Any, *, E: Any, A: Any) -> Any:
    return E + A / N


TOY = Law(
    name="toy",
    title="A toy",
    latex=r"E + A / N",
    source="this test",
    formula=toy,
    inputs=(Input("N", "parameters", "model size", (1e1, 1e3)),),
    params=(
        Param("E", "floor", (0.5, 3.0), LOG),
        Param("A", "slope", (1.0, 100.0), LOG),
    ),
)


def test_a_new_law_appears_with_no_other_change(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fitting.LAWS, "toy", TOY)
    with client_of(settings) as client:
        document = client.get("/openapi.json").json()
        assert "toy" in document["components"]["schemas"]["FitIn"]["properties"]["law"]["enum"]
        assert client.get("/v1/laws/toy").json()["source"] == "this test"
        example = next(
            body for path, name, body in bodies(document)
            if path == "/v1/fits" and body["law"] == "toy"
        )  # fmt: skip
        assert client.post("/v1/fits", json=example).status_code == 201
        points = [{"N": float(n), "loss": 2.0 + 50.0 / n} for n in (10, 20, 50, 100, 500)]
        fit = client.post("/v1/fits", json={"law": "toy", "points": points, "draws": 0}).json()
        assert fit["document"]["params"] == pytest.approx({"E": 2.0, "A": 50.0}, rel=1e-6)
        body = {"fit": fit["id"], "points": [{"N": 1000.0}]}
        (one,) = client.post("/v1/predictions", json=body).json()["predictions"]
        assert one["loss"] == pytest.approx(2.05, rel=1e-6)
