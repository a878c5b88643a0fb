"""The pages of links: what is measured and what is predicted, the floors, what was held out."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app.dashboard.pages.links import ladder, source_loss_at
from app.services import links, tasks
from app.services.fits import FitRequest, Select
from app.services.link_sets import LinkSet
from app.services.links import LinkRequest
from app.services.tasks import TaskRequest
from fitting.loss_to_loss import Link
from tests.dashboard.conftest import page
from tests.services.linked import project_of_two_corpora

LINK = "/links/{}"


@dataclass(frozen=True)
class Stored:
    """A link with everything, one without a law of its own, and one that is degenerate."""

    whole: int
    small: int
    link: Link


def side(project: str, validation_set: str, trained_on: str) -> LinkSet:
    select = Select(recipe=f"on {trained_on}")
    return LinkSet(FitRequest("", project, validation_set, select))


@pytest.fixture(scope="module")
def stored(engine: Engine) -> Stored:
    with engine.begin() as connection:
        project_of_two_corpora(connection, "two <corpora>")
        whole = links.create(
            connection,
            LinkRequest(
                side("two <corpora>", "code", "code"),
                side("two <corpora>", "english", "english"),
                (side("two <corpora>", "english", "code"),),
                hold_out=2e19,
                draws=60,
            ),
        )
        few = {"N": [1e8, 2e8, 4e8], "D": [2e9, 4e9, 8e9]}
        small = links.create(
            connection,
            LinkRequest(
                LinkSet(FitRequest("", inputs=few, loss=[3.2, 3.0, 2.85]), name="a </script>"),
                LinkSet(FitRequest("", inputs=few, loss=[2.5, 2.35, 2.2])),
                draws=20,
            ),
        )
        return Stored(whole.id, small.id, links.load(connection, whole.id))


def test_without_any_it_says_how_to_make_one(pages: TestClient) -> None:
    shown = page(pages, "/links")
    assert "No links yet" in shown and "/v1/links" in shown
    assert "There is no link 1" in page(pages, "/links/1", 404)


def test_the_list_names_both_sets(pages: TestClient, stored: Stored) -> None:
    shown = page(pages, "/links")
    assert f'href="/links/{stored.whole}">code → ' in shown
    assert "two &lt;corpora&gt;" in shown and 'aria-current="page">Links' in shown


def test_a_link_shows_floors_intervals_and_what_was_held_out(
    pages: TestClient, stored: Stored
) -> None:
    shown = page(pages, LINK.format(stored.whole))
    for name, value in stored.link.params.items():
        low, high = stored.link.intervals()[name]
        assert f'title="{value}"' in shown and f'title="[{low}, {high}]"' in shown
    for words in ("Held out", "of 4 inside", "Backtest", "transitive by construction", "LINK.json"):
        assert words in shown
    figure = pages.get(f"/links/{stored.whole}/figures/link.json").json()
    names = [trace.get("name") for trace in figure["data"]]
    assert "held out" in names
    said = [one["text"] for one in figure["layout"]["annotations"]]
    E0, E1 = stored.link.params["E0"], stored.link.params["E1"]
    assert said == [f"E0 = {E0:.3f}", f"E1 = {E1:.3f}"]


def test_a_predicted_source_costs_more_than_a_measured_one(
    pages: TestClient, stored: Stored
) -> None:
    url = f"{LINK.format(stored.whole)}?source_loss=1.75"
    widths = {}
    for word in ("measured", "predicted"):
        shown = page(pages, f"{url}&source={word}")
        assert f"a source loss that was {word}" in shown
        low, high = re.findall(r'class="interval" title="\[([\d.]+), ([\d.]+)\]"', shown)[0]
        widths[word] = float(high) - float(low)
    assert widths["predicted"] > 1.2 * widths["measured"]
    bars = pages.get(f"/links/{stored.whole}/figures/variance.json").json()["data"]
    assert {"source law", "floors E", "noise of one run"} <= {bar.get("name") for bar in bars}
    # the pieces of a bar add up to half its interval
    pieces = [np.array(bar["x"], float) for bar in bars if bar["type"] == "bar"]
    rows = ladder(stored.link)
    for place, row in enumerate(rows):
        found = row["predicted"]
        half = 50 * (found.upper[0] - found.lower[0]) / found.value[0]
        assert sum(piece[2 * place + 1] for piece in pieces) == pytest.approx(half)
        assert row["measured"].reach["compute"][0] == pytest.approx(row["times"], rel=1e-6)
    assert source_loss_at(stored.link, 1.0) == pytest.approx(stored.link.data.best_x)


def test_what_cannot_be_answered_is_said_in_words(pages: TestClient, stored: Stored) -> None:
    url = LINK.format(stored.whole)
    for asked, says in (("0.1", "floor"), ("x", "not a number"), ("-3", "positive")):
        assert says in page(pages, f"{url}?source_loss={asked}")
    shown = page(pages, f"{LINK.format(stored.small)}?source_loss=2.84&source=predicted")
    assert "too few runs" in shown and "<b>" not in shown
    assert pages.get(f"{url}/figures/none.json").status_code == 404
    answer = pages.get(f"{url}/figures/variance.html")
    assert "attachment" in answer.headers["content-disposition"]


def test_a_task_shows_its_steps_with_grades_and_answers(
    pages: TestClient, engine: Engine, stored: Stored
) -> None:
    loss = np.linspace(3.0, 2.0, 12)
    share = 0.25 + 0.65 / (1 + np.exp(5 * (loss - 2.3)))
    request = TaskRequest(
        loss.tolist(), share.tolist(), name="quiz <1>", form="sigmoid", chance=0.25,
        link=stored.whole, draws=40,
    )  # fmt: skip
    with engine.begin() as connection:
        task = tasks.create(connection, request)
    shown = page(pages, f"/tasks/{task.id}")
    assert "quiz &lt;1&gt;" in shown and "Predictability A" in shown
    assert f'href="/links/{stored.whole}"' in shown and "guessing: 25%" in shown
    widths = {}
    for of, source in (("task", "measured"), ("source", "measured"), ("source", "predicted")):
        x = 1.9 if of == "task" else source_loss_at(stored.link, 10.0)
        shown = page(pages, f"/tasks/{task.id}?loss={x}&of={of}&source={source}")
        found = re.findall(r'class="interval" title="\[([\d.]+), ([\d.]+)\]"', shown)
        assert len(found) == 1, (of, source)
        widths[of, source] = float(found[0][1]) - float(found[0][0])
    assert widths["source", "predicted"] > widths["source", "measured"]
    assert "floor" in page(pages, f"/tasks/{task.id}?loss=0.1&of=source")
    assert "not a number" in page(pages, f"/tasks/{task.id}?loss=x")
    assert f'href="/tasks/{task.id}"' in page(pages, "/links")
    assert "There is no task" in page(pages, "/tasks/999", 404)
    figure = pages.get(f"/tasks/{task.id}/figures/task.json").json()
    assert [one.get("mode") for one in figure["data"]].count("markers") == 1
