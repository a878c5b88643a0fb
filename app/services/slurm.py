"""Workers as a Slurm array: the batch script, and handing it to sbatch.

One array task is one `python -m workers` against one Postgres; Slurm places, limits, preempts and
requeues them, and the queue in Postgres decides who trains what. https://slurm.schedmd.com/sbatch.html

No secret is in the script: the database's address comes to the workers in their environment, or
from a file that only its owner can read. Nothing that a user gives reaches a shell unquoted, and
what no shell or sbatch would take literally is refused.
"""

import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.services import worker_sizes
from app.services.errors import ServiceError

# Names of partitions, accounts and so on, as clusters have them; sbatch reads them unquoted.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")
_LIST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+@:=-]*")
# sbatch's own forms: minutes[:seconds], hours:minutes:seconds, days-hours[:minutes[:seconds]]
_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]?")
_IN_WORDS = {
    _NAME: "letters, digits and _ . + @ -",
    _LIST: "letters, digits and _ . , + @ : = -",
    _TIME: "minutes (90), hours:minutes:seconds (4:00:00) or days-hours (2-12)",
    _MEMORY: "a whole number and K, M, G or T, such as 16G",
}
# In a #SBATCH line a path stands unquoted: no blank, quote, percent sign or anything of a shell's.
_PATH = re.compile(r"/[A-Za-z0-9_./+@:=,~-]*")
# What only the API server, or a client of it, has a use for.
_NOT_FOR_WORKERS = ("SCALEWRIGHT_ADMIN_KEY", "SCALEWRIGHT_API_KEY")
DATABASE_VARIABLES = ("SCALEWRIGHT_DATABASE_URL", "DATABASE_URL")

SHORTEST_GRACE_SECONDS = 30
"""A worker gives its trainers 20 s to write a checkpoint and takes 5 s to say so."""


@dataclass(frozen=True)
class WorkerArray:
    """An array of workers, checked when it is made: ServiceError says what is accepted.

    array           workers, each a task of its own
    gpus            GPUs of each; 0: none is asked for
    gpus_per_run    of these, for each run at once; runs_per_gpu: runs that share each
    cpus            cores of each
    grace_seconds   between SIGTERM and the end: for a checkpoint, and to give the run back
    log_dir         one file a task; must exist on every node
    python          the interpreter that scalewright is installed in, on every node
    variables       settings for the workers' environment, written into the script: no secrets
    options         the partition, account and so on: sbatch's own long options
    drain           leave when nothing is queued or being trained, so that the allocation ends
    """

    array: int
    log_dir: Path
    python: Path
    gpus: int = 0
    gpus_per_run: int = 1
    runs_per_gpu: int | None = None
    cpus: int = 1
    concurrency: int | None = None
    at_once: int | None = None
    grace_seconds: int = 60
    drain: bool = True
    requeue: bool = True
    job_name: str = "scalewright"
    variables: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        worker_sizes.check(
            self.gpus,
            self.gpus_per_run,
            self.runs_per_gpu,
            ("--array", self.array, 1, 10_000),
            ("--cpus", self.cpus, 1, worker_sizes.MOST_CPUS),
            ("--concurrency", self.concurrency, 1, worker_sizes.MOST_CPUS),
            ("--at-once", self.at_once, 1, 10_000),
            ("--grace", self.grace_seconds, SHORTEST_GRACE_SECONDS, 65_535),
        )
        _accept("--job-name", self.job_name, _NAME)
        _accept("--log-dir", str(self.log_dir), _PATH)
        _accept("--python", str(self.python), _PATH)
        for name, value in self.options.items():
            _accept(f"--{name}", value, _OPTIONS[name])
        for name, value in self.variables.items():
            # these are quoted, so only what cannot stand in one line of a script is refused
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or not value.isprintable():
                raise ServiceError(
                    "invalid", f"{name} holds a line end or another control character."
                )

    @property
    def command(self) -> list[str]:
        """What every task runs."""
        command = [str(self.python), "-m", "workers"]
        concurrency = self.concurrency or (None if self.gpus else self.cpus)
        if concurrency is not None:
            command += ["--concurrency", str(concurrency)]
        if self.gpus_per_run > 1:
            command += ["--gpus-per-run", str(self.gpus_per_run)]
        if self.runs_per_gpu is not None:
            command += ["--runs-per-gpu", str(self.runs_per_gpu)]
        if self.drain:
            command += ["--drain"]
        return command


