"""Whole curves on the pages: held against a known truth and against our own continual runs."""

import csv
import html
import json
import re
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from fitting.curves import Schedule
from tests.dashboard import conftest
from tests.dashboard.seeded_curves import (
    CONTINUAL,
    PEAK,
    SPIKE,
    WORSE,
    WSD,
    SeededContinual,
    SeededCurves,
    as_schedule,
    seed_continual,
    seed_curves,
    truth,
)


def page(pages: TestClient, address: str) -> str:
    return html.unescape(conftest.page(pages, address))


def traces(shown: str, figure: str) -> list[dict[str, Any]]:
    found = re.search(rf'<script type="application/json" id="{figure}-data">(.*?)</script>', shown)
    assert found is not None
    return list(json.loads(found[1])["data"])


def big(shown: str) -> float:
    found = re.search(r'class="big"[^>]* title="([\d.]+)"', shown)
    assert found is not None
    return float(found[1])


@pytest.fixture(scope="module")
def seeded_curves(engine: Engine) -> SeededCurves:
    with engine.begin() as connection:
        return seed_curves(connection)


def test_without_a_fit_it_says_how_to_make_one(pages: TestClient) -> None:
    shown = page(pages, "/curves")
    assert "No law of the curve yet" in shown and "/v1/curves/fit" in shown
    assert "does not exist" in page(pages, "/curves?fit=1")
    shown = page(pages, "/cpt")
    assert "No continual fit yet" in shown and "/v1/cpt/fit" in shown


def test_a_schedule_is_predicted_as_the_truth_has_it(
    pages: TestClient, seeded_curves: SeededCurves
) -> None:
    query = "kind=linear&steps=3.5k&peak_lr=1e-3&warmup_steps=200&final_fraction=0.1"
    shown = page(pages, f"/curves?fit={seeded_curves.fit_id}&{query}")
    spec = {"kind": "linear", "steps": 3500, "peak_lr": PEAK, "warmup_steps": 200}
    expected = truth(Schedule.from_dict({**spec, "final_fraction": 0.1}))[-1]
    assert big(shown) == pytest.approx(expected, rel=0.004)
    found = re.search(r'class="interval" title="\[([\d.]+), ([\d.]+)\]"', shown)
    assert found is not None and float(found[1]) < expected < float(found[2])
    assert "within the range of the runs" in shown
    # the fitted runs of the database, the law through each, the band and the answer
    names = [trace.get("name") for trace in traces(shown, "curves")]
    assert {"drops", "law, drops", "law, cosine", "law, wsd", "this linear"} <= set(names)


def test_schedules_are_ranked_and_the_peak_rate_is_never_chosen(
    pages: TestClient, seeded_curves: SeededCurves
) -> None:
    shown = page(pages, f"/curves?fit={seeded_curves.fit_id}&kind=constant&steps=3000")
    assert "No law of the curve may choose the peak learning rate" in shown
    table = shown.split("Behind the best")[1].split("</tbody>")[0]
    rows = re.findall(r'<th scope="row">([^<]+)', table)
    assert set(rows) == {
        "this schedule", "cosine to a tenth", "linear to zero", "wsd, the last fifth 1 − √",
        "best of 504",
    }  # fmt: skip
    plain = {"steps": 3000, "peak_lr": PEAK, "warmup_steps": 60}
    specs: dict[str, dict[str, Any]] = {
        "this schedule": {"kind": "constant"},
        "cosine to a tenth": {"kind": "cosine", "final_fraction": 0.1},
        "linear to zero": {"kind": "linear"},
        "wsd, the last fifth 1 − √": {"kind": "wsd", "cooldown_steps": 600},
    }
    true = {name: truth(Schedule.from_dict({**plain, **one}))[-1] for name, one in specs.items()}
    assert rows == ["best of 504", *sorted(true, key=lambda name: true[name])]
    other = page(pages, f"/curves?fit={seeded_curves.fit_id}&peak_lr=4e-3&steps=1000")
    assert "outside the fitted" in other and "No ranking at this peak rate" in other


def test_a_long_search_waits_until_it_is_asked_for(
    pages: TestClient, seeded_curves: SeededCurves
) -> None:
    shown = page(pages, f"/curves?fit={seeded_curves.fit_id}&steps=20000")
    assert "Search 504 schedules" in shown and "best of 504" not in shown
    assert "beyond the largest run" in shown


