"""The main job, for real, on a laptop: sweep -> fit -> forecast -> the larger run -> score.

`scalewright demo` starts a server (embedded Postgres, migrations, API, dashboard) and a worker, and
then speaks to them through REST alone, as any other client would. What it makes has a name, so a
second call finds it and goes on from there: a finished demo is shown again in seconds, and one that
was interrupted resumes from its checkpoints. The sweep and why it is this one: docs/demo-sweep.md.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import psutil
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli_client import Client
from app.cli_output import Refused
from app.settings import Settings

SPEC = Path(__file__).with_name("demo_sweep.json")
Document = dict[str, Any]  # one JSON object of the API
Found = TypeVar("Found")
LAW = "chinchilla"
ENDED = ("finished", "failed", "cancelled", "diverged")
POLL_SECONDS = 1.0
LOG_SECONDS = 20.0
# Measured with the sweep (docs/demo-sweep.md): a step of these small models takes as long as this
# many FLOPs beyond its own; and the pace of one process, until the pace here is known.
STEP_FLOPS = 6e8
FLOPS_PER_SECOND = 5e10
START_SECONDS = 180.0
STOP_SECONDS = 15.0
BUSY_SECONDS = (1.0, 2.0, 5.0, 10.0)  # pauses before a server that did not answer is asked again
SERVE = ("-m", "app.cli", "serve")
WORK = ("-m", "workers")


@dataclass(frozen=True)
class Demo:
    """What app/demo_sweep.json says.

    sweep    body of POST /v1/sweeps
    target   size and budget of the larger run that is forecast, then trained
    validation_set, level  what is fitted and forecast, and the interval's level
    budget_flops           what the allocation at the end is for
    """

    project: str
    sweep: Document
    target: Document
    validation_set: str
    level: float
    budget_flops: float

    @classmethod
    def read(cls, seed: int | None) -> "Demo":
        said = json.loads(SPEC.read_text())
        sweep = said["sweep"] | ({} if seed is None else {"seed": seed})
        sweep["name"] = f"{sweep['name']}-seed{sweep['seed']}"
        return cls(**{**said, "sweep": sweep})


def main(settings: Settings, *, ci: bool = False, seed: int | None = None) -> int:
    """Run the demo; 0 when the forecast is scored, 1 when something on the way failed.

    ci: exit then, with the forecast as the last line; otherwise stay up until Ctrl-C.
    """
    console = Console(stderr=False)
    demo = Demo.read(seed)
    signal.signal(signal.SIGTERM, _interrupt)
    hangup = getattr(signal, "SIGHUP", None)  # the terminal is closed; Windows has none
    if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:  # as under nohup
        signal.signal(hangup, _interrupt)
    with contextlib.ExitStack() as stack:
        try:
            client, processes = start(settings, stack, console)

            def watch_to_the_end(title: str, **which: int) -> None:
                watch(client, console, title, processes, **which)

            sweep = get_sweep(client, demo)
            watch_to_the_end(f"sweep {sweep['name']}", sweep_id=sweep["id"])
            fit = get_fit(client, demo, sweep)
            forecast = get_forecast(client, demo, sweep, fit)
            announce(console, forecast)
            run = release_target(client, forecast)
            watch_to_the_end(f"run {run['name']}", run_id=run["id"])
            run = client.get(f"/v1/runs/{run['id']}")
            scored = client.get(f"/v1/forecasts/{forecast['id']}")
            if scored["actual"] is None:
                raise Refused(
                    f"Run {run['name']} is {run['status']} but its forecast is not scored.",
                    f"See {settings.data_dir / 'logs'}.",
                )
            report(client, console, demo, fit, scored, client.url)
            console.print(closing_line(scored), markup=False, highlight=False, soft_wrap=True)
            if not ci:
                console.print(f"\nThe dashboard stays up at [bold]{client.url}[/]. Ctrl-C ends it.")
                while True:
                    time.sleep(3600)
        except KeyboardInterrupt:
            console.print("\nStopping. What is trained is kept: `make demo` goes on from here.")
            return 130 if ci else 0
        except Refused as refusal:
            console.print(f"[red]{refusal}[/]\nLogs: {settings.data_dir / 'logs'}")
            return 1
    return 0


# --- the processes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process of ours, and the end of its log where what it says begins."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path
    begun: int

    def said(self) -> str:
        """Its last lines."""
        with self.log.open("rb") as log:
            log.seek(self.begun)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-12:])

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    def listens(self, port: int) -> bool:
        """Whether it is this process, and nobody else's, that takes connections there.

        Where the system does not let us look, it is believed to be.
        """
        try:
            found = psutil.Process(self.popen.pid).net_connections("tcp")
        except psutil.AccessDenied:
            return True
        except psutil.NoSuchProcess:
            return False
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found)


def start(
    settings: Settings, stack: contextlib.ExitStack, console: Console
) -> tuple[Client, list[Process]]:
    """Corpora, server, worker; a client of the server once it answers, and the processes."""
    from app.services import corpora
    from app.storage import embedded

    if settings.database_url is None and embedded.running(settings) is None:
        stack.callback(embedded.stop, settings)  # it is ours: started with the server below
    logs = settings.data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with console.status("Reading the corpora: source code and documentation on this machine"):
        built = corpora.build_default(settings.corpus_dir)
    for corpus, manifest in built.items():
        tokens = manifest["tokens"]["train"]
        console.print(f"corpus [bold]{corpus}[/]: {tokens / 1e6:.1f}M training tokens")
    environment = {
        **os.environ,
        "SCALEWRIGHT_DATA_DIR": str(settings.data_dir),
        "OMP_NUM_THREADS": "1",
    }
    with console.status("Starting Postgres, the API and a worker"):
        client, server = start_server(stack, settings.port, environment, logs)
        worker = spawn(stack, WORK, environment, logs / "worker.log")
    console.print(f"dashboard [bold]{client.url}[/] (logs in {logs})")
    return client, [server, worker]


def start_server(
    stack: contextlib.ExitStack, port: int, environment: dict[str, str], logs: Path
) -> tuple[Client, Process]:
    """The server on this port, or on one that is free: a port that was free a moment ago may be
    somebody else's, another demo's say, by the time that the server asks for it."""
    for wanted in (port, 0, 0):
        found = free_port(wanted)
        client = Client(f"http://127.0.0.1:{found}")
        server = spawn(
            stack, SERVE, {**environment, "SCALEWRIGHT_PORT": str(found)}, logs / "server.log"
        )
        if wait_until_healthy(client, server, found):
            return client, server
        if "already in use" not in server.said().lower():
            break
    raise Refused("The server did not start:", server.said())


def spawn(
    stack: contextlib.ExitStack, arguments: Sequence[str], environment: dict[str, str], log: Path
) -> Process:
    """A process of ours, in a group of its own, that is stopped when the stack unwinds."""
    out: IO[bytes] = stack.enter_context(log.open("ab"))
    begun = log.stat().st_size
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=Path(__file__).parent.parent,
        start_new_session=True,
    )
    stack.callback(stop, process)
    return Process(log.stem, process, log, begun)


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_healthy(client: Client, server: Process, port: int) -> bool:
    """Whether our own server answers; False once it has ended, or after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while not server.ended and time.monotonic() < deadline:
        if server.listens(port):
            with contextlib.suppress(Refused):
                client.get("/v1/health")
                return True
        time.sleep(0.2)
    return False


