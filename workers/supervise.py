"""One training process: start it, read what it prints, stop it. The I/O under `lifecycle.py`.

The trainer runs in a session and process group of its own, so a signal to the worker's terminal
does not reach it and a kill reaches everything it started. It asks the kernel to die with its
parent by itself (PR_SET_PDEATHSIG), which holds for the *thread* that started it: start and watch
a trainer from one thread.
"""

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import structlog

from workers.lifecycle import (
    Abandon,
    Close,
    Event,
    Exited,
    Heard,
    Kill,
    LinesRefused,
    Phase,
    Policy,
    State,
    Terminate,
    Tick,
    WorkerStopping,
    WriteClose,
    step,
)

log = structlog.get_logger()

MAX_LINE_BYTES = 4 * 1024 * 1024  # a line of 10,000 points is about 0.5 MB
STDERR_TAIL_BYTES = 4096
LOOK_SECONDS = 0.1  # how long an order to stop may wait
_CHUNK = 65536
# What a trainer has no use for and must not leak: database addresses, our own settings, and what
# opens the checkpoint store.
_SECRET_PREFIXES = ("SCALEWRIGHT_", "DATABASE_", "PG", "AWS_", "GOOGLE_", "AZURE_", "FSSPEC_")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class LineTooLong(Exception):
    """The trainer printed more than MAX_LINE_BYTES without a line end."""


class LineSplitter:
    """Bytes in, whole lines out; what follows the last line end waits for the rest.

    >>> s = LineSplitter(); s.feed(b'{"a":'), s.feed(b'1}\\n{')
    ([], [b'{"a":1}'])
    """

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Raise LineTooLong once a line, finished or not, is longer than the bound."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest = bytearray(rest)
        else:
            self._rest += rest
        longest = max([len(self._rest), *map(len, lines)])
        if longest > self._max_bytes:
            raise LineTooLong(f"a line of more than {self._max_bytes} bytes")
        return [line for line in lines if line.strip()]


class Trainer:
    """A running training process. All calls come from the thread that made it."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        """Start it. Raises OSError when the command cannot be run."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._splitter = LineSplitter()
        self._stderr: deque[bytes] = deque()
        self._stderr_bytes = 0
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None and self._process.stderr is not None
        for pipe in (self._process.stdout, self._process.stderr):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)

    def read(self, timeout_seconds: float) -> list[bytes]:
        """The lines that came within the timeout (at once if there are some). Never blocks longer.

        Raises LineTooLong; the process is then still running.
        """
        if not self._selector.get_map():
            # both pipes are closed, but the process is not gone yet
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
            return []
        lines: list[bytes] = []
        for key, _ in self._selector.select(timeout_seconds):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
            data = os.read(pipe.fileno(), _CHUNK)
            if not data:
                self._selector.unregister(pipe)
            elif pipe is self._process.stdout:
                lines += self._splitter.feed(data)
            else:
                self._keep_stderr(data)
        return lines

    def returncode(self) -> int | None:
        """The exit code once the process is gone (minus the signal that ended it), else None."""
        return self._process.poll()

    def drain(self) -> list[bytes]:
        """What was still in the pipes when the process ended. A torn last line is not a line.

        Does not wait for the pipes to close: a grandchild may hold them open.
        """
        lines: list[bytes] = []
        while self._selector.get_map() and self._selector.select(0):
            lines += self.read(0)
        return lines

    def terminate(self) -> None:
        """SIGTERM to the trainer alone: what it started is its own business."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the whole process group, also after the trainer itself has gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind: no process, no open pipe."""
        self.kill()
        self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def stderr_tail(self) -> str:
        """The last few KB of stderr, for the message of a failure."""
        return b"".join(self._stderr)[-STDERR_TAIL_BYTES:].decode("utf-8", "replace")

    def _keep_stderr(self, data: bytes) -> None:
        self._stderr.append(data)
        self._stderr_bytes += len(data)
        while self._stderr_bytes - len(self._stderr[0]) >= STDERR_TAIL_BYTES:
            self._stderr_bytes -= len(self._stderr.popleft())


class Ledger(Protocol):
    """Where the lines and the end of a run go; see recorder.py."""

    def put(self, line: bytes) -> None: ...

    def close(self, close: Close) -> None: ...

    def abandon(self) -> None: ...


def watch(
    trainer: Trainer,
    ledger: Ledger,
    mailbox: "queue.SimpleQueue[Event]",
    state: State,
    policy: Policy,
    stopping: threading.Event,
) -> State:
    """Let one attempt run its course: the events in, the actions of `lifecycle.step` out.

    `mailbox` brings what came of the ledger's writing; `stopping` is set when the worker is to
    leave. Returns the last state, in phase DONE, with the trainer gone.
    """

    def happened(event: Event) -> None:
        nonlocal state
        before = state
        state, actions = step(state, event, policy)
        if state.phase is not before.phase:
            log.info("phase", phase=state.phase, reason=state.reason, after=type(event).__name__)
        for action in actions:
            match action:
                case Terminate():
                    trainer.terminate()
                case Kill():
                    trainer.kill()
                case WriteClose(close):
                    ledger.close(close)
                case Abandon():
                    ledger.abandon()

    def said(lines: Sequence[bytes]) -> None:
        for line in lines:
            heard = _heard(line)
            if heard is None:
                log.warning("the trainer printed something else", text=line[:200].decode("latin-1"))
                continue
            try:
                ledger.put(line)
            except OSError as error:
                happened(LinesRefused(time.monotonic(), f"the spool is full: {error.strerror}"))
            happened(heard)

    def read(drain: bool = False) -> None:
        try:
            said(trainer.drain() if drain else trainer.read(LOOK_SECONDS))
        except LineTooLong as error:
            happened(LinesRefused(time.monotonic(), f"the trainer printed {error}"))

    alive = True
    while state.phase is not Phase.DONE:
        if alive:
            returncode = trainer.returncode()
            read(drain=returncode is not None)
            if returncode is not None:
                alive = False
                trainer.kill()  # what it may have left behind in its group
                happened(Exited(time.monotonic(), returncode, trainer.stderr_tail))
        if stopping.is_set():
            happened(WorkerStopping(time.monotonic()))
        happened(Tick(time.monotonic()))
        with contextlib.suppress(queue.Empty):
            # a living trainer is waited for above, so here only once it is gone
            happened(mailbox.get(block=not alive, timeout=LOOK_SECONDS))
            while True:
                happened(mailbox.get_nowait())
    return state


def _heard(line: bytes) -> Heard | None:
    """The line as an event; None if it is not of the protocol."""
    try:
        document = json.loads(line)
        event = document["event"]
        return Heard(
            time.monotonic(),
            str(event),
            str(document.get("status", "")) if event == "end" else "",
            str(document.get("message", "")) if event == "end" else "",
        )
    except (ValueError, KeyError, TypeError):
        return None


def child_environment(
    parent: Mapping[str, str], *, threads: int, device: str, gpu: str | None
) -> dict[str, str]:
    """The environment of a trainer.

    One thread per process on CPU: a second thread costs more than it brings at proxy sizes, and
    under contention OpenMP's spinning costs far more (docs/decisions). A GPU run sees the one GPU
    of its slot; a CPU run sees none, so that it does not open a context there.
    """
    env = {name: value for name, value in parent.items() if not name.startswith(_SECRET_PREFIXES)}
    for name in _THREAD_VARIABLES:
        env[name] = str(threads)
    if device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = gpu
    env["PYTHONUNBUFFERED"] = "1"
    return env
