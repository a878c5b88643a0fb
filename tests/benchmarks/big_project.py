"""Every list, plot and fit of a project of many runs, against 2 s a request.

    python -m tests.benchmarks.big_project [--runs 10000] [--points 100] [--data-dir FOLDER]

Makes the project (scripts/make_big_project.py) unless FOLDER holds it, starts `scalewright serve`
on it as a process of its own, with an empty cache of its own, and asks once for everything. Printed
are seconds by the clock and CPU seconds of the server and of Postgres; judged is the CPU, because
other work on the machine does not count in it. Requests that refuse say so.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
from sqlalchemy import Engine

from app.settings import Settings
from app.storage import embedded, migrate, projects, runs, sweeps
from app.storage.engine import make_engine
from fitting import LAWS
from scripts import make_big_project

LIMIT_SECONDS = 2.0
PROJECT = "big"
WIDE = 10_000  # runs of one sweep
FIT = "fit chinchilla to every run"  # what others are asked about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=100, help="of a run's curve")
    parser.add_argument("--data-dir", type=Path, help="kept, and used again")
    parser.add_argument("--only", default="", help="requests whose name holds this")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.data_dir
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scalewright-")))
            folder.chmod(0o755)
        settings = Settings(data_dir=folder, database_url=None)
        if given.data_dir is None:
            stack.callback(embedded.stop, settings)
        late = measure(settings, given.runs, given.points, given.only)
    sys.exit(1 if late else 0)


def measure(settings: Settings, n_runs: int, n_points: int, only: str = "") -> list[str]:
    """Print every request; the names of those beyond the limit."""
    migrate.upgrade(settings)
    engine = make_engine(settings)
    make_big_project.make(engine, PROJECT, n_runs, n_points)
    make_wide(engine)
    engine.dispose()
    embedded.stop(settings)  # with it go its buffers; the system's own cache stays
    late = []
    with served(settings) as (client, clock):
        for name, method, path, body in requests(client):
            if only not in name and name != FIT:
                continue
            before, began = clock(), time.monotonic()
            answer = client.request(method, path, json=body)
            took, used = time.monotonic() - began, clock() - before
            said = ""
            if answer.status_code >= 400:
                said = f"{answer.status_code} {answer.text[:90]}"
            verdict = "ok" if used <= LIMIT_SECONDS else "MISSED"
            if used > LIMIT_SECONDS:
                late.append(name)
            print(
                f"{name:44} {took:7.2f} s  {used:6.2f} CPU s  {len(answer.content):>9,} bytes  "
                f"{verdict} {said}",
                flush=True,
            )
    print(f"{len(late)} beyond {LIMIT_SECONDS:g} s" + "".join(f"\n  {name}" for name in late))
    return late


def requests(client: httpx2.Client) -> Iterator[tuple[str, str, str, Any]]:
    """(name, method, path, body), in an order in which each has what it needs."""

    def get(name: str, path: str) -> tuple[str, str, str, Any]:
        return name, "GET", path, None

    def ask(path: str) -> Any:
        return client.get(path).json()

    yield get("health (first request)", "/v1/health")
    newest = ask(f"/v1/runs?project={PROJECT}&status=finished&limit=50")
    training = ask(f"/v1/runs?project={PROJECT}&status=running&limit=1")["items"][0]["id"]
    run, last = newest["items"][0]["id"], newest["items"][-1]["id"]
    sweep = ask(f"/v1/sweeps?project={PROJECT}&limit=1")["items"][0]["id"]
    yield get("projects", "/v1/projects")
    yield get("project", f"/v1/projects/{PROJECT}")
    yield get("runs", f"/v1/runs?project={PROJECT}")
    yield get("runs, 500 a page", f"/v1/runs?project={PROJECT}&limit=500")
    yield get("runs of a status", f"/v1/runs?project={PROJECT}&status=running&limit=500")
    yield get("runs of a sweep", f"/v1/runs?project={PROJECT}&sweep_id={sweep}&limit=500")
    yield get("runs of a kind and recipe", f"/v1/runs?project={PROJECT}&kind=branch&recipe=none")
    pages, cursor = 0, None
    while pages == 0 or cursor is not None:  # to the last page; it is asked for below
        cursor, before = (
            ask(f"/v1/runs?project={PROJECT}&limit=500" + (f"&cursor={cursor}" if cursor else "")),
            cursor,
        )
        cursor, pages = cursor["next_cursor"], pages + 1
    yield get(
        f"runs, page {pages} of them", f"/v1/runs?project={PROJECT}&limit=500&cursor={before}"
    )
    yield get("sweeps", f"/v1/sweeps?project={PROJECT}&limit=500")
    yield get("sweep", f"/v1/sweeps/{sweep}")
    yield get("sweep's noise", f"/v1/sweeps/{sweep}/noise")
    for what, one in (("finished", run), ("training", training)):
        yield get(f"run, {what}", f"/v1/runs/{one}")
        yield get(f"  curve, {what}", f"/v1/runs/{one}/curve")
        yield get(f"  curve, {what}, 10,000 rows", f"/v1/runs/{one}/curve?max_rows=10000")
        yield get(f"  points, {what}", f"/v1/runs/{one}/curve?max_rows=10000&after_step=0")
        yield get(f"  evaluations, {what}", f"/v1/runs/{one}/evaluations")
        yield get(f"  metrics, {what}", f"/v1/runs/{one}/metrics")
    yield get("Prometheus' metrics", "/metrics")
    data = {"project": PROJECT, "validation_set": "english"}
    for law in LAWS.values():
        if set(law.input_names) <= {"N", "D", "C"}:
            name = FIT if law.name == "chinchilla" else f"fit {law.name} to every run"
            yield name, "POST", "/v1/fits", {"law": law.name, **data}
    fit = ask(f"/v1/fits?project={PROJECT}&law=chinchilla&limit=1")["items"][0]
    print("   found", {k: round(v, 4) for k, v in fit["document"]["params"].items()})
    fit_id = fit["id"]
    yield "fit auto to every run", "POST", "/v1/fits", {"law": "auto", **data}
    of_sweep = {**data, "select": {"sweep": sweep}}
    yield "fit chinchilla to a sweep", "POST", "/v1/fits", {"law": "chinchilla", **of_sweep}
    yield "fit auto to a sweep", "POST", "/v1/fits", {"law": "auto", **of_sweep}
    yield "compare the laws on every run", "POST", "/v1/compare", data
    yield "compare the laws on a sweep", "POST", "/v1/compare", of_sweep
    yield get("fits", f"/v1/fits?project={PROJECT}")
    yield get("fit with its draws", f"/v1/fits/{fit_id}?draws=true")
    yield get("fit's points", f"/v1/fits/{fit_id}/points")
    yield get("fit's diagnostics", f"/v1/fits/{fit_id}/diagnostics")
    at = {"N": 1e10, "D": 2e11}
    yield "predict", "POST", "/v1/predictions", {"fit": fit_id, "points": [at], "keep": True}
    many = [{"N": 1e9 + n, "D": 1e11} for n in range(100_000)]
    yield "predict 100,000 runs", "POST", "/v1/predictions", {"fit": fit_id, "points": many}
    yield "allocate", "POST", "/v1/allocations", {"fit": fit_id, "budget_flops": 1e22}
    yield "forecast a run", "POST", "/v1/forecasts", {"fit": fit_id, "run": training}
    yield get("forecasts", f"/v1/forecasts?project={PROJECT}")
    named = [one["id"] for one in newest["items"]][:20]
    curves = {"project": PROJECT, "law": "annealing", "run_ids": named}
    yield "fit a curve law to 20 runs", "POST", "/v1/curves/fit", curves
    yield "fit a curve law to every run", "POST", "/v1/curves/fit", {**curves, "run_ids": None}
    yield get("curve fits", f"/v1/curves?project={PROJECT}")
    yield get("forecast of a run in training", f"/v1/runs/{training}/forecast")

    two = {side: {"validation_set": name} for side, name in (("source", "english"),
                                                             ("target", "code"))}  # fmt: skip
    link = {"project": PROJECT, "kind": "test_to_test", **two}
    yield "link two validation sets of every run", "POST", "/v1/links", link

    yield get("page: overview", "/")
    yield get("page: runs of all projects", "/runs")
    yield get("page: runs of the project", f"/runs?project={PROJECT}")
    yield get("page: older runs", f"/runs?project={PROJECT}&before={last}")
    yield get("page: running runs", f"/runs?project={PROJECT}&status=running")
    yield get("page: sweep", f"/sweeps/{sweep}")
    for what, one in (("finished", run), ("training", training)):
        yield get(f"page: run, {what}", f"/runs/{one}")
        yield get(f"page: figure of run, {what}", f"/runs/{one}/figure.json")
    yield get("page: fits", "/fits")
    yield get("page: fit", f"/fits/{fit_id}")
    yield get("page: fit's figure as HTML", f"/fits/{fit_id}/figures/fitted.html")
    others = ask(f"/v1/fits?project={PROJECT}&law=kaplan&limit=1")["items"]
    if others:
        yield get("page: fit of kaplan", f"/fits/{others[0]['id']}")
    yield get("page: predict", f"/predict?fit={fit_id}")
    yield get("page: predict's figure", f"/predict/figure.json?fit={fit_id}")
    yield get("page: compare", "/compare")
    yield get("page: compare the project", f"/compare?project={PROJECT}&validation_set=english")
    yield get("page: curves", "/curves")
    for page in ("forecasts", "laws", "links", "tasks", "cpt", "time"):
        yield get(f"page: {page}", f"/{page}")

    wide = ask("/v1/sweeps?project=wide&limit=1")["items"][0]["id"]
    yield get(f"sweep of {WIDE:,} runs", f"/v1/sweeps/{wide}")
    yield get("  its runs", f"/v1/runs?project=wide&sweep_id={wide}&limit=500")
    yield get("  page", f"/sweeps/{wide}")
    yield "  cancel it", "POST", f"/v1/sweeps/{wide}/cancel", None
    yield "delete a project of so many runs without points", "DELETE", "/v1/projects/wide", None


def make_wide(engine: Engine) -> None:
    """A project of one sweep of many runs that wait, to list, cancel and delete."""
    with engine.begin() as connection:
        if projects.find_by_name(connection, "wide") is not None:
            return
        project = projects.ensure(connection, "wide").id
        sweep = sweeps.create(connection, project, "all", {"made": True}).id
        runs.create_many(
            connection,
            [
                runs.NewRun(project, f"run-{k:06}", status="planned", sweep_id=sweep, steps=1000)
                for k in range(WIDE)
            ],
        )


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[tuple[httpx2.Client, Any]]:
    """A server of its own; a client of it, and the CPU seconds that it and Postgres have used."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SCALEWRIGHT_DATA_DIR": str(settings.data_dir)}
    server = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", str(port)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            for _ in range(3000):
                with contextlib.suppress(httpx2.TransportError):
                    client.get("/v1/health")
                    break
                assert server.poll() is None, "the server did not start"
                time.sleep(0.1)
            postgres = embedded.running(settings)
            assert postgres is not None
            watched = psutil.Process(server.pid), psutil.Process(postgres.pid)
            yield client, lambda: sum(map(cpu_seconds, watched))
    finally:
        server.terminate()
        server.wait(30)


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process, its children and those that have ended."""
    used = sum(process.cpu_times()[:4])
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            used += sum(child.cpu_times()[:2])
    return used


if __name__ == "__main__":
    main()
