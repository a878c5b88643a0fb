"""The dashboard as people meet it: a real server, a real database, a real browser.

Opens the pages, draws their figures, moves a slider, and holds that nothing is asked of any other
machine and that no script complains.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Engine, text

from app.settings import Settings
from fitting import AllocationProblem, allocate
from tests.dashboard.seeded import Seeded, seed
from tests.dashboard.seeded_curves import (
    SeededContinual,
    SeededCurves,
    seed_continual,
    seed_curves,
)

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no chromium: apt-get install chromium (`make test` does it where it is root)",
    ),
]
SERVER = """
import socket, sys, uvicorn
from pathlib import Path
from app.main import create_app
from app.settings import Settings
server = uvicorn.Server(
    uvicorn.Config(create_app(Settings(data_dir=sys.argv[1])), log_level="warning")
)
here = socket.create_server(("127.0.0.1", 0))
Path(sys.argv[2]).write_text(f"{here.getsockname()[1]}\\n")
server.run(sockets=[here])
"""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's /dev/shm may be too small for a page
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 180_000
"""Wall time on a machine that does other things as well; a page is drawn in about a second."""


@pytest.fixture(scope="module")
def seeded(engine: Engine) -> Seeded:
    with engine.begin() as connection:
        return seed(connection)


@pytest.fixture(scope="module")
def curves(engine: Engine) -> SeededCurves:
    with engine.begin() as connection:
        return seed_curves(connection)


@pytest.fixture(scope="module")
def cpt(engine: Engine) -> SeededContinual:
    with engine.begin() as connection:
        return seed_continual(connection)


@pytest.fixture(scope="module")
def address(
    settings: Settings, seeded: Seeded, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The whole application in a process of its own, on a port that the process itself takes."""
    folder = tmp_path_factory.mktemp("server")
    log, port = folder / "log.txt", folder / "port"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(settings.data_dir), str(port)],
            env={**os.environ, "DATABASE_URL": str(settings.database_url)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not (port.exists() and port.read_text().endswith("\n")):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no server came up:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port.read_text().strip()}"
        try:
            urllib.request.urlopen(f"{url}/laws", timeout=PATIENCE_MS / 1000).close()
        except OSError as error:
            pytest.fail(f"the server did not answer ({error}):\n{log.read_text()[-3000:]}")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@dataclass
class Visit:
    """A page in the browser and everything it asked for or complained about."""

    page: "playwright.Page"
    address: str
    folder: Path
    complaints: list[str] = field(default_factory=list)
    refused: bool = False
    """The server was meant to refuse something, which the browser reports as it likes."""
    hosts: set[str] = field(default_factory=set)

    def open(self, path: str) -> None:
        self.page.goto(self.address + path, timeout=PATIENCE_MS)

    def drawn(self, figure: str) -> int:
        """Wait until the figure is drawn; how many traces it shows."""
        self.page.wait_for_selector(f"#{figure} .main-svg", timeout=PATIENCE_MS)
        return int(self.page.evaluate("id => document.getElementById(id).data.length", figure))

    def picture(self, name: str) -> None:
        path = self.folder / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture
