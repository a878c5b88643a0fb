"""A real Slurm of one node: munged, slurmctld and slurmd, started here and stopped by pid.

Everything lies in one temporary folder, with ports and keys of its own, and listens on 127.0.0.1
only: Slurm binds to the address of the machine's name or to all of them, so libnss_wrapper tells
its two daemons that the machine is called localhost. No systemd, no cgroups and no accounting, so
that it also runs in a container. Jobs run as root, so it starts where it is root only.
"""

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ports import free_ports

DAEMONS = ("munged", "mungekey", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "scancel", "squeue", "scontrol")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
CPUS = 4
"""What the node says it has, whatever the machine does: a worker takes one."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=30
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""


def wrapper() -> Path | None:
    """libnss_wrapper.so, where it is installed."""
    return next(Path("/usr/lib").glob("*/libnss_wrapper.so"), None)


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    if os.geteuid() != 0:
        return "not root: slurmd starts jobs as their users"
    absent = [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=PATH) is None]
    absent += [] if wrapper() else ["libnss_wrapper.so"]
    if absent:
        return f"no {', '.join(absent)}: scripts/have_slurm.sh (`make test` runs it)"
    return None


class Cluster:
    """A running cluster; `environment` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}: {done.stderr}{self.logs()}"
        return done.stdout.strip()

    def states(self, job: str) -> dict[str, str]:
        """The state of each task that Slurm still knows; keys are ids as squeue prints them."""
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--jobs", job, "--format", "%i %T"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return dict(line.split() for line in done.stdout.splitlines())

    def logs(self) -> str:
        said = ""
        for path in sorted(self.folder.glob("*.log")):
            said += f"\n== {path.name}\n" + path.read_text(errors="replace")[-2000:]
        return said


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start one; at the end its jobs, then its daemons, are stopped, and its folder removed."""
    with ExitStack() as stack:
        for more in (2, 1, 0):
            try:
                here = stack.enter_context(_started())
                break
            except AssertionError as error:  # somebody else has its ports since
                if not more or "Address already in use" not in str(error):
                    raise
        try:
            yield here
        finally:
            _wait(here, lambda: _empty(here), "the jobs to end")


@contextmanager
def _started() -> Iterator[Cluster]:
    # munged wants every folder above its socket closed to writers; /tmp is, being sticky
    folder = Path(tempfile.mkdtemp(prefix="scalewright-slurm-"))
    folder.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    controller_port, node_port = free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder, controller_port=controller_port, node_port=node_port, cpus=CPUS
        )
    )
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    here = Cluster(folder)
    munge = folder / "munge"
    named = {"LD_PRELOAD": str(wrapper()), "NSS_WRAPPER_HOSTNAME": "localhost"}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        here.run("mungekey", "--create", f"--keyfile={munge / 'key'}")
        stack.enter_context(
            _daemon(
                here,
                ["munged", "--foreground", "--num-threads=2"]
                + [
                    f"--{option}={munge / name}"
                    for option, name in (
                        ("key-file", "key"),
                        ("socket", "socket"),
                        ("pid-file", "pid"),
                        ("seed-file", "seed"),
                    )
                ],
                {},
            )
        )
        _wait(here, lambda: (munge / "socket").exists(), "munged")
        controller = stack.enter_context(_daemon(here, ["slurmctld", "-D", "-c"], named))
        node = stack.enter_context(_daemon(here, ["slurmd", "-D", "-N", "localhost"], named))

        def idle() -> bool:
            for process in (controller, node):
                assert process.poll() is None, f"{process.args} has ended{here.logs()}"
            return "idle" in _said(here, "sinfo", "--noheader", "--format=%T")

        _wait(here, idle, "slurmd")
        yield here


def _empty(here: Cluster) -> bool:
    """Whether no job is left; a job that came back meanwhile is cancelled again."""
    _said(here, "scancel", "--user=root")
    return _said(here, "squeue", "--noheader") == ""


@contextmanager
def _daemon(
    here: Cluster, command: Sequence[str], extra: dict[str, str]
) -> "Iterator[subprocess.Popen[bytes]]":
    with (here.folder / f"{command[0]}.out.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**here.environment, **extra},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _said(here: Cluster, *command: str) -> str:
    done = subprocess.run(
        command, env=here.environment, capture_output=True, text=True, timeout=600
    )
    return done.stdout.strip()


def _wait(here: Cluster, until: Callable[[], bool], what: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}{here.logs()}"
        time.sleep(0.1)
