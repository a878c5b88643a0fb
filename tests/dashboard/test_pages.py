"""Pages on a real database: they answer, they say the interval, they escape what people type."""

import html
import json
import re
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, insert

import fitting
from app.api import auth
from app.dashboard.render import PLOTLY_JS, STATIC_FILES
from app.storage import tables
from fitting.law import Input, Law, Param
from fitting.links import LOG
from tests.dashboard.conftest import page
from tests.dashboard.seeded import Seeded

PAGES = (
    "/", "/runs", "/fits", "/links", "/predict", "/curves", "/cpt", "/time", "/forecasts", "/laws",
    "/compare",
)  # fmt: skip


class TestEmpty:
    """These come first: the module's database is empty until `seeded` is asked for."""

    @pytest.mark.parametrize("address", PAGES)
    def test_says_what_to_do_next(self, pages: TestClient, address: str) -> None:
        shown = page(pages, address)
        assert "<h1>" in shown
        if address != "/laws":
            assert "<pre>" in shown

    @pytest.mark.parametrize("address", ["/runs/1", "/fits/1", "/sweeps/1", "/laws/none"])
    def test_what_is_not_there_is_a_page_that_says_so(
        self, pages: TestClient, address: str
    ) -> None:
        assert "There is no" in page(pages, address, 404)

    @pytest.mark.parametrize(
        "address",
        ["/runs/%s", "/sweeps/%s", "/runs?before=%s", "/fits/%s", "/links/%s", "/tasks/%s",
         "/fits/%s/figures/fitted.html", "/links/%s/figures/link.json",
         "/tasks/%s/figures/task.json"],
    )  # fmt: skip
    def test_an_id_that_no_database_holds_is_refused(self, pages: TestClient, address: str) -> None:
        assert pages.get(address % 2**63).status_code == 422

    @pytest.mark.parametrize("address", ["/compare", "/predict", "/time", "/curves", "/cpt"])
    @pytest.mark.parametrize("fit", ["²", "-1", "1.5", "9" * 20, "none"])
    def test_a_fit_whose_number_is_none_is_no_fit(
        self, pages: TestClient, address: str, fit: str
    ) -> None:
        """² is a digit to Python and no number."""
        shown = page(pages, f"{address}?fit={quote(fit)}")
        assert "no such fit" in shown or "does not exist" in shown


class TestTime:
    def test_what_cannot_be_planned_says_why(self, pages: TestClient, seeded: Seeded) -> None:
        for query, said in (
            ("machine=gpu-abacus", "no data sheet"),
            ("machine=calibration-999", "calibration"),
            ("machine=gpu-h100-sxm&dollars=100", "dollars_per_gpu_hour"),
        ):
            assert said in html.unescape(page(pages, f"/time?fit={seeded.fit_id}&{query}"))