def free_port(wanted: int) -> int:
    """The wanted port where nothing listens on it, else one that the system picks."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise Refused("No port is free on 127.0.0.1.")


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


# --- the job, through REST -------------------------------------------------------------------


def first(items: Iterable[Document], where: Callable[[Document], bool]) -> Document | None:
    return next((item for item in items if where(item)), None)


def get_sweep(client: Client, demo: Demo) -> Document:
    """The demo's sweep: found by its name, else submitted."""
    projects = client.every("/v1/projects")
    if first(projects, lambda project: project["name"] == demo.project) is None:
        about = "The sweep, fit and scored forecast that `make demo` makes."
        client.post("/v1/projects", json={"name": demo.project, "description": about})
    name = demo.sweep["name"]
    sweeps = client.every("/v1/sweeps", project=demo.project)
    known = first(sweeps, lambda sweep: sweep["name"] == name)
    return known or client.post("/v1/sweeps", json={"project": demo.project, **demo.sweep})


def get_fit(client: Client, demo: Demo, sweep: Document) -> Document:
    """The law on the sweep's cooled runs; the fit that is there already if there is one."""
    runs = list(client.every("/v1/runs", sweep_id=sweep["id"]))
    failed = [run for run in runs if run["status"] != "finished"]
    if failed:
        raise Refused(
            f"Run {failed[0]['name']} is {failed[0]['status']}: {failed[0]['message']}",
            "`make clean-demo` starts afresh.",
        )
    chosen = sorted(run["id"] for run in runs if run["cooled"])
    fits = client.every("/v1/fits", project=demo.project, law=LAW)
    known = first(fits, lambda fit: sorted(fit["run_ids"]) == chosen)
    return known or client.post(
        "/v1/fits",
        json={
            "law": LAW,
            "project": demo.project,
            "validation_set": demo.validation_set,
            "select": {"run_ids": chosen},
            "level": demo.level,
        },
    )


