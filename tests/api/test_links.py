"""/v1/links over HTTP: fit, predict from what was measured and from what was forecast, translate,
plan; and what is refused."""

import json
import math
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app.services import links
from tests.fitting import data
from tests.services import linked
from tests.services.linked import Linked, project_of_two_corpora, true_link

CODE = {"validation_set": "code", "select": {"recipe": "on code"}}
ENGLISH = {"validation_set": "english", "select": {"recipe": "on english"}}
TRAIN_TO_TRAIN = {"project": "two", "source": CODE, "target": ENGLISH, "draws": 60}


@pytest.fixture(scope="module")
def two(client: TestClient, engine: Engine) -> Linked:
    with engine.begin() as connection:
        return project_of_two_corpora(connection, "two")


@pytest.fixture(scope="module")
def link(client: TestClient, two: Linked) -> dict[str, Any]:
    made = client.post("/v1/links", json=TRAIN_TO_TRAIN)
    assert made.status_code == 201, made.text
    return dict(made.json())


def fit_of(client: TestClient, project: str, side: dict[str, Any], draws: int = 60) -> int:
    body = {"law": "chinchilla", "project": project, "draws": draws, **side}
    made = client.post("/v1/fits", json=body)
    assert made.status_code == 201, made.text
    return int(made.json()["id"])


def test_two_selections_of_one_project_give_the_true_link(
    client: TestClient, two: Linked, link: dict[str, Any]
) -> None:
    found, true = link["document"], true_link(("code", "code"), ("english", "english"))
    assert (link["kind"], link["status"]) == ("train_to_train", "converged")
    assert (found["source"], found["target"]) == ("code", "english")
    assert found["n_pairs"] == len(found["pairs"]) == 16 and found["drawn_from"] is None
    assert link["run_ids"] == sorted(two.run_ids["code"] + two.run_ids["english"])
    low, high = found["intervals"]["kappa"]
    assert low < found["kappa"] < high
    assert found["kappa"] == pytest.approx(true["kappa"], abs=0.1)
    # what the four numbers are for: the loss at 15.6 times the compute
    z = linked.latent(5e9, 1e21 / 6 / 5e9)
    x, y = (float(linked.loss_of((name, name), z)) for name in ("code", "english"))
    answer = client.post(
        f"/v1/links/{link['id']}/predict", json={"source_loss": x, "flops": 1e21}
    ).json()
    (one,) = answer["predictions"]
    assert answer["source_is"] == "measured" and answer["source_fit"] is None
    assert one["lower"] < y < one["upper"] and one["loss"] == pytest.approx(y, rel=0.01)
    assert one["reach"]["compute"] == pytest.approx(1e21 / 6.4e19, rel=1e-6)


