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
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Dense bfloat16 FLOPs a second, from NVIDIA's data sheets, by a part of the name that torch gives a
# device; the first that fits counts. SXM where nothing else is said.
PEAK_BF16_FLOPS = {
    "H200 NVL": 835.5e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}


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
    of a pool; so the handler looks whether the parent process itself has changed. torchrun starts
    processes from its main thread, and then the kernel ends them itself: they may be waiting for
    each other where no handler runs.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()

    def look(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGUSR2, look)
    at_death = signal.SIGKILL if "TORCHELASTIC_RUN_ID" in os.environ else signal.SIGUSR2
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, at_death)
    if os.getppid() != parent:  # it died while we were asking
        os._exit(1)


def keep_memory() -> None:
    """Have glibc keep what is freed, up to a GiB, for the next step.

    By default it hands large buffers back to the kernel, which clears every page again at the next
    step: hundreds of page faults, 5 to 25% of a small model's step (decision 0094).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from other C libraries
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 1 << 30)


def fingerprint(
    device: torch.device, threads: int, dtype: str, compiled: bool, processes: int = 1
) -> dict[str, Any]:
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
        **({"processes": processes} if processes > 1 else {}),
    }


def peak_flops(device: torch.device, dtype: str) -> float | None:
    """What the device can do at most, for the utilisation; None where no data sheet is at hand."""
    if device.type != "cuda" or dtype != "bfloat16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)
