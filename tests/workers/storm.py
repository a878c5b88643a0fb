"""A sweep while everything that it needs is killed: trainers, workers, the API, Postgres.

Who is killed, in which order and at which moment follows from a seed. Moments are numbers of points
stored, not times, so that a seed means much the same on any machine.
"""

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
from sqlalchemy.exc import DBAPIError

from app.storage import embedded
from tests.ports import free_port
from tests.workers.lab import (
    HOME,
    PATIENCE_SECONDS,
    ApiProcess,
    Lab,
    WorkerProcess,
    points_of,
)
from workers.proxy.checkpoint import checkpoint_path

VICTIMS = ("trainer", "worker", "api", "postgres")
LONGEST_OUTAGE_SECONDS = 3.0  # longer than the lease
TOGETHER = 0.25  # so often is the next one killed at the same moment
WORKERS = 2

Points = list[tuple[int, float, float, float]]


def each_once(chance: random.Random, kills: int) -> list[str]:
    """`kills` victims, at least 4 of them: every kind, and some again."""
    order = [*VICTIMS, *chance.choices(VICTIMS, k=kills - len(VICTIMS))]
    chance.shuffle(order)
    return order


def in_every_order(chance: random.Random, kills: int) -> list[str]:
    """`kills` victims, in which every kind follows on every kind, itself too, in each 17 kills.

    A walk through the complete graph of the four kinds that takes each of its 16 edges once
    (Hierholzer's circuit, the edges of each kind shuffled), again and again.
    """
    order: list[str] = [chance.choice(VICTIMS)]
    while len(order) < kills:
        edges = {kind: chance.sample(VICTIMS, len(VICTIMS)) for kind in VICTIMS}
        stack, circuit = [order[-1]], []
        while stack:
            if edges[stack[-1]]:
                stack.append(edges[stack[-1]].pop())
            else:
                circuit.append(stack.pop())
        order += circuit[::-1][1:]
    return order[:kills]