def visit(browser: "playwright.Browser", address: str, pictures: Path) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    # waits by locator only: wait_for_function evaluates a string, which the pages' policy forbids
    expect.set_options(timeout=PATIENCE_MS)
    visit = Visit(page, address, pictures)

    def said(message: "playwright.ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            visit.complaints.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).netloc))
    yield visit
    page.close()
    meant = "the server responded with a status of 422" if visit.refused else "\0"
    assert [text for text in visit.complaints if meant not in text] == []
    assert visit.hosts <= {urlsplit(address).netloc, ""}, "a request left this machine"


def test_overview(visit: Visit, seeded: Seeded) -> None:
    visit.open("/")
    assert visit.drawn("forecasts") >= 3
    assert visit.drawn("fitted") > 6
    visit.picture("overview")


def test_fit(visit: Visit, seeded: Seeded) -> None:
    visit.open(f"/fits/{seeded.fit_id}")
    for figure in ("fitted", "isoflop", "contour", "residuals", "draws"):
        assert visit.drawn(figure) > 0
    titles = visit.page.locator("#contour .xtitle, #contour .ytitle")
    expect(titles).to_have_text(["N (parameters)", "D (tokens)"])
    visit.picture("fit")


def test_predict_answers_while_a_slider_moves(visit: Visit, seeded: Seeded) -> None:
    visit.open(f"/predict?fit={seeded.fit_id}")
    visit.drawn("answer")
    page = visit.page
    before = page.locator('[data-out="N"]').inner_text()
    page.evaluate("window.stayed = true")
    slider = page.locator('input[type=range][data-for="budget"]')
    slider.evaluate(
        "(element, at) => { element.value = at; element.dispatchEvent(new Event('input')); }", 24
    )
    expect(page.locator('[data-out="N"]')).not_to_have_text(before)
    assert page.evaluate("window.stayed"), "the page was loaded again"
    shown = float(page.locator('[data-out="N"]').get_attribute("title") or "nan")
    # a slider stops at its own steps; the field beside it says where
    budget = float(page.locator("#budget").input_value())
    assert budget == pytest.approx(1e24, rel=0.02)
    best = allocate(AllocationProblem(seeded.fit, budget)).optimal
    assert shown == pytest.approx(best["N"], rel=1e-6)
    loss = page.locator('[data-out="best-interval"]').inner_text()
    assert loss == f"[{best['lower']:.3f}, {best['upper']:.3f}]"
    assert "beyond the largest run" in page.locator('[data-out="best-reach"]').inner_text()
    # what the script writes is what the server writes for the same question
    texts = page.locator("[data-out]").all_inner_texts()
    page.reload()
    assert page.locator("[data-out]").all_inner_texts() == texts
    visit.picture("predict")


def test_a_budget_of_time_and_money_becomes_a_plan(visit: Visit, seeded: Seeded) -> None:
    query = "machine=gpu-h100-sxm&hours=500&dollars=200000&price=2.5&gpus=64,128"
    visit.open(f"/time?fit={seeded.fit_id}&{query}")
    assert visit.drawn("shapes") >= 2
    assert visit.drawn("spent") > 4
    page = visit.page
    plans = page.get_by_role("table").filter(has_text="What more buys").locator("tbody tr")
    assert "one GPU-day" in plans.first.inner_text()
    visit.picture("time")
    # a slider asks again, and the address keeps the question
    slider = page.locator('input[type=range][data-for="dollars"]')
    slider.evaluate(
        "(element, at) => { element.value = at;"
        " for (const kind of ['input', 'change']) element.dispatchEvent(new Event(kind)); }",
        4,
    )
    page.wait_for_url("**dollars=10%2C000**", timeout=PATIENCE_MS)
    facts = page.locator("dl.facts").inner_text()
    assert "64" in facts and "Dollars" in facts


def test_a_schedule_is_edited_with_sliders(visit: Visit, curves: SeededCurves) -> None:
    visit.open(f"/curves?fit={curves.fit_id}")
    assert visit.drawn("curves") >= 9
    page = visit.page
    ranking = page.get_by_role("table").filter(has_text="best first").locator("tbody tr")
    assert ranking.count() == 5
    visit.picture("curves")
    before = page.locator(".answer .big").inner_text()
    slider = page.locator('input[type=range][data-for="cooldown_steps"]')
    slider.evaluate(
        "(element, at) => { element.value = at;"
        " for (const kind of ['input', 'change']) element.dispatchEvent(new Event(kind)); }",
        0,
    )
    page.wait_for_url("**cooldown_steps=0&**", timeout=PATIENCE_MS)
    assert page.locator(".answer .big").inner_text() != before


def test_a_run_under_way_shows_its_forecast_and_its_spike(
    visit: Visit, curves: SeededCurves, engine: Engine
) -> None:
    visit.open(f"/runs/{curves.live_run_id}")
    assert visit.drawn("run") >= 7
    said = visit.page.locator('[data-out="seen"]')
    expect(said).to_have_text("80%")
    visit.picture("forecast")
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into curve_points (run_id, step, tokens, loss, lr) values (:i, 2700, "
                "2764800, 2.87, 1e-3)"
            ),
            {"i": curves.live_run_id},
        )
        connection.execute(
            text("update runs set step = 2700 where id = :i"), {"i": curves.live_run_id}
        )
    expect(said).to_have_text("90%")
    alarm = visit.page.locator('[data-out="alarm"]')
    assert "bad" not in (alarm.get_attribute("class") or "")
    with engine.begin() as connection:
        for step in (2701, 2702, 2703, 2704):
            connection.execute(
                text(
                    "insert into curve_points (run_id, step, tokens, loss, lr) values (:i, :s, "
                    "1024 * :s, 5.0, 1e-3)"
                ),
                {"i": curves.live_run_id, "s": step},
            )
        connection.execute(
            text("update runs set step = 2704 where id = :i"), {"i": curves.live_run_id}
        )
    expect(alarm).to_have_class("notice bad")  # the colour follows, not the words alone