def get_forecast(client: Client, demo: Demo, sweep: Document, fit: Document) -> Document:
    """The forecast of the larger run, written while that run is held back."""
    known = first(client.every("/v1/forecasts", fit_id=fit["id"]), lambda one: one["run_id"])
    if known is not None:
        return known
    name = f"{sweep['name']}-target"
    runs = client.every("/v1/runs", project=demo.project)
    run = first(runs, lambda one: one["name"] == name) or client.post(
        "/v1/runs",
        json={
            "project": demo.project,
            "name": name,
            "sweep": sweep["id"],
            "hold": True,
            **demo.target,
        },
    )
    body = {"fit": fit["id"], "run": run["id"], "level": demo.level}
    made: Document = client.post("/v1/forecasts", json=body)
    return made


def release_target(client: Client, forecast: Document) -> Document:
    """Have the run trained that was forecast, unless it is already."""
    where = f"/v1/runs/{forecast['run_id']}"
    run: Document = client.get(where)
    if run["status"] == "planned":
        client.post(f"{where}/start")
    return run


def watch(
    client: Client,
    console: Console,
    title: str,
    processes: Sequence[Process],
    *,
    sweep_id: int | None = None,
    run_id: int | None = None,
) -> None:
    """A progress bar until every run is over; the time left is at the pace seen so far.

    Refused where one of the processes has ended: nothing would come of waiting.
    """

    def find() -> list[Document]:
        if run_id is not None:
            return [client.get(f"/v1/runs/{run_id}")]
        return list(client.every("/v1/runs", sweep_id=sweep_id))

    def look() -> list[Document]:
        return patiently(find, processes)

    runs = look()
    if all(run["status"] in ENDED for run in runs):
        return
    begun, at_start = time.monotonic(), sum(spent(run) for run in runs)
    total, said = sum(cost(run) for run in runs), 0.0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[runs]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        refresh_per_second=2,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task(title, total=total, runs="", left="")
        while True:
            done = sum(spent(run) for run in runs)
            over = sum(run["status"] in ENDED for run in runs)
            elapsed = time.monotonic() - begun
            at_once = max(1, min(len(runs) - over, os.cpu_count() or 1))
            pace = (done - at_start) / elapsed if elapsed > 10 else 0.0
            left = (total - done) / (pace or at_once * FLOPS_PER_SECOND)
            clock = f"about {left // 60:.0f}:{left % 60:02.0f} left"
            progress.update(bar, completed=done, runs=f"{over}/{len(runs)} runs", left=clock)
            if not console.is_terminal and elapsed >= said:  # a log has no bar: a line now and then
                console.print(f"{title}: {done / total:.0%}, {over}/{len(runs)} runs, {clock}")
                said = elapsed + LOG_SECONDS
            if over == len(runs):
                progress.update(bar, completed=total, left="")
                return
            time.sleep(POLL_SECONDS)
            runs = look()


