"""What the training process owes to the one that started it."""

import ctypes
import os
import platform
import signal
import sys
from types import FrameType
from typing import Any

import torch

PR_SET_PDEATHSIG = 1


class StopFlag:
    """Set by SIGTERM and SIGINT; training looks at it between steps."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def die_with_parent() -> None:
    """End this process, at once, when the process that started it is gone (Linux).

    The kernel sends the signal when the *thread* that started us ends, which may be only a thread
    of a pool; so the handler looks whether the parent process itself has changed.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()

    def look(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGUSR2, look)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGUSR2)
    if os.getppid() != parent:  # it died while we were asking
        os._exit(1)


def fingerprint(device: torch.device, threads: int, dtype: str, compiled: bool) -> dict[str, Any]:
    """What a curve may depend on in its last bits."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": threads,
        "dtype": dtype,
        "compile": compiled,
    }
