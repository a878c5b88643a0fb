"""What surrounds the workers fails: the API is killed, the disk is full, clocks jump.

As in test_faults.py, every curve must come out as if nothing had been.
"""

import contextlib
import os
import shutil
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx2
import pytest

from app.settings import Settings
from app.storage import embedded, migrate
from app.storage.engine import make_engine
from tests.ports import free_port
from tests.workers.lab import PATIENCE_SECONDS, STEPS, ApiProcess, Lab, config

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def api(lab: Lab) -> Iterator[tuple[httpx2.Client, ApiProcess]]:
    """A server of its own process, once it answers; on another port if somebody was faster."""
    for more in (2, 1, 0):
        port = free_port()
        process = ApiProcess(lab, port)
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                if not answers(client, process) and more:
                    continue
                assert process.alive, (lab.folder / "api.log").read_text()[-3000:]
                yield client, process
                return
        finally:
            process.end()


def answers(client: httpx2.Client, process: ApiProcess) -> bool:
    """Whether the server came up, rather than to its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.alive:
        assert time.monotonic() < deadline
        with contextlib.suppress(httpx2.TransportError):
            client.get("/v1/projects")
            return process.alive
        time.sleep(0.1)
    return False


def test_the_api_is_killed_and_runs_go_on(lab, undisturbed):
    lab.no_worker_dies()
    wanted = config(lab.corpus)
    body = {
        "project": "lab",
        "name": "api killed",
        "corpora": {"train": [{"name": "code"}], "validation": ["code"]},
        "model": {"seq_len": 64, "head_dim": 8},
        "size": {"d_model": 16, "n_layers": 1},
        "optimizer": wanted["optimizer"],
        "schedule": {"kind": "wsd", "warmup_steps": 20, "cooldown_fraction": 0.25},
        "steps": STEPS,
        "batch_tokens": 256,
        "seed": 3,
    }
    once = {"Idempotency-Key": "once"}
    with api(lab) as (client, process):
        made = client.post("/v1/runs", json=body, headers=once)
        assert made.status_code == 201, made.text
        run_id = made.json()["id"]
        lab.hold(STEPS // 4)
        with lab.worker("--concurrency", "1", "--drain") as worker:
            lab.wait(run_id, lambda run: run.step >= STEPS // 4)
            process.end()
            lab.release()
            assert worker.wait() == 0
    with api(lab) as (client, _):
        again = client.post("/v1/runs", json=body, headers=once)
        assert again.json()["id"] == run_id  # what was confirmed is not made twice
        run = client.get(f"/v1/runs/{run_id}").json()
        points = client.get(f"/v1/runs/{run_id}/curve", params={"max_rows": 1000}).json()
    assert (run["status"], run["attempt"], run["step"]) == ("finished", 1, STEPS)
    assert points["loss"] == [point[2] for point in undisturbed]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A megabyte, mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_no_run(lab, undisturbed, small_disk):
    """Resume checkpoints are left out while it is full; the final one is tried again."""
    lab.no_worker_dies()
    lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(small_disk)
    lab.hold(STEPS // 4)
    run_id = lab.submit("disk full", config(lab.corpus))
    with lab.worker("--concurrency", "1", "--drain") as worker:
        lab.wait(run_id, lambda run: run.step >= STEPS // 4)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        lab.release()
        run = lab.wait(run_id, lambda run: run.failures > 0 and run.message != "")
        assert "No space left on device" in run.message
        assert run.step == STEPS  # it trained to its end without a place for checkpoints
        ballast.unlink()
        assert worker.wait() == 0
    run = lab.run(run_id)
    assert (run.status, run.step) == ("finished", STEPS) and run.attempt > 1
    assert lab.curve(run_id) == undisturbed
    assert {row[0] for row in lab.rows("select distinct attempt from curve_points")} == {1}
    assert not list(small_disk.glob("*/*/.step-*"))  # no half file


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    static volatile long *shared;
    if (!shared) {
        const char *path = getenv("CLOCK_OFFSET_FILE");
        int file = path ? open(path, O_RDONLY) : -1;
        if (file < 0) return 0;
        void *map = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        if (map == MAP_FAILED) return 0;
        shared = map;
    }
    return *shared;
}
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, t);
    if (!result && id == CLOCK_REALTIME) t->tv_sec += offset();
    return result;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(t, zone);
    if (!result) t->tv_sec += offset();
    return result;
}
"""


class Clock:
    """The wall clock of the processes that are started with `env`; their monotonic one is true."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = folder / name
        self.set(0)
        self._file.chmod(0o644)
        self.env = {"LD_PRELOAD": str(folder / "clock.so"), "CLOCK_OFFSET_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))


@pytest.fixture
def clocks() -> Iterator[tuple[Path, Clock, Clock]]:
    """A folder that Postgres may read, the worker's clock, and Postgres's own."""
    folder = Path(tempfile.mkdtemp(prefix="scalewright-test-"))
    folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    (folder / "clock.c").write_text(SHIM)
    build = ["cc", "-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c", "-ldl"]
    try:
        if not shutil.which("cc") or subprocess.run(build, cwd=folder).returncode:
            pytest.skip("a clock that jumps needs a C compiler")
        yield folder, Clock(folder, "worker"), Clock(folder, "postgres")
    finally:
        embedded.stop_server(folder / "data", immediately=True)
        shutil.rmtree(folder)


def test_clocks_jump(clocks, corpus, tmp_path, undisturbed, monkeypatch):
    folder, of_worker, of_postgres = clocks
    with monkeypatch.context() as patch:
        for name, value in of_postgres.env.items():
            patch.setenv(name, value)
        url = embedded.start_server(folder / "data").url("postgres")
    migrate.upgrade(url)
    settings = Settings(data_dir=tmp_path, database_url=url)
    lab = Lab(make_engine(settings), settings, corpus, tmp_path)
    lab.env |= of_worker.env
    lab.hold(50)  # at each jump it is in the middle of its training
    run_id = lab.submit("clocks jump", config(corpus))
    hour = 3600
    with lab.worker("--concurrency", "1", "--drain") as worker:
        before = lab.rows("select clock_timestamp()")[0][0]
        lab.wait(run_id, lambda run: run.step >= 50)
        of_worker.set(hour)
        lab.hold(100)
        lab.wait(run_id, lambda run: run.step >= 100)
        of_worker.set(-hour)
        lab.hold(150)
        lab.wait(run_id, lambda run: run.step >= 150)
        of_postgres.set(hour)  # every lease is an hour old
        assert (lab.rows("select clock_timestamp()")[0][0] - before).total_seconds() > hour
        lab.hold(250)
        lab.wait(run_id, lambda run: run.step >= 250)
        of_postgres.set(-hour)  # and the newest is from the future
        lab.release()
        assert worker.wait() == 0
        said = [datetime.fromisoformat(line["timestamp"]) for line in worker.log]
    assert (max(said) - min(said)).total_seconds() > hour / 2  # its own clock did jump
    assert lab.run(run_id).status == "finished"
    assert lab.curve(run_id) == undisturbed
    lab.engine.dispose()