def test_a_link_has_an_etag_that_holds_and_its_draws_when_asked(
    client: TestClient, link: dict[str, Any]
) -> None:
    url = f"/v1/links/{link['id']}"
    shown = client.get(url)
    assert "draws" not in shown.json()["document"]
    again = client.get(url, headers={"If-None-Match": shown.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    whole = client.get(url, params={"draws": True})
    assert len(whole.json()["document"]["draws"]) > 50
    assert whole.headers["etag"] != shown.headers["etag"]
    listed = client.get("/v1/links", params={"project": "two"}).json()["items"]
    assert shown.json() in listed


def test_one_run_on_two_texts_is_train_to_test(client: TestClient, two: Linked) -> None:
    body = {
        "project": "two",
        "source": CODE,
        "target": {"validation_set": "english", "select": {"recipe": "on code"}},
        "draws": 0,
    }
    made = client.post("/v1/links", json=body).json()
    assert made["kind"] == "train_to_test" and made["run_ids"] == two.run_ids["code"]
    assert made["document"]["mixture"] == "code"
    other = {**body, "source": {"validation_set": "english", "select": {"recipe": "on english"}}}
    made = client.post("/v1/links", json=other).json()
    assert made["kind"] == "test_to_test"
    assert made["document"]["source"] == "english, trained on english"
    assert made["document"]["target"] == "english, trained on code"


def test_bits_per_byte_come_from_evaluated_tokens_and_bytes(
    client: TestClient, link: dict[str, Any]
) -> None:
    made = client.post("/v1/links", json={**TRAIN_TO_TRAIN, "loss_unit": "bits/byte", "draws": 0})
    document = made.json()["document"]
    assert document["loss_unit"] == "bits/byte"
    for name, side in (("source", "code"), ("target", "english")):
        factor = linked.TOKENS_PER_BYTE[side] / math.log(2)
        got = [row[name] for row in document["pairs"]]
        nats = [row[name] for row in link["document"]["pairs"]]
        assert got == pytest.approx([factor * one for one in nats], rel=1e-12)


def test_a_link_of_very_many_pairs_is_fitted_to_some_of_them_and_says_so(
    client: TestClient,
) -> None:
    rng = np.random.default_rng(3)
    n, d = 10 ** rng.uniform(7, 9.5, 800), 10 ** rng.uniform(8.5, 10.5, 800)
    source = 406.4 * n**-0.34 + 410.7 * d**-0.28
    target = 0.9 * source**1.05 + 1.2
    both = np.exp(0.003 * rng.standard_normal((2, 800))) * (source + 1.69, target)
    columns = zip(n, d, *both, strict=True)
    points = [dict(zip(("N", "D", "source", "target"), map(float, one), strict=True))
              for one in columns]  # fmt: skip
    made = client.post("/v1/links", json={"kind": "general", "points": points, "draws": 60})
    assert made.status_code == 201, made.text
    found = made.json()["document"]
    assert (found["n_pairs"], found["drawn_from"]) == (links.DRAWN_PAIRS, 800)
    assert {(row["N"], row["D"]) for row in found["pairs"]} < set(zip(n, d, strict=True))
    assert found["kappa"] == pytest.approx(1.05, abs=0.03)
    page = client.get(f"/links/{made.json()['id']}").text
    assert "drawn at random from 800" in page


def test_a_predicted_source_loss_says_so_and_widens_the_interval(
    client: TestClient, two: Linked, link: dict[str, Any]
) -> None:
    fit = fit_of(client, "two", CODE)
    point = {"N": 5e9, "D": 1e21 / 6 / 5e9}
    url = f"/v1/links/{link['id']}/predict"
    forecast = client.post(url, json={"fit": fit, "points": [point]}).json()
    (one,) = forecast["predictions"]
    source = client.post("/v1/predictions", json={"fit": fit, "points": [point]}).json()
    assert one["source_loss"] == source["predictions"][0]["loss"]
    assert forecast["source_is"] == "predicted" and forecast["source_fit"] == fit
    known = client.post(url, json={"source_loss": one["source_loss"], "flops": 1e21}).json()
    (same,) = known["predictions"]
    assert same["loss"] == one["loss"]
    assert one["lower"] < same["lower"] and one["upper"] > same["upper"]
    assert one["variance"]["source_law"] > 0 == same["variance"]["source_law"]
    # a forecast of one's own, with an interval or without
    for more in ({"measured": False}, {"source_interval": [[1.55, 1.75]]}):
        body = {"source_loss": one["source_loss"], "flops": 1e21, **more}
        answer = client.post(url, json=body).json()
        assert answer["source_is"] == "predicted"
        assert answer["predictions"][0]["upper"] > same["upper"]
    other = fit_of(client, "two", ENGLISH, draws=0)
    answer = client.post(url, json={"fit": other, "points": [point]}).json()
    assert "another_validation_set" in [one["code"] for one in answer["warnings"]]


def test_a_translated_law_predicts_and_allocates_as_its_source_does(
    client: TestClient, two: Linked, link: dict[str, Any]
) -> None:
    fit = fit_of(client, "two", CODE)
    made = client.post(f"/v1/links/{link['id']}/translate", json={"fit": fit})
    assert made.status_code == 201, made.text
    answer = made.json()
    assert answer["form"] == "closed" and answer["law"] == "coupled"
    assert made.headers["location"] == f"/v1/fits/{answer['fit']}"
    at_fit_floor = client.get(f"/v1/links/{answer['link']}").json()
    floor = client.get(f"/v1/fits/{fit}").json()["document"]["params"]["E"]
    assert at_fit_floor["document"]["E0"] == floor and at_fit_floor["id"] != link["id"]
    budget = {"budget_flops": 1e21}
    ours, theirs = (
        client.post("/v1/allocations", json={"fit": one, **budget}).json()["optimal"]
        for one in (answer["fit"], fit)
    )
    for name in ("N", "D"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
    point = {"N": ours["N"], "D": ours["D"]}
    body = {"fit": answer["fit"], "points": [point]}
    (one,) = client.post("/v1/predictions", json=body).json()["predictions"]
    truth = float(linked.loss_of(("english", "english"), linked.latent(ours["N"], ours["D"])))
    assert one["lower"] < truth < one["upper"] and one["loss"] == pytest.approx(truth, rel=0.02)
    stored = client.get(f"/v1/fits/{answer['fit']}").json()
    assert stored["document"]["translated"] == {"link": answer["link"], "fit": fit}
    points = client.get(f"/v1/fits/{answer['fit']}/points").json()["points"]
    assert len(points) == 16
    refused = client.get(f"/v1/fits/{answer['fit']}/diagnostics")
    assert refused.status_code == 409 and "carried over" in refused.json()["detail"]
    kept = client.post(
        f"/v1/links/{link['id']}/translate", json={"fit": fit, "own_floor": False}
    ).json()
    assert (kept["form"], kept["fit"], kept["link"]) == ("composition", None, link["id"])


def test_a_plan_spreads_its_runs_and_keeps_to_the_cap(client: TestClient, two: Linked) -> None:
    body = {"project": "two", "source": CODE, "k": 3, "cap_flops": 3e19}
    plan = client.post("/v1/links/plan", json=body)
    assert plan.status_code == 200, plan.text
    found = plan.json()
    flops = [row["flops"] for row in found["runs"]]
    assert sum(flops) == pytest.approx(found["total_flops"]) and found["total_flops"] <= 3e19
    # three budgets are affordable, and each has one run
    assert [round(one / 1e17) for one in flops] == [10, 40, 160]
    assert {row["run_id"] for row in found["runs"]} <= set(two.run_ids["code"])
    assert found["half_width"] < found["half_width_before"]
    have = [{"N": row["N"], "D": row["D"]} for row in found["runs"]]
    more = client.post("/v1/links/plan", json={**body, "have": have, "k": 1}).json()
    assert more["runs"][0]["run_id"] not in {row["run_id"] for row in found["runs"]}
    have[1]["N"] *= 2
    refused = client.post("/v1/links/plan", json={**body, "have": have}).json()
    assert (refused["row"], refused["column"]) == (2, "have")


def test_pairs_beyond_a_cut_are_predicted_and_a_third_set_is_gone_round_by(
    client: TestClient, two: Linked
) -> None:
    body = {
        **TRAIN_TO_TRAIN,
        "others": [{"name": "english of code", "validation_set": "english",
                    "select": {"recipe": "on code"}}],
        "hold_out_above_flops": 2e19,
    }  # fmt: skip
    made = client.post("/v1/links", json=body)
    assert made.status_code == 201, made.text
    document = made.json()["document"]
    assert document["n_pairs"] == 12 and len(document["held_out"]["points"]) == 4
    for point in document["held_out"]["points"]:
        assert point["flops"] > 2e19
        assert point["error"] == pytest.approx(point["loss"] / point["target"] - 1)
    assert document["held_out"]["worst_error"] < 0.02
    (check,) = document["transitivity"]
    assert check["third"] == "english of code" and check["difference"] < 0.02
    refused = client.post("/v1/links", json={**body, "hold_out_above_flops": 1e30})
    assert refused.status_code == 422 and "hold_out" in refused.json()["column"]


def test_published_floors_give_the_published_link(client: TestClient) -> None:
    """Brandfonbrener et al. 2024: kappa and K of one of their thirty train-to-train links."""
    golden = json.loads(data.path("loss_to_loss/golden.json").read_text())["train_to_train"][0]
    rows = data.rows("loss_to_loss/l2l_sweep.csv")
    sides = {
        side: [
            {"N": float(r["params"]), "D": float(r["tokens"]), "loss": float(r["val_loss"])}
            for r in rows
            if r["data"] == golden[which] and r["val_loss"] not in ("", "nan")
        ]
        for side, which in (("source", "a"), ("target", "b"))
    }
    body = {
        "source": {"points": sides["source"]},
        "target": {"points": sides["target"]},
        "method": "paper_ols",
        "E0": golden["E0"],
        "E1": golden["E1"],
        "draws": 0,
    }
    made = client.post("/v1/links", json=body)
    assert made.status_code == 201, made.text
    found = made.json()["document"]
    assert found["n_pairs"] == golden["n"]
    assert found["kappa"] == pytest.approx(golden["kappa"], abs=1e-6)
    assert found["K"] == pytest.approx(golden["K"], abs=1e-6)


def points(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


GOOD = points(
    N=[1e8, 2e8, 4e8, 8e8], D=[2e9, 4e9, 8e9, 1.6e10], source=[3.2, 3.0, 2.85, 2.73],
    target=[2.5, 2.35, 2.2, 2.1],
)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "says", "where"),
    [
        ({"points": GOOD[:2]}, "at least 3", {}),
        ({"points": [*GOOD[:2], {**GOOD[2], "target": "x"}]}, "not a number",
         {"row": 3, "column": "target"}),
        ({"points": [*GOOD[:3], {**GOOD[3], "source": -1.0}]}, "row 4", {"row": 4}),
        ({"points": [{"N": 1e8, "D": 1e9, "source": 3.0}]}, "no 'target'", {"row": 1}),
        ({"points": GOOD, "E0": 2.9, "method": "paper_ols"}, "", {}),
        ({"points": GOOD, "source": {"points": []}}, "", {}),
        ({"source": {"points": [{"N": 1e8, "D": 1e9, "loss": 0.0}]},
          "target": {"points": [{"N": 1e8, "D": 1e9, "loss": 2.0}]}}, "row 1", {}),
        ({"source": {"points": [{"N": 1e8, "D": 1e9}]}, "target": {"points": [{}]}},
         "'loss'", {"column": "source.loss"}),
        ({"points": GOOD, "loss_unit": "bits/byte"}, "tokens and bytes",
         {"column": "source.tokens_per_byte"}),
        ({"project": "two", "source": {"validation_set": "code"}, "target": ENGLISH},
         "2 recipes", {"column": "source.select.recipe"}),
        ({"project": "two", "source": CODE, "target": {"validation_set": "none"}},
         "'none'", {"column": "target"}),
        ({"project": "nobody", "source": CODE, "target": ENGLISH}, "nobody", {}),
    ],
)  # fmt: skip
def test_a_refusal_says_where_and_what_to_do(
    client: TestClient, two: Linked, body: dict[str, Any], says: str, where: dict[str, Any]
) -> None:
    before = client.get("/v1/links").json()["items"][:1]
    refused = client.post("/v1/links", json=body)
    assert refused.status_code in (404, 422), refused.text
    said = refused.json()
    assert says in said["detail"] and said["hint"], said
    assert {name: said.get(name) for name in where} == where
    assert client.get("/v1/links").json()["items"][:1] == before


def test_a_loss_at_the_floor_is_refused_with_the_floor(
    client: TestClient, link: dict[str, Any]
) -> None:
    url = f"/v1/links/{link['id']}/predict"
    refused = client.post(url, json={"source_loss": [1.6, 0.5]})
    assert refused.status_code == 422 and refused.json()["row"] == 2
    assert "floor" in refused.json()["detail"]
    for body in ({}, {"source_loss": 2.0, "fit": 1}, {"fit": 99999}, {"source_loss": -1.0},
                 {"source_loss": [2.0], "flops": [1e20, 1e21]}):  # fmt: skip
        assert client.post(url, json=body).status_code in (404, 422)
    assert client.post("/v1/links/99999/predict", json={"source_loss": 2.0}).status_code == 404
    assert client.get("/v1/links/99999").status_code == 404


def test_the_same_key_makes_one_link(client: TestClient) -> None:
    body = {"points": GOOD, "draws": 0}
    first, again = (
        client.post("/v1/links", json=body, headers={"Idempotency-Key": "link"}) for _ in range(2)
    )
    assert first.status_code == again.status_code == 201, first.text
    assert first.json() == again.json() and again.headers["idempotency-replayed"] == "true"
    assert again.headers["etag"] == first.headers["etag"]


def test_vocabularies_that_differ_are_flagged_unless_by_the_byte(
    client: TestClient, two: Linked
) -> None:
    z = linked.latent(two.N, two.D)
    sides = {
        side: {
            "points": points(
                N=two.N.tolist(), D=two.D.tolist(),
                loss=np.asarray(linked.loss_of((name, name), z)).tolist(),
            ),
            "tokenizer": f"tokenizer of {name}",
            "tokens_per_byte": linked.TOKENS_PER_BYTE[name],
        }
        for side, name in (("source", "code"), ("target", "english"))
    }  # fmt: skip

    def codes(**more: Any) -> list[str]:
        made = client.post("/v1/links", json={**sides, "draws": 0, **more})
        assert made.status_code == 201, made.text
        return [one["code"] for one in made.json()["document"]["warnings"]]

    assert "tokenizers_differ" in codes()
    assert "tokenizers_differ" not in codes(loss_unit="bits/byte")