def test_what_cannot_be_read_takes_its_default(
    pages: TestClient, seeded_curves: SeededCurves
) -> None:
    shown = page(pages, "/curves?kind=spiral&steps=-3&peak_lr=x&warmup_steps=1e99&decay=no")
    assert "whole <curves>" in shown and 'aria-current="page">Curves' in shown
    assert np.isfinite(big(shown))


def test_a_run_under_way_is_forecast_and_its_spike_marked(
    pages: TestClient, seeded_curves: SeededCurves
) -> None:
    address = f"/runs/{seeded_curves.live_run_id}"
    shown = page(pages, address)
    final = WORSE * truth(as_schedule(WSD))[-1]
    assert big(shown) == pytest.approx(final, rel=0.006)
    ends = re.search(r'"final-interval" title="\[([\d.]+), ([\d.]+)\]"', shown)
    assert ends is not None and float(ends[1]) < final < float(ends[2])
    assert ">80%<" in shown and "within what the law allows" in shown
    # one spike, in words and in the figure, at the step and of the height it was given
    at, height = SPIKE
    said = re.search(r"1 spike: step ([\d,]+) \(\+([\d.]+)", shown)
    assert said is not None and abs(int(said[1].replace(",", "")) - at) <= 20
    assert float(said[2]) == pytest.approx(height, rel=0.4)
    drawn = {trace.get("name"): trace for trace in traces(shown, "run")}
    assert {"spike", "law: training loss", "forecast of the end"} <= set(drawn)
    assert drawn["forecast of the end"]["x"] == [1024.0 * 3000]
    live = pages.get(f"{address}/figure.json").json()["run"]
    assert live["out"]["final"][1] == str(big(shown)) and not live["ended"]


def test_a_run_that_ended_has_its_health_and_nothing_to_foresee(
    pages: TestClient, seeded_curves: SeededCurves
) -> None:
    shown = page(pages, f"/runs/{seeded_curves.run_ids[0]}")
    assert "Healthy: no spike" in shown and "Forecast of the final" not in shown


@pytest.fixture(scope="module")
def seeded_continual(engine: Engine) -> SeededContinual:
    with engine.begin() as connection:
        return seed_continual(connection)


def test_an_unseen_continual_run_of_ours_is_predicted(
    pages: TestClient, seeded_continual: SeededContinual
) -> None:
    """replay40-4k: held out of the fit; cosine over 1,000 steps with 40 % of old text."""
    query = "kind=cosine&steps=1000&peak_lr=3e-3&warmup_steps=0&replay_ratio=0.4"
    shown = page(pages, f"/cpt?fit={seeded_continual.fit_id}&{query}")
    assert 'name="before_steps" value="4,000"' in shown and "english" in shown
    predicted = [float(one) for one in re.findall(r'class="big"[^>]* title="([\d.]+)"', shown)]
    rows = list(csv.DictReader((CONTINUAL / "curves.csv").open()))
    for domain, loss in zip(("english", "code"), predicted, strict=True):
        mine = [row for row in rows if row["run"] == "replay40-4k" and row["domain"] == domain]
        assert loss == pytest.approx(float(mine[-1]["loss"]), abs=0.05)
    drawn = traces(shown, "general")
    assert len([one for one in drawn if "replay " in one.get("name", "")]) == 8
    assert "before the transfer" in {one.get("name") for one in drawn}
    # the README of the sample runs says the unit
    titles = re.findall(r"loss on (\w+) \(nats.{1,6}byte\)", shown)
    assert set(titles) == {"english", "code"}
    assert "Before the transfer the general loss is" in shown


def test_the_plan_moves_with_the_weight(
    pages: TestClient, seeded_continual: SeededContinual
) -> None:
    best = {}
    for weight in (0.05, 0.95):
        shown = page(pages, f"/cpt?fit={seeded_continual.fit_id}&general_weight={weight}")
        facts = re.search(r"Replay ratio</dt><dd><span title=\"([\d.]+)\"", shown)
        assert facts is not None and "nothing beats on both losses" in shown
        best[weight] = float(facts[1])
    assert best[0.95] > best[0.05]
    refused = page(pages, f"/cpt?fit={seeded_continual.fit_id}&peak_lr=0.05")
    assert "outside the fitted" in refused
