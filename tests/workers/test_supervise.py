"""One real process at a time: its lines, its stderr, its death."""

import os
import signal
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.lab import PATIENCE_SECONDS
from workers.supervise import (
    STDERR_TAIL_BYTES,
    LineSplitter,
    LineTooLong,
    Trainer,
    child_environment,
)


def python(code: str, tmp_path) -> Trainer:
    return Trainer([sys.executable, "-c", code], env=os.environ, cwd=tmp_path)


def listen(trainer: Trainer, seconds: float = PATIENCE_SECONDS) -> list[bytes]:
    """Everything it prints until it is gone."""
    lines: list[bytes] = []
    until = time.monotonic() + seconds
    while trainer.returncode() is None:
        assert time.monotonic() < until
        lines += trainer.read(0.05)
    return lines + trainer.drain()


LINE = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))


@given(st.lists(LINE, max_size=20), st.data())
def test_lines_survive_any_cut(lines, data):
    text = b"".join(line + b"\n" for line in lines) + b"torn"
    splitter, out = LineSplitter(), []
    while text:
        n = data.draw(st.integers(1, len(text)))
        out += splitter.feed(text[:n])
        text = text[n:]
    assert out == [line for line in lines if line.strip()]


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n", b"a\n" + b"x" * 11])
def test_a_line_has_a_bound(data):
    with pytest.raises(LineTooLong):
        LineSplitter(max_bytes=10).feed(data)


def test_lines_and_stderr_of_a_process(tmp_path):
    trainer = python(
        "import sys; print('one'); print('noise ' * 2000, file=sys.stderr); print('two');"
        "print('ValueError: last', file=sys.stderr); sys.stdout.write('torn')",
        tmp_path,
    )
    assert listen(trainer) == [b"one", b"two"]
    assert trainer.returncode() == 0
    assert trainer.stderr_tail.endswith("ValueError: last\n")
    assert len(trainer.stderr_tail) <= STDERR_TAIL_BYTES
    trainer.close()


def test_reading_does_not_block(tmp_path):
    trainer = python("import time; time.sleep(3600)", tmp_path)
    begin = time.monotonic()
    assert trainer.read(0.05) == [] and trainer.read(0) == []
    assert time.monotonic() - begin < PATIENCE_SECONDS
    trainer.close()
    assert trainer.returncode() == -signal.SIGKILL


def test_more_than_a_pipe_holds_arrives_whole(tmp_path):
    trainer = python("for i in range(50000): print(i)", tmp_path)
    assert listen(trainer) == [str(i).encode() for i in range(50000)]
    trainer.close()


def test_kill_reaches_what_the_trainer_started(tmp_path):
    trainer = python(
        "import subprocess, sys, time;"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)']);"
        "print(c.pid, flush=True); time.sleep(3600)",
        tmp_path,
    )
    lines: list[bytes] = []
    while not lines:
        lines = trainer.read(1)
    grandchild = int(lines[0])
    trainer.kill()
    listen(trainer)
    trainer.close()
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and _running(grandchild):
        time.sleep(0.02)
    assert not _running(grandchild)


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_grandchild_that_holds_the_pipe_does_not_keep_a_run_alive(tmp_path):
    trainer = python(
        "import subprocess, sys; print('x', flush=True);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])",
        tmp_path,
    )
    assert listen(trainer) == [b"x"]
    trainer.close()


def test_the_child_gets_threads_and_gpus_but_no_secrets():
    parent = {
        "PATH": "/bin",
        "DATABASE_URL": "postgresql://u:secret@h/d",
        "PGPASSWORD": "secret",
        "SCALEWRIGHT_API_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "FSSPEC_S3_SECRET": "secret",
        "OMP_NUM_THREADS": "64",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }
    env = child_environment(parent, threads=1, device="cpu", gpu=None)
    assert "secret" not in "".join(env.values())
    assert env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "1"
    assert env["CUDA_VISIBLE_DEVICES"] == "" and env["PATH"] == "/bin"
    env = child_environment(parent, threads=4, device="cuda", gpu="2")
    assert env["CUDA_VISIBLE_DEVICES"] == "2" and env["OMP_NUM_THREADS"] == "4"
