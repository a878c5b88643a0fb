"""Workers under a real Slurm: an array drains a sweep, is hurt, is preempted, and nothing shows.

The references are the trainer's own output, undisturbed: on one thread of a CPU training is exact,
so the curves are compared bit for bit. Leases have the waiting times that people have.
"""

import contextlib
import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from app.services import corpora, projects, sweeps
from app.storage import checkpoints
from app.storage.checkpoints import Checkpoint
from app.storage.runs import Run
from tests import slurm_cluster
from tests.slurm_cluster import CPUS, Cluster
from tests.workers.lab import (
    HASTE,
    HOME,
    PATIENCE_SECONDS,
    Lab,
    log_lines,
    points_of,
    train_alone,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing())),
]
SECRET = "a-password-that-nobody-may-read"
CLI = (sys.executable, "-m", "app.cli", "cluster", "slurm")
SPEC = {
    "corpora": {"train": [{"name": "code", "weight": 1.0}], "validation": ["code"]},
    "model": {"seq_len": 64, "vocab_size": 256, "head_dim": 8, "mlp": "swiglu", "tied": False},
    "sizes": [{"d_model": 16, "n_layers": 1}],
    "budgets_flops": [2e10],
    "schedule": {"kind": "wsd", "warmup_steps": 20, "cooldown_fraction": 0.1},
    "optimizer": {"name": "muon", "lr": 6e-3},
    "batch_tokens": 256,
    "min_steps": 100,
    "checkpoint_every_steps": 100,
    "evaluate": {"tokens": 2048},
}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with slurm_cluster.cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def corpus(settings, slurm) -> Path:
    """Half a megabyte of the standard library's source, where a sweep finds it."""
    library = Path(sysconfig.get_paths()["stdlib"])
    corpora.build(
        "code",
        [library / "asyncio", library / "json"],
        settings.corpus_dir,
        validation_fraction=0.1,
    )
    return settings.corpus_dir / "code"


@pytest.fixture(scope="module")
def sweep(engine, settings, corpus) -> list[Run]:
    """A trunk and the branch that cools down from it, planned and queued."""
    with engine.begin() as connection:
        projects.create(connection, "slurm")
        made = sweeps.create(connection, settings, "slurm", "ladder", SPEC)
        return sweeps.runs_of(connection, made.id)


@pytest.fixture(scope="module")
def undisturbed(sweep, tmp_path_factory) -> list:
    """The curve of the trunk, trained by nobody but the trainer."""
    return points_of(train_alone(tmp_path_factory.mktemp("alone"), sweep[0].config))


@pytest.fixture
def lab(engine, settings, corpus, tmp_path) -> Lab:
    return Lab(engine, settings, corpus, tmp_path)


class Array:
    """An array of workers, submitted as people submit it, and what became of its tasks."""

    def __init__(self, cluster: Cluster, lab: Lab, *arguments: str) -> None:
        self.cluster = cluster
        self.folder = lab.folder / "slurm"
        # what the tests of workers hurry is left as people have it; a secret more is put in
        environment = {name: value for name, value in lab.env.items() if name not in HASTE}
        environment |= {name: cluster.environment[name] for name in ("PATH", "SLURM_CONF")}
        environment["SCALEWRIGHT_ADMIN_KEY"] = SECRET
        environment["SCALEWRIGHT_AUTH"] = "keys"
        done = subprocess.run(
            [*CLI, "--json", "--log-dir", str(self.folder), *arguments],
            cwd=HOME,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        self.id: str = said["job_id"]
        self.script = Path(said["script"]).read_text()
        self.said = done.stdout + done.stderr

    def logs(self) -> dict[str, list[dict]]:
        """What each task's worker said, by the task's number."""
        return {path.stem.rpartition("_")[2]: log_lines(path) for path in self.folder.glob("*.log")}

    def ready(self, workers: int) -> None:
        def started() -> int:
            return sum(any(x["event"] == "worker started" for x in log) for log in logs())

        def logs() -> list[list[dict]]:
            return list(self.logs().values())

        self.wait(lambda: started() == workers, "the workers")

    def task_of(self, run: Run) -> str:
        """The Slurm task whose worker holds the run: Slurm says so in the worker's environment."""
        assert run.worker is not None
        environment = Path(f"/proc/{run.worker.rpartition(':')[2]}/environ").read_bytes()
        (task,) = [
            value.partition(b"=")[2].decode()
            for value in environment.split(b"\0")
            if value.startswith(b"SLURM_ARRAY_TASK_ID=")
        ]
        return f"{self.id}_{task}"

    def resumed_at(self, run_id: int) -> datetime | None:
        """When a worker started the second trainer of the run, by that worker's own log."""
        ours = {"event": "run started", "run_id": run_id, "attempt": 2}
        for log in self.logs().values():
            for line in log:
                if ours.items() <= line.items():
                    return datetime.fromisoformat(line["timestamp"])
        return None

    def requeued(self, restarts: int) -> None:
        """Wait until the only task has been queued again, and until it runs again."""
        job = f"{self.id}_1"

        def restarted() -> bool:
            return f"Restarts={restarts} " in self.cluster.run("scontrol", "show", "job", job)

        self.wait(restarted, "the requeue")
        # it waits until slurmd has forgotten the credential: cred_expire of slurm.conf
        self.wait(
            lambda: self.cluster.states(self.id) == {job: "RUNNING"}, "the task to come again"
        )

    def processes(self) -> list[psutil.Process]:
        """What lives of its tasks: Slurm marks the environment of whatever it starts."""
        marks = {
            "SLURM_ARRAY_JOB_ID": self.id,
            "SLURM_CONF": self.cluster.environment["SLURM_CONF"],
        }
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if marks.items() <= process.environ().items():
                    found.append(process)
        return found

    def wait(self, until, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not until():
            assert time.monotonic() < deadline, self.everything(what)
            time.sleep(0.1)

    def everything(self, what: str) -> str:
        logs = "\n".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))
        return f"waited in vain for {what}: {self.cluster.states(self.id)}\n{logs}"