class TestSeeded:
    @pytest.mark.parametrize("address", [*PAGES, "/runs/1", "/sweeps/1", "/fits/1", "/runs/21"])
    def test_answers(self, pages: TestClient, seeded: Seeded, address: str) -> None:
        assert "<h1>" in page(pages, address)

    def test_the_overview_shows_the_forecast_with_interval_and_verdict(
        self, pages: TestClient, seeded: Seeded
    ) -> None:
        shown = page(pages, "/")
        at = seeded.fit.predict({"N": 8.57e9, "D": 1.75e11})
        assert re.search(r"\[\d\.\d{3}, \d\.\d{3}\]", shown)
        assert f"{at.value[0]:.2f}" in shown
        assert "✓ inside" in shown and "✗ outside" in shown and "12× the compute" in shown
        assert "1 of 2 scored inside" in shown

    def test_a_fit_shows_parameters_at_full_precision_with_intervals(
        self, pages: TestClient, seeded: Seeded
    ) -> None:
        shown = page(pages, f"/fits/{seeded.fit_id}")
        for name, value in seeded.fit.params.items():
            low, high = seeded.fit.intervals()[name]
            assert f'title="{value}"' in shown
            assert f'title="[{low}, {high}]"' in shown
        for name in ("fitted", "residuals", "isoflop", "contour", "draws", "profiles"):
            assert f'id="{name}-data"' in shown
        assert seeded.fit.data.digest in shown

    def test_a_fit_shows_three_methods_and_the_approaches(
        self, pages: TestClient, seeded: Seeded
    ) -> None:
        shown = page(pages, f"/fits/{seeded.fit_id}")
        for word in ("Sandwich", "Profile likelihood", "parabola", "parametric", "interpolated"):
            assert word in shown
        figure = pages.get(f"/fits/{seeded.fit_id}/figures/profiles.json").json()
        marks = [t["x"][0] for t in figure["data"] if t["name"] == "fit"]
        assert marks == list(seeded.fit.params.values())

    def test_laws_are_ranked_on_the_runs_of_a_fit_and_of_a_project(
        self, pages: TestClient, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        some = {name: fitting.LAWS[name] for name in ("chinchilla", "tied", "kaplan_size")}
        monkeypatch.setattr("fitting.compare.LAWS", some)  # seconds, and the order of all is kept
        of_fit = page(pages, f"/compare?fit={seeded.fit_id}")
        of_project = page(pages, f"/compare?project={seeded.project}&validation_set=english")
        for shown in (of_fit, of_project):
            assert 'id="ranking-data"' in shown and "Held-out error" in shown
            order = re.findall(r'<th scope="row"><a href="/laws/(\w+)">', shown)
            assert set(order) == set(some) and order[-1] == "kaplan_size"
        for query in ("fit=999", "fit=x", "project=none", f"project={seeded.project}"):
            assert 'class="notice"' in page(pages, f"/compare?{query}")
        unsaid = page(pages, f"/compare?project={seeded.project}")
        assert "No validation set is named" in unsaid and "points" not in unsaid

    def test_predict_says_what_the_fit_says(self, pages: TestClient, seeded: Seeded) -> None:
        shown = page(pages, f"/predict?fit={seeded.fit_id}&N=70B&D=1.4T&budget=5.76e23")
        at = seeded.fit.predict({"N": np.array([70e9]), "D": np.array([1.4e12])})
        assert f'title="{float(at.value[0])}"' in shown
        assert f"[{at.lower[0]:.3f}, {at.upper[0]:.3f}]" in shown
        assert "in N" in shown and "beyond the largest run" in shown
        best = fitting.allocate(fitting.AllocationProblem(seeded.fit, 5.76e23)).optimal
        assert f'title="{best["N"]}"' in shown
        assert f'title="{best["D"]}"' in shown

    def test_predict_takes_what_cannot_be_read_for_nothing(
        self, pages: TestClient, seeded: Seeded
    ) -> None:
        for query in (
            "N=-3&D=x&budget=0",
            "N=nan",
            "N=1e-300",
            "budget=1e-300",
            "fit=abc",
            "fit=999",
            "D=1e300",
            "budget=1e300",
        ):
            assert "<h1>" in page(pages, f"/predict?{query}")

    def test_exports(self, pages: TestClient, seeded: Seeded) -> None:
        answer = pages.get(f"/fits/{seeded.fit_id}/figures/contour.json")
        assert {"data", "layout", "config"} == set(answer.json())
        answer = pages.get(f"/fits/{seeded.fit_id}/figures/isoflop.html")
        assert "attachment" in answer.headers["content-disposition"]
        assert "plotly.js v" in answer.text and len(answer.text) > 4_000_000
        assert pages.get(f"/fits/{seeded.fit_id}/figures/none.json").status_code == 404

    def test_a_live_run_asks_for_its_events(self, pages: TestClient, seeded: Seeded) -> None:
        shown = page(pages, f"/runs/{seeded.live_run_id}")
        assert f'data-events="/v1/runs/{seeded.live_run_id}/events"' in shown
        state = pages.get(f"/runs/{seeded.live_run_id}/figure.json").json()
        said = state["run"].pop("out")
        assert state["run"] == {"step": 1000, "ended": False}
        # no law of the curve is fitted in this project: its health is all that there is to say
        assert list(said) == ["health"] and "no spike" in said["health"][0]
        assert state["data"][0]["name"] == "training loss"
        assert "data-events" not in page(pages, f"/runs/{seeded.run_ids[0]}")

    def test_bits_per_byte(self, pages: TestClient, seeded: Seeded) -> None:
        """1e6 tokens of 4e6 bytes: loss / 4 / ln 2."""
        shown = page(pages, f"/runs/{seeded.run_ids[0]}")
        loss = float(re.findall(r'<td class="n"><span title="([\d.]+)">', shown)[0])
        assert f"{loss / 4 / np.log(2):.3f}" in shown

    def test_runs_can_be_paged_and_filtered(
        self, pages: TestClient, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "still-training" in page(pages, "/runs?status=running")
        assert "the-large-run" not in page(pages, "/runs?status=running")
        monkeypatch.setattr("app.dashboard.pages.runs.PAGE", 10)
        first = page(pages, "/runs?status=finished")
        following = re.search(r'<a href="(\?[^"]+)">Older runs', first)
        assert following is not None
        second = page(pages, "/runs" + html.unescape(following[1]))
        names = [set(re.findall(r'<a href="/runs/(\d+)">', shown)) for shown in (first, second)]
        assert len(names[0]) == len(names[1]) == 10 and not names[0] & names[1]

    def test_static_files_come_from_here_and_from_the_plotly_package(
        self, pages: TestClient
    ) -> None:
        for name in STATIC_FILES:
            assert pages.get(f"/static/{name}").status_code == 200
        assert pages.get("/static/plotly.min.js").content == PLOTLY_JS.read_bytes()
        assert pages.get("/static/..%2Frender.py").status_code == 404
        assert "http" not in STATIC_FILES["scalewright.js"][0].read_text()

    def test_a_key_becomes_a_cookie_that_scripts_cannot_read(self, pages: TestClient) -> None:
        assert 'type="password"' in page(pages, "/sign-in")
        answer = pages.post("/sign-in", data={"key": " sw_secret "}, follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{auth.COOKIE}=sw_secret;")
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie
        assert "Sign out" in page(pages, "/laws")
        left = pages.post("/sign-out", follow_redirects=False)
        assert left.status_code == 303 and left.headers["location"] == "/sign-in"
        assert "Max-Age=0" in left.headers["set-cookie"] and auth.COOKIE not in pages.cookies
        assert "Sign out" not in page(pages, "/laws")
        assert "not known, or was revoked" in page(pages, "/sign-in?refused=1")

    def test_what_people_type_is_escaped(
        self, pages: TestClient, seeded: Seeded, engine: Engine
    ) -> None:
        attack = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
        with engine.begin() as connection:
            project = connection.execute(
                insert(tables.projects)
                .values(name=attack, description=attack)
                .returning(tables.projects.c.id)
            ).scalar_one()
            run = connection.execute(
                insert(tables.runs)
                .values(
                    project_id=project,
                    name=attack,
                    message=attack,
                    status="failed",
                    recipe=attack,
                    config={"x": attack},
                    n_total=1e6,
                )
                .returning(tables.runs.c.id)
            ).scalar_one()
            connection.execute(
                insert(tables.curve_points),
                [{"run_id": run, "step": k, "loss": 3.0 / k} for k in range(1, 9)],
            )
            connection.execute(
                insert(tables.forecasts).values(
                    project_id=project,
                    fit_id=seeded.fit_id,
                    run_id=run,
                    validation_set=attack,
                    inputs={attack: 1.0},
                    level=0.9,
                    loss=2.0,
                    lower=1.9,
                    upper=2.1,
                    reach={attack: 3.0},
                    actual=2.05,
                )
            )
        for address in (
            "/",
            "/runs",
            f"/runs?project={quote(attack)}",
            f"/runs/{run}",
            "/forecasts",
            f"/laws/{quote(attack, safe='')}",
        ):
            shown = pages.get(address).text
            assert "<script>alert" not in shown and "<img src=x" not in shown, address

    def test_a_new_law_appears_by_itself(
        self, pages: TestClient, seeded: Seeded, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One more law in the registry: its own page, its fit's slices, its sliders."""
        law = Law(
            name="toy",
            title="A toy law of layers",
            latex="E + a / q",
            source="made up for this test",
            formula=toy,
            inputs=(Input("q", "layers", "depth", (1.0, 100.0)),),
            params=(Param("E", "floor", (0.5, 3.0), LOG), Param("a", "slope", (0.1, 10.0), LOG)),
        )
        monkeypatch.setitem(fitting.LAWS, "toy", law)
        assert "A toy law of layers" in page(pages, "/laws")
        assert "layers" in page(pages, "/laws/toy")
        q = np.arange(1.0, 13.0)
        loss = toy(q, E=1.5, a=2.0) * (1 + 0.002 * np.cos(q))
        fitted = fitting.fit(law, fitting.Runs({"q": q}, loss), draws=50)
        with engine.begin() as connection:
            fit_id = connection.execute(
                insert(tables.fits)
                .values(
                    law="toy",
                    status=fitted.status,
                    digest="x",
                    document=fitted.to_dict(),
                    request={"law": "toy", "inputs": {"q": list(q)}, "loss": list(loss)},
                )
                .returning(tables.fits.c.id)
            ).scalar_one()
        shown = page(pages, f"/fits/{fit_id}")
        assert 'id="fitted-data"' in shown and 'id="contour-data"' not in shown
        shown = page(pages, f"/predict?fit={fit_id}&q=50")
        at = fitted.predict({"q": 50.0})
        assert f"[{at.lower[0]:.3f}, {at.upper[0]:.3f}]" in shown
        assert "Depth q" in shown and "layers" in shown
        figure = json.loads(pages.get(f"/predict/figure.json?fit={fit_id}&q=50").text)
        assert figure["layout"]["xaxis"]["title"]["text"] == "q (layers)"


def toy(q: np.ndarray, *, E: float, a: float) -> np.ndarray:
    return E + a / q