class Undisturbed:
    """The runs of a sweep, trained by nobody but the trainer: in turn, in one process, beside."""

    def __init__(self, folder: Path, runs: Sequence[Mapping[str, Any]]) -> None:
        """`runs` as REST shows them; a trunk comes before its branches."""
        folder.mkdir()
        tasks = []
        for run in runs:
            config = dict(run["config"])
            if run["kind"] == "branch":
                trunk = folder / f"run-{run['parent_run_id']}"
                start = checkpoint_path(trunk, run["parent_step"], "branch")
                config["init"] = {"kind": "branch", "checkpoint": str(start)}
            path = folder / f"run-{run['id']}.json"
            path.write_text(json.dumps(config))
            tasks.append([str(path), "--out", str(path.with_suffix(""))])
        code = (
            "import json, sys; from workers.proxy.train import main\n"
            "sys.exit(any([main(task) for task in json.loads(sys.argv[1])]))"
        )
        self._said = folder / "said.jsonl"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(tasks)],
                cwd=HOME,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=said,
            )

    def lines(self, seconds: float = PATIENCE_SECONDS) -> list[list[dict[str, Any]]]:
        """What the trainer printed, run by run."""
        assert self._process.wait(seconds) == 0
        each: list[list[dict[str, Any]]] = []
        for line in map(json.loads, self._said.read_text().splitlines()):
            if line["event"] == "start":
                each.append([])
            each[-1].append(line)
        return each

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Client(threading.Thread):
    """Makes one project after the other over REST, and remembers which were confirmed."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._stopping = threading.Event()
        self.confirmed: list[str] = []
        self.refused: list[str] = []

    def run(self) -> None:
        with httpx2.Client(base_url=self._address, timeout=120) as client:
            while not self._stopping.wait(0.2):
                name = f"promise {len(self.confirmed)}"
                with contextlib.suppress(httpx2.TransportError):  # killed before it answered
                    answer = client.post(
                        "/v1/projects", json={"name": name}, headers={"Idempotency-Key": name}
                    )
                    if answer.is_success:
                        self.confirmed.append(name)
                    elif answer.status_code != 503:  # its database was killed
                        self.refused.append(answer.text)

    def __enter__(self) -> "Client":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self.join(PATIENCE_SECONDS)

    def assert_all_are_kept(self, site: "Site") -> None:
        self.__exit__()
        kept = [name for name in site.projects() if name.startswith("promise")]
        print(f"{len(self.confirmed)} projects were confirmed, {len(kept)} are kept")
        assert self.confirmed and not self.refused
        assert len(set(kept)) == len(kept) and set(self.confirmed) <= set(kept)
        assert (
            len(kept) <= len(self.confirmed) + 1
        )  # the last may have died before it was confirmed


class Site:
    """A Postgres, a server and some workers, each of which is started again when it is dead."""

    def __init__(self, lab: Lab, data: Path) -> None:
        self._lab, self._data = lab, data
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self._api = ApiProcess(lab, self._port)
        self._client = httpx2.Client(base_url=self.address, timeout=120)
        self._workers: list[WorkerProcess] = []
        self._outage_seconds: float | None = None

    def revive(self) -> None:
        """Start what is not there: what was killed, and a server that met no Postgres."""
        if self._outage_seconds is not None:
            time.sleep(self._outage_seconds)
            embedded.start_server(self._data)
            self._outage_seconds = None
        if not self._api.alive:
            self._api = ApiProcess(self._lab, self._port)
        for worker in self._workers:  # none has ended by itself, whatever else was killed
            assert worker.alive, worker.said[-3000:]
        while len(self._workers) < WORKERS:
            self._workers.append(WorkerProcess(self._lab, "--concurrency", "1"))

    def of_kind(self, victim: str) -> list[psutil.Process]:
        """What may be killed now."""
        if victim == "postgres":
            server = embedded.running_server(self._data)
            return [] if server is None else [psutil.Process(server.pid)]
        if victim == "api":
            return [psutil.Process(self._api.pid)] if self._api.alive else []
        if victim == "worker":
            return [psutil.Process(worker.pid) for worker in self._workers]
        return [trainer for worker in self._workers for trainer in worker.trainers]

    def strike(self, victim: str, chance: random.Random) -> bool:
        """Kill one of the kind; False if there is none just now: a trainer may have finished."""
        there = self.of_kind(victim)
        if not there:
            return False
        chosen = chance.choice(there)
        with contextlib.suppress(psutil.NoSuchProcess):  # a trainer may just have finished
            chosen.kill()
        if victim == "postgres":
            self._outage_seconds = chance.uniform(0, LONGEST_OUTAGE_SECONDS)
        elif victim == "api":
            self._api.wait()
        elif victim == "worker":
            (dead,) = [worker for worker in self._workers if worker.pid == chosen.pid]
            dead.wait()
            self._workers.remove(dead)
        return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is trained meanwhile; whatever is killed then dies when it is let go."""
        trainers = self.of_kind("trainer")
        for_each(trainers, psutil.Process.suspend)
        try:
            yield
        finally:
            for_each(trainers, psutil.Process.resume)

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """The answer, once the server and its database are there to give one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.revive()
            said = ""
            with contextlib.suppress(httpx2.TransportError):
                answer = self._client.request(method, path, **arguments)
                if answer.is_success:
                    return answer.json()
                said = f"{answer.status_code} {answer.text}"
                assert answer.status_code == 503, said
            assert time.monotonic() < deadline, f"{path}: {said}"
            time.sleep(0.1)

    def curve(self, run_id: int) -> Points:
        """Every point of a run that a client can read."""
        points: Points = []
        while True:
            page = {"after_step": points[-1][0] if points else -1, "max_rows": 1000}
            got = self.ask("GET", f"/v1/runs/{run_id}/curve", params=page)
            more = zip(*(got[name] for name in ("step", "tokens", "loss", "lr")), strict=True)
            before = len(points)
            points += more
            if len(points) == before:
                return points

    def projects(self) -> list[str]:
        names: list[str] = []
        page: dict[str, Any] = {"limit": 100}
        while True:
            got = self.ask("GET", "/v1/projects", params=page)
            names += [project["name"] for project in got["items"]]
            if not got["next_cursor"]:
                return names
            page["cursor"] = got["next_cursor"]

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._client.close()
        self._api.end()
        for worker in self._workers:
            worker.end()
            if kind is not None:
                print(worker.said[-3000:])
        if kind is not None:
            print((self._lab.folder / "api.log").read_text()[-3000:])


def for_each(processes: Iterable[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)


def survive(
    lab: Lab, data: Path, spec: Mapping[str, Any], victims: Sequence[str], chance: random.Random
) -> None:
    """Submit a sweep, kill `victims` in turn while it is trained, and find all as it should be.

    Before each kill a client reads every point that there is; it must find them again. A sweep that
    ends before the last has been killed is submitted once more.
    """
    began = time.monotonic()
    patience = began + PATIENCE_SECONDS + 120 * len(victims)
    left = list(zip(gaps(chance, len(victims)), victims, strict=True))
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Site(lab, data))
        client = stack.enter_context(Client(site.address))
        undisturbed = None
        for submitted in itertools.count(1):
            ids = submit(site, {**spec, "name": f"{spec['name']} {submitted}"})
            runs = [site.ask("GET", f"/v1/runs/{run_id}") for run_id in ids]
            if undisturbed is None:
                undisturbed = Undisturbed(lab.folder / "undisturbed", runs)
                stack.callback(undisturbed.end)
            before = len(left)
            train(lab, site, ids, left, chance, patience)
            for run_id, expected in zip(ids, undisturbed.lines(), strict=True):
                assert_as_undisturbed(lab, site, run_id, expected)
            print(
                f"{before - len(left)} kills in sweep {submitted}, {time.monotonic() - began:.0f} s"
            )
            if not left:
                break
        client.assert_all_are_kept(site)


def submit(site: "Site", spec: Mapping[str, Any]) -> list[int]:
    """The ids of its runs, each trunk before its branches."""
    once = {"Idempotency-Key": spec["name"]}
    made = site.ask("POST", "/v1/sweeps", json=spec, headers=once)
    listed = site.ask("GET", "/v1/runs", params={"sweep_id": made["id"], "limit": 100})
    return sorted(run["id"] for run in listed["items"])


def train(
    lab: Lab,
    site: "Site",
    ids: Sequence[int],
    left: list[tuple[int, str]],
    chance: random.Random,
    patience: float,
) -> None:
    """Wait until the runs have ended; meanwhile whoever is `left` is killed when it is time."""
    acknowledged: dict[int, Points] = {run_id: [] for run_id in ids}
    struck: list[str] = []

    def read_again() -> None:
        for run_id, before in acknowledged.items():
            now = site.curve(run_id)
            assert now[: len(before)] == before, f"run {run_id} after {struck}"
            acknowledged[run_id] = now

    at = left[0][0] if left else 0
    while (state := progress(lab, ids)) is None or state.running:
        assert time.monotonic() < patience, (struck, left, state)
        site.revive()
        if state is None or not left or state.points < at or not site.of_kind(left[0][1]):
            time.sleep(0.05)
            continue
        with site.held():  # else a sweep of seconds were over when the server is up again
            read_again()
        time.sleep(chance.uniform(0, 0.3))
        while site.strike(left[0][1], chance):
            struck.append(left.pop(0)[1])
            at = state.points + left[0][0] if left else 0
            if not left or left[0][0] > 0:
                break
    read_again()
    print(*struck)


def assert_as_undisturbed(
    lab: Lab, site: "Site", run_id: int, expected: Sequence[dict[str, Any]]
) -> None:
    """Ended well, every step once, and every number that of the undisturbed run, bit for bit."""
    run = lab.run(run_id)
    assert run.status == "finished", f"{run.status}: {run.message}"
    curve = site.curve(run_id)
    steps = [point[0] for point in curve]
    assert steps == list(range(int(steps[0]), (run.steps or 0) + 1))
    assert curve == lab.curve(run_id) == points_of(expected)
    evaluations = site.ask("GET", f"/v1/runs/{run_id}/evaluations")["evaluations"]
    assert losses_of(evaluations) == losses_of(
        line for line in expected if line["event"] == "evaluation"
    )


def losses_of(evaluations: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, float]]:
    return sorted((each["validation_set"], each["step"], each["loss"]) for each in evaluations)


def gaps(chance: random.Random, kills: int) -> list[int]:
    """How many points each comes after the one before it; a quarter of them none at all."""
    return [0 if chance.random() < TOGETHER else chance.randrange(20, 200) for _ in range(kills)]


@dataclass(frozen=True)
class Progress:
    points: int
    running: bool


def progress(lab: Lab, ids: Sequence[int]) -> Progress | None:
    """How far the runs are; None while there is no contact with the database."""
    statement = (
        "select (select count(*) from curve_points where run_id = any(:ids)),"
        " (select count(*) from runs where id = any(:ids) and finished_at is null)"
    )
    try:
        ((points, running),) = lab.rows(statement, ids=list(ids))
    except DBAPIError:
        return None
    return Progress(points, running > 0)