def test_both_losses_of_a_continual_run(visit: Visit, cpt: SeededContinual) -> None:
    visit.open(f"/cpt?fit={cpt.fit_id}&replay_ratio=0.5")
    assert visit.drawn("general") >= 10
    assert visit.drawn("domain") >= 10
    visit.picture("cpt")
    slider = visit.page.locator('input[type=range][data-for="general_weight"]')
    slider.evaluate(
        "(element, at) => { element.value = at;"
        " for (const kind of ['input', 'change']) element.dispatchEvent(new Event(kind)); }",
        0.9,
    )
    visit.page.wait_for_url("**general_weight=0.900**", timeout=PATIENCE_MS)
    assert "nothing beats on both losses" in visit.page.locator("main").inner_text()


def test_a_bad_number_is_answered_in_words(visit: Visit, seeded: Seeded) -> None:
    visit.open(f"/predict?fit={seeded.fit_id}")
    visit.page.fill("#N", "-5")
    expect(visit.page.locator("[data-state]")).not_to_be_empty()
    visit.refused = True


def test_a_live_run_follows_its_curve(visit: Visit, seeded: Seeded, engine: Engine) -> None:
    """New points appear by themselves, and the end of the run ends the watching."""
    visit.open(f"/runs/{seeded.live_run_id}")
    visit.drawn("run")
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into curve_points (run_id, step, tokens, loss, lr) values (:i, 1500, "
                "3.75e10, 2.7, 3e-4)"
            ),
            {"i": seeded.live_run_id},
        )
        connection.execute(
            text("update runs set step = 1500 where id = :i"), {"i": seeded.live_run_id}
        )
    expect(visit.page.locator("[data-live-step]")).to_have_text("1,500")
    last = visit.page.evaluate("Array.from(document.getElementById('run')._fullData[0].x).pop()")
    assert last == pytest.approx(3.75e10)
    with engine.begin() as connection:
        connection.execute(
            text("update runs set status = 'finished', step = 2000 where id = :i"),
            {"i": seeded.live_run_id},
        )
    visit.page.wait_for_selector(".badge.good")
    assert visit.page.locator("[data-live]").count() == 0
    visit.picture("run")


