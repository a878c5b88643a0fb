"""A curve of a million points, plotted from cold, against 1 s.

    python -m tests.benchmarks.long_curve [--points 1000000]

One run that has finished and one that still trains, each with a gradient norm at every step. For
each request Postgres and the API are started anew, so that neither has anything in memory (the
system's own cache of files stays), and so is the browser, where there is a Chromium: no cache, no
cookies. Printed are seconds by the clock and CPU seconds; judged is the CPU, because other work on
the machine does not count in it: of Postgres and the API for a request; for the page also that of
the browser's main thread until the curve is on the screen.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.settings import Settings
from app.storage import curves, embedded, migrate, projects, recording, runs
from app.storage.engine import make_engine
from tests.benchmarks.big_project import served

LIMIT_SECONDS = 1.0
PIECE = 100_000

# In the page: when its first curve was on the screen, and when plotly.js had drawn it again. A
# frame's callbacks run before it is painted, a message that they post after.
WATCH = """
function when(what, name) {
  new MutationObserver((_, observer) => {
    if (!document.querySelector(what)) return;
    observer.disconnect();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => { window[name] = performance.now(); };
      channel.port2.postMessage(0);
    });
  }).observe(document, { childList: true, subtree: true });
}
when(".sketch path", "drawnAt");
when(".js-plotly-plot .scatterlayer .js-line", "livelyAt");
"""
TIMES = """() => {
  const [page] = performance.getEntriesByType("navigation");
  return { server: page.responseStart, read: page.responseEnd, parsed: page.domInteractive,
           drawn: window.drawnAt, lively: window.livelyAt };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=1, help="that a browser opens each page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scalewright-curve-") as name:
        Path(name).chmod(0o755)
        settings = Settings(data_dir=Path(name), database_url=None)
        try:
            migrate.upgrade(settings)
            engine = make_engine(settings)
            with engine.begin() as connection:
                ids = {ended: make(connection, ended, given.points) for ended in (True, False)}
            engine.dispose()
            for ended, run_id in ids.items():
                said = "finished" if ended else "training"
                for path in (
                    f"/v1/runs/{run_id}/curve",
                    f"/runs/{run_id}/figure.json",
                    f"/runs/{run_id}",
                ):
                    ask(settings, said, path)
                for _ in range(given.times):
                    visit(settings, said, f"/runs/{run_id}")
        finally:
            embedded.stop(settings)


def ask(settings: Settings, said: str, path: str) -> None:
    """One request, all servers started anew."""
    embedded.stop(settings)
    with served(settings) as (client, clock):
        before, began = clock(), time.monotonic()
        answer = client.get(path)
        took, used = time.monotonic() - began, clock() - before
    answer.raise_for_status()
    print(f"{said}: {path:24} {took:6.2f} s {used:6.2f} CPU s  {verdict(used)}", flush=True)


def visit(settings: Settings, said: str, path: str) -> None:
    """The page in a new Chromium, all servers started anew: from the start of the navigation until
    the curve is on the screen, and until plotly.js has taken over."""
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        print("no chromium: the page was not opened in a browser")
        return
    from playwright.sync_api import sync_playwright

    from tests.acceptance.test_browser import ARGUMENTS

    for held in (False, True):  # plotly.js: to see what the main thread does without it
        embedded.stop(settings)
        with served(settings) as (client, clock), sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.add_init_script(WATCH)
            if held:
                page.route("**/plotly.min.js*", lambda route: None)
            session = page.context.new_cdp_session(page)
            session.send("Performance.setTimeDomain", {"timeDomain": "threadTicks"})
            session.send("Performance.enable")
            before = clock()
            page.goto(str(client.base_url).rstrip("/") + path, wait_until="commit")
            servers = clock() - before
            while not page.evaluate("window.drawnAt" if held else "window.livelyAt"):
                time.sleep(0.02)
            main_thread = _tasks(session)
            if not held:
                times, lively = page.evaluate(TIMES), main_thread
            browser.close()
    used = servers + main_thread
    parts = ", ".join(f"{name} {value / 1e3:.2f}" for name, value in times.items())
    print(
        f"{said}: {path} in Chromium, s since navigation: {parts}; CPU s: servers {servers:.2f}, "
        f"main thread until drawn {main_thread:.2f} (until lively {lively:.2f})  {verdict(used)}",
        flush=True,
    )


def _tasks(session: Any) -> float:
    """CPU seconds of all tasks of the page's main thread."""
    found = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in found if one["name"] == "TaskDuration"))


def verdict(used: float) -> str:
    return "ok" if used <= LIMIT_SECONDS else "MISSED"


def make(connection: Connection, ended: bool, n: int) -> int:
    """A run of n points, recorded as a worker does."""
    project = projects.ensure(connection, "long")
    new = runs.NewRun(project.id, f"ended {ended}", status="queued", steps=n)
    run_id = runs.create(connection, new).id
    attempt = recording.claim_run(connection, run_id, "benchmark")
    assert attempt is not None
    rng = np.random.default_rng(0)
    for first in range(1, n + 1, PIECE):
        step = np.arange(first, min(first + PIECE, n + 1))
        loss = 2 + 8 * step**-0.3 * np.exp(0.02 * rng.standard_normal(len(step)))
        points = list(zip(step.tolist(), (1e3 * step).tolist(), loss.tolist(),
                          [1e-3] * len(step), strict=True))  # fmt: skip
        norms = {"grad_norm": list(zip(step.tolist(), loss.tolist(), strict=True))}
        recording.record(connection, run_id, attempt, recording.Batch(points, norms))
    if ended:
        recording.finish_run(connection, run_id, attempt)
        curves.roll_up(connection, run_id)
    return run_id


if __name__ == "__main__":
    main()