def patiently(find: Callable[[], Found], processes: Sequence[Process]) -> Found:
    """What `find` finds. A server too busy to answer is asked again, as long as it lives."""
    for pause in (*BUSY_SECONDS, None):
        for process in processes:
            if process.ended:
                raise Refused(f"The {process.name} has ended:", process.said())
        try:
            return find()
        except Refused as refusal:
            answered = refusal.details.get("status", 503) < 500
            if pause is None or answered:
                raise
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def cost(run: Document, upto: float | None = None) -> float:
    """Work of the run, or of its part up to a step, in FLOPs and what a step costs beside them."""
    own = max(0.0, (run["steps"] if upto is None else upto) - (run["parent_step"] or 0))
    return own * (STEP_FLOPS + float(run["flops_exact"]) / float(run["steps"]))


def spent(run: Document) -> float:
    return cost(run, None if run["status"] in ENDED else run["step"])


# --- the answer ------------------------------------------------------------------------------


def announce(console: Console, forecast: Document) -> None:
    half = 50 * (forecast["upper"] - forecast["lower"]) / forecast["loss"]
    console.print(
        Panel(
            f"{forecast['run_name']}: [bold]{forecast['loss']:.4f}[/] {forecast['loss_unit']} on "
            f"{forecast['validation_set']}, {forecast['level']:.0%} interval "
            f"\\[{forecast['lower']:.4f}, {forecast['upper']:.4f}] (half-width {half:.1f}%), "
            f"{forecast['compute_ratio']:.1f}x the compute of the largest run fitted",
            title="Forecast, written before the run is trained",
            title_align="left",
        )
    )


def report(
    client: Client,
    console: Console,
    demo: Demo,
    fit: Document,
    scored: Document,
    url: str,
) -> None:
    """The fit, the allocation for a budget, the score."""
    document = fit["document"]
    table = Table(title=f"{fit['law']}: {document['status']}", title_justify="left")
    table.add_column("parameter")
    table.add_column("value", justify="right")
    table.add_column(f"{demo.level:.0%} interval", justify="right")
    for name, value in document["params"].items():
        ends = ("open" if end is None else f"{end:.4g}" for end in document["intervals"][name])
        table.add_row(name, f"{value:.4g}", " .. ".join(ends))
    console.print(table)
    for warning in document["warnings"]:
        console.print(f"[yellow]{warning['code']}[/]: {warning['message']}")
    answer = client.post(
        "/v1/allocations", json={"fit": fit["id"], "budget_flops": demo.budget_flops}
    )
    best, spread = answer["optimal"], answer["intervals"]
    console.print(
        f"With {demo.budget_flops:.0e} FLOPs train N = {best['N']:.3g} parameters "
        f"\\[{spread['N'][0]:.3g}, {spread['N'][1]:.3g}] on D = {best['D']:.3g} tokens "
        f"\\[{spread['D'][0]:.3g}, {spread['D'][1]:.3g}]: loss {best['loss']:.3f} "
        f"\\[{best['lower']:.3f}, {best['upper']:.3f}]"
    )
    verdict = "inside" if scored["inside"] else "outside"
    console.print(f"The actual lies [bold]{verdict}[/] the interval. See {url}/forecasts")


def closing_line(scored: Document) -> str:
    """The demo's last line, as the command-line contract lays it down; the unit ends it."""
    return (
        f"forecast {scored['loss']:.3f} [{scored['lower']:.3f}, {scored['upper']:.3f}] "
        f"actual {scored['actual']:.3f} error {100 * scored['error']:+.1f}% "
        f"at {scored['compute_ratio']:.1f}x compute, {scored['loss_unit']}"
    )