def test_a_live_page_looks_once_at_a_time(
    visit: Visit, curves: SeededCurves, engine: Engine
) -> None:
    """Or a late answer would be drawn over a newer one."""

    def announce() -> None:
        with engine.begin() as connection:
            touch = text("update runs set step = step where id = :i")
            connection.execute(touch, {"i": curves.live_run_id})

    page = visit.page
    held: list[playwright.Route] = []

    def looks(count: int) -> None:
        for _ in range(PATIENCE_MS // 100):
            if len(held) >= count:
                return
            page.wait_for_timeout(100)
        pytest.fail(f"the page asked {len(held)} times")

    page.route("**/figure.json*", lambda route: held.append(route))
    visit.open(f"/runs/{curves.live_run_id}")
    looks(1)
    announce()
    page.wait_for_timeout(3_000)  # by now it would have asked again
    assert len(held) == 1
    held[0].continue_()
    looks(2)
    page.unroute_all(behavior="ignoreErrors")


def test_every_page_draws_in_the_dark_and_on_a_narrow_screen(
    browser: "playwright.Browser",
    address: str,
    seeded: Seeded,
    curves: SeededCurves,
    cpt: SeededContinual,
) -> None:
    page = browser.new_page(viewport={"width": 800, "height": 900}, color_scheme="dark")
    for path in (
        "/",
        "/runs",
        f"/sweeps/{seeded.sweep_id}",
        "/fits",
        f"/fits/{seeded.fit_id}",
        "/predict",
        f"/curves?fit={curves.fit_id}",
        f"/runs/{curves.live_run_id}",
        f"/cpt?fit={cpt.fit_id}",
        "/forecasts",
        "/laws",
        "/laws/chinchilla",
        "/sign-in",
    ):
        page.goto(address + path, timeout=PATIENCE_MS)
        for figure in page.locator("[data-figure]").all():
            figure.locator(".main-svg").first.wait_for(timeout=PATIENCE_MS)
        assert page.evaluate("document.documentElement.scrollWidth") <= 800, path
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert ink == "rgb(231, 233, 235)"
    page.close()


def test_a_figure_is_read_out_by_its_name_and_not_by_its_layers(
    visit: Visit, seeded: Seeded
) -> None:
    visit.open("/forecasts")
    assert visit.drawn("forecasts") >= 3
    expect(visit.page.locator("#forecasts svg:not([aria-hidden=true])")).to_have_count(0)
    nodes = visit.page.context.new_cdp_session(visit.page).send("Accessibility.getFullAXTree")
    nameless = [
        node["role"]["value"]
        for node in nodes["nodes"]
        if not node.get("ignored")
        and node.get("role", {}).get("value") in ("image", "button", "link", "textbox", "combobox")
        and not node.get("name", {}).get("value", "").strip()
    ]
    assert nameless == []
    assert visit.page.get_by_role("figure", name="Forecasts against actuals").count() == 1


def test_long_names_leave_a_figure_room_on_a_telephone(
    browser: "playwright.Browser", address: str, seeded: Seeded
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(f"{address}/forecasts", timeout=PATIENCE_MS)
    figure = page.locator("#forecasts")
    expect(figure.locator(".xtick text").first).to_be_visible(timeout=PATIENCE_MS)
    whole = figure.bounding_box()
    assert whole is not None
    width = page.evaluate("document.getElementById('forecasts')._fullLayout._size.w")
    assert width > 0.7 * whole["width"]
    named = page.evaluate("document.getElementById('forecasts').layout.annotations.length")
    assert named == figure.locator(".annotation").count() >= 3
    page.close()


def test_rows_of_parameters_are_low_on_a_telephone(
    browser: "playwright.Browser", address: str, seeded: Seeded
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(f"{address}/fits/{seeded.fit_id}", timeout=PATIENCE_MS)
    rows = page.get_by_role("table").filter(has_text="Parameters with their").locator("tbody tr")
    boxes = [row.bounding_box() for row in rows.all()]
    assert len(boxes) == 5
    # the name, the numbers, and at most two lines of words, all on the screen
    assert all(box and box["height"] <= 90 and box["width"] <= 300 for box in boxes)
    meaning = rows.last.locator("td").last.bounding_box()
    assert meaning and meaning["x"] + meaning["width"] <= 340
    page.close()


def test_pages_are_read_without_a_script(
    browser: "playwright.Browser", address: str, seeded: Seeded
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/fits/{seeded.fit_id}", timeout=PATIENCE_MS)
    said = page.locator("noscript p:visible")
    assert said.count() == page.locator("[data-figure]").count() > 3
    expect(page.locator("#contour")).to_be_hidden()  # no empty frame
    page.goto(f"{address}/predict?fit={seeded.fit_id}", timeout=PATIENCE_MS)
    expect(page.locator("input[type=range]").first).to_be_hidden()  # it would do nothing
    page.fill("#budget", "1e24")
    page.get_by_role("button", name="Calculate").click()
    shown = float(page.locator('[data-out="N"]').get_attribute("title") or "nan")
    assert shown == pytest.approx(allocate(AllocationProblem(seeded.fit, 1e24)).optimal["N"])
    page.goto(f"{address}/runs/{seeded.run_ids[0]}", timeout=PATIENCE_MS)
    expect(page.locator("#run .sketch")).to_be_visible()
    context.close()
