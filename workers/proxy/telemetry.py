"""What a run reports about itself: JSON lines on stdout, and buffers that spare the device.

A step writes its figures into tensors on the device; they are read, all at once, when the buffer
is full or two seconds have passed. No step waits for the device because somebody looks.
"""

import json
import math
import sys
import time
from typing import Any

import torch
from torch import Tensor

FLUSH_STEPS = 50
FLUSH_SECONDS = 2.0
PER_STEP = ("loss", "grad_norm", "log_z")


def emit(event: str, **values: Any) -> None:
    """One JSON object on a line of its own, flushed. Not-a-number is never written."""
    sys.stdout.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
    sys.stdout.flush()


class Telemetry:
    """Collects per-step figures and emits them as `points` events.

    After `flush`, `diverged` says why training should stop, or is empty: a figure that is not
    finite, or a mean loss one nat above the first loss. Points from the first bad one on are not
    emitted, so what is stored is always finite.
    """

    def __init__(self, device: torch.device, batch_tokens: int, clip: float) -> None:
        self._values = torch.zeros(FLUSH_STEPS, len(PER_STEP), device=device)
        self._batch_tokens, self._clip = batch_tokens, clip
        self._rows: list[tuple[int, float]] = []
        self._extra: dict[str, list[tuple[int, Tensor]]] = {}
        self._first_loss: float | None = None
        self._since = time.perf_counter()
        self._cpu_since = time.process_time()
        self.diverged = ""

    def record(self, step: int, lr: float, *values: Tensor) -> None:
        """The figures of `step`, in the order of PER_STEP, still on the device."""
        self._values[len(self._rows)] = torch.stack(values)
        self._rows.append((step, lr))

    def record_extra(self, step: int, values: dict[str, Tensor]) -> None:
        """Figures that are taken now and then, by name."""
        for name, value in values.items():
            self._extra.setdefault(name, []).append((step, value))

    @property
    def due(self) -> bool:
        full = len(self._rows) == FLUSH_STEPS
        return full or time.perf_counter() - self._since >= FLUSH_SECONDS

    def pause(self) -> float:
        """Flush, and give the time: `resume` with it leaves what lies between out of step times."""
        self.flush()
        return time.perf_counter()

    def resume(self) -> None:
        self._since = time.perf_counter()
        self._cpu_since = time.process_time()

    def flush(self) -> None:
        if not self._rows:
            return
        values = self._values[: len(self._rows)].tolist()  # the one wait for the device
        now, cpu = time.perf_counter(), time.process_time()
        step_seconds = (now - self._since) / len(self._rows)
        step_cpu_seconds = (cpu - self._cpu_since) / len(self._rows)
        self._since, self._cpu_since = now, cpu
        good = len(values)
        for i, row in enumerate(values):
            if not all(math.isfinite(value) for value in row):
                good, self.diverged = i, f"step {self._rows[i][0]}: loss or gradient is not finite"
                break
        last_step = self._rows[-1][0]
        rows, values, self._rows = self._rows[:good], values[:good], []
        extra, self._extra = self._extra, {}
        if not rows:
            return
        if self._first_loss is None:
            self._first_loss = values[0][0]
        mean = math.fsum(row[0] for row in values) / good
        if not self.diverged and mean > self._first_loss + 1.0:
            self.diverged = (
                f"step {last_step}: mean loss {mean:.3f} is a nat above the first loss "
                f"{self._first_loss:.3f}; lower optimizer.lr"
            )
        metrics: dict[str, list[list[float]]] = {
            name: [[step, row[i]] for (step, _), row in zip(rows, values, strict=True)]
            for i, name in enumerate(PER_STEP)
            if name != "loss"
        }
        if self._clip > 0:
            metrics["clipped"] = [
                [step, float(norm > self._clip)] for step, norm in metrics["grad_norm"]
            ]
        metrics["step_seconds"] = [[rows[-1][0], step_seconds]]
        metrics["step_cpu_seconds"] = [[rows[-1][0], step_cpu_seconds]]
        metrics["tokens_per_second"] = [[rows[-1][0], self._batch_tokens / step_seconds]]
        for name, taken in extra.items():
            kept = [[step, float(value)] for step, value in taken if step <= rows[-1][0]]
            metrics[name] = [pair for pair in kept if math.isfinite(pair[1])]
        points = [
            [step, step * self._batch_tokens, row[0], lr]
            for (step, lr), row in zip(rows, values, strict=True)
        ]
        emit("points", points=points, metrics={k: v for k, v in metrics.items() if v})