def test_an_array_drains_a_sweep_and_two_of_its_jobs_are_killed(slurm, lab, sweep, undisturbed):
    """One by SIGKILL to its batch step, as when a node fails; one by scancel of the whole job."""
    trunk, branch = sweep
    assert (trunk.kind, branch.kind, branch.status) == ("trunk", "branch", "planned")
    steps = trunk.steps
    assert steps is not None and steps == len(undisturbed)
    lab.hold(150)  # that they train still when everybody is there
    begun = [trunk.id, lab.submit("the trunk again", trunk.config)]
    array = Array(slurm, lab, "--array", str(CPUS))
    array.ready(CPUS)
    before = {run_id: lab.wait(run_id, lambda run: run.step >= 150) for run_id in begun}
    tasks = {run_id: array.task_of(run) for run_id, run in before.items()}
    killed = {}
    for run_id, how in zip(begun, ("--batch", "--full"), strict=True):
        killed[run_id] = datetime.now(UTC)
        slurm.run("scancel", "--signal=KILL", how, tasks[run_id])
    for run_id in begun:
        run = lab.wait(run_id, lambda run: run.attempt == 2 and run.message == "")
        assert run.status == "running" and array.task_of(run) not in tasks.values()
        array.wait(lambda run_id=run_id: array.resumed_at(run_id), "it to be started")
    resumed = [(array.resumed_at(run_id) - killed[run_id]).total_seconds() for run_id in begun]
    print("resumed elsewhere after", *(f"{seconds:.1f} s" for seconds in resumed))
    assert max(resumed) < 20
    lab.release()
    ended = [lab.wait_ended(run_id) for run_id in (*begun, branch.id)]
    assert [run.status for run in ended] == ["finished"] * 3
    assert [run.attempt for run in ended] == [2, 2, 1]
    array.wait(lambda: not array.cluster.states(array.id), "the array to leave")
    lines = [line for log in array.logs().values() for line in log]
    again = [x for x in lines if x["event"] == "run started" and x["attempt"] == 2]
    assert len(again) == 2 and all(x["resume_step"] >= 100 for x in again)
    for run_id in begun:
        assert lab.curve(run_id) == undisturbed
    assert lab.curve(branch.id)[-1][0] == branch.steps
    logs = "".join(path.read_text() for path in array.folder.glob("*"))
    everything = array.script + array.said + logs
    assert SECRET not in everything
    assert lab.env["DATABASE_URL"] not in everything
    array.wait(lambda: not array.processes(), "its last process to leave")


def test_at_the_time_limit_and_at_a_preemption_run_and_worker_come_again(
    slurm, lab, sweep, undisturbed
):
    """Given back twice: by the script's own request, and by Slurm's. Not a step is lost."""
    lab.hold(150)  # what is started again prints the points of a step or two, and waits too
    run_id = lab.submit("preempted", sweep[0].config)
    array = Array(slurm, lab, "--array", "1", "--partition", "low")
    job = f"{array.id}_1"
    lab.wait(run_id, lambda run: run.step >= 150)
    # what --signal=B:TERM@60 does a minute before the time limit
    slurm.run("scancel", "--signal=TERM", "--batch", job)
    first = given_back(lab, array, run_id, 1)
    array.requeued(restarts=1)
    run = lab.wait(run_id, lambda run: run.step > first.step)
    assert (run.status, run.attempt) == ("running", 2)
    # a job that needs the whole node, in a partition that may take it away from the other
    slurm.run(
        "sbatch", "--partition=high", f"--ntasks={CPUS}", "--output=/dev/null", "--wrap", "sleep 1"
    )
    second = given_back(lab, array, run_id, 2)
    assert first.step < second.step < len(undisturbed)
    array.requeued(restarts=2)
    lab.release()
    run = lab.wait_ended(run_id)
    assert (run.status, run.attempt, run.failures) == ("finished", 3, 0)
    lines = array.logs()["1"]  # one file for all times
    ours = [x for x in lines if x["event"] == "run started" and x["run_id"] == run_id]
    begun = [line["resume_step"] for line in ours]
    assert begun == [None, first.step, second.step]
    assert lab.curve(run_id) == undisturbed
    array.wait(lambda: not array.cluster.states(array.id), "the worker to leave")


def given_back(lab: Lab, array: Array, run_id: int, attempt: int) -> Checkpoint:
    """The checkpoint that the run was given back with: of the very step that it had come to."""

    def closed() -> list[dict]:
        ours = {"event": "run closed", "run_id": run_id, "attempt": attempt}
        return [line for line in array.logs().get("1", []) if ours.items() <= line.items()]

    array.wait(closed, "the run to be given back")
    ((status, message),) = {(line["status"], line["message"]) for line in closed()}
    assert (status, message) == ("queued", "stopped with its worker")
    assert lab.run(run_id).failures == 0
    with lab.engine.connect() as connection:
        left = checkpoints.latest(connection, run_id)
    # its successor, if there is one already, has got no further than to its first points
    statement = "select max(step) from curve_points where run_id = :id and attempt = :attempt"
    ((last,),) = lab.rows(statement, id=run_id, attempt=attempt)
    assert left is not None and left.step == last
    return left