_OPTIONS = {
    "partition": _LIST,
    "account": _NAME,
    "qos": _NAME,
    "constraint": _NAME,
    "reservation": _NAME,
    "time": _TIME,
    "mem": _MEMORY,
}


def _accept(option: str, value: str, form: re.Pattern[str]) -> None:
    if not form.fullmatch(value):
        raise ServiceError(
            "invalid",
            f"{option} is {value!r}, which sbatch or a shell could take for something else.",
            f"Accepted is: {_IN_WORDS.get(form, 'a whole path without blanks or quotes')}.",
        )


def script(job: WorkerArray) -> str:
    """The batch script. Two of the same job are the same text; there is no secret in it."""
    throttle = f"%{job.at_once}" if job.at_once else ""
    directives = [
        f"--job-name={job.job_name}",
        f"--array=1-{job.array}{throttle}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={job.cpus}",
        *([f"--gpus={job.gpus}"] if job.gpus else []),
        *(f"--{name}={value}" for name, value in sorted(job.options.items())),
        f"--signal=B:TERM@{job.grace_seconds}",
        "--requeue" if job.requeue else "--no-requeue",
        "--open-mode=append",
        f"--output={job.log_dir}/{job.job_name}-%A_%a.log",
        "--export=ALL",
    ]
    variables = [f"export {name}={shlex.quote(value)}" for name, value in job.variables.items()]
    exports = "\n".join(["export OMP_NUM_THREADS=1", *variables])
    return "".join(
        [
            "#!/bin/bash\n",
            *(f"#SBATCH {directive}\n" for directive in directives),
            _ABOUT,
            exports,
            _START.format(command=shlex.join(job.command)),
            _REQUEUE if job.requeue else "",
            'exit "$code"\n',
        ]
    )


_ABOUT = """
# Written by `scalewright cluster slurm`. The database's address is not in here: it comes from the
# environment of whoever submits this, or from a file that only they can read.
"""
# SIGTERM comes to the shell alone (B:) before the time limit and at a preemption, and to every
# process of the job at a cancel. A trapped signal ends bash's `wait`, not the worker.
_START = """

asked=
trap 'asked=yes; kill -TERM "$worker" 2>/dev/null' TERM
{command} &
worker=$!
if [ -n "$asked" ]; then kill -TERM "$worker" 2>/dev/null; fi
wait "$worker"; code=$?
while kill -0 "$worker" 2>/dev/null; do wait "$worker"; code=$?; done
"""
# A cancelled job is not RUNNING any more, and stays cancelled.
_REQUEUE = """
# The time limit or a preemption is near, and the runs are given back: the same again, later.
me="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
if [ -n "$asked" ] && [ "$(squeue -h -j "$me" -o %T)" = RUNNING ]; then scontrol requeue "$me"; fi
"""


def check_secret_file(path: Path) -> Path:
    """The absolute path of a file that only its owner can read; raises ServiceError for another."""
    path = path.expanduser().absolute()
    try:
        found = path.stat()
    except OSError as error:
        raise ServiceError("invalid", f"{path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
        raise ServiceError(
            "invalid",
            f"{path} holds a password and can be read by others.",
            f"Run: chmod 600 {path}",
        )
    return path


def environment_of_submission(environment: Mapping[str, str], *, with_url: bool) -> dict[str, str]:
    """What sbatch gets, and with `--export=ALL` the workers.

    `with_url`: the database's address is among it; not so when the workers read it from a file.
    """
    dropped = (*_NOT_FOR_WORKERS, *(() if with_url else DATABASE_VARIABLES))
    return {name: value for name, value in environment.items() if name not in dropped}


def submit(text: str, path: Path, environment: Mapping[str, str]) -> str:
    """Write the script to `path` and hand it to sbatch; the id of the array job.

    Raises ServiceError with what sbatch said.
    """
    program = shutil.which("sbatch", path=environment.get("PATH"))
    if program is None:
        raise ServiceError(
            "unavailable",
            "There is no sbatch here.",
            "Run this on a login node, or add --dry-run and submit the script there.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(text)
    temporary.replace(path)
    done = subprocess.run(
        [program, "--parsable", str(path)],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise ServiceError("invalid", f"sbatch refused the script {path}: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]  # "id" or "id;cluster"
