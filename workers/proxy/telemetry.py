"""What a run reports about itself: JSON lines on stdout, and buffers that spare the device.

A step writes its figures into tensors on the device; they are read, all at once, when the buffer
is full or two seconds have passed. No step waits for the device because somebody looks.
"""

import json
import math
import sys
import time
from collections import deque
from typing import Any

import torch
from torch import Tensor

FLUSH_STEPS = 50
FLUSH_SECONDS = 2.0
ABOVE_STEPS = 200
PER_STEP = ("loss", "grad_norm", "log_z", "nonfinite")
NONFINITE = PER_STEP.index("nonfinite")


def emit(event: str, **values: Any) -> None:
    """One JSON object on a line of its own, flushed. Not-a-number is never written."""
    sys.stdout.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
    sys.stdout.flush()


class Telemetry:
    """Collects per-step figures and emits them as `points` events.

    After `flush`, `diverged` says why training should stop, or is empty: a figure that is not
    finite, a mean loss one nat above the first loss, or 200 steps on end one nat above the best.
    Points from the first bad one on are not emitted, so what is stored is always finite.
    `nonfinite` counts the elements of gradients that were not: over the steps of a flush, and at
    the first bad step, if there is one, by itself.

    A loss or gradient norm that stands 6 standard deviations above the 128 steps before it is
    emitted as `loss_spike` or `grad_norm_spike`, and counted in `spikes`.
    """

    def __init__(
        self,
        device: torch.device,
        batch_tokens: int,
        clip: float,
        flops_per_token: float = 0.0,
        peak_flops: float | None = None,
    ) -> None:
        self._values = torch.zeros(FLUSH_STEPS, len(PER_STEP), device=device)
        self._batch_tokens, self._clip = batch_tokens, clip
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self._detectors = {"loss": SpikeDetector(), "grad_norm": SpikeDetector()}
        self._smooth = self._best = math.inf
        self._above = 0
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

    def resume(self) -> None:
        self._since = time.perf_counter()
        self._cpu_since = time.process_time()

    def flush(self) -> None:
        if not self._rows:
            return
        extra, self._extra = self._extra, {}
        taken = [value for pairs in extra.values() for _, value in pairs]
        count = len(self._rows) * len(PER_STEP)
        figures = torch.cat((self._values.flatten()[:count], *(each.view(1) for each in taken)))
        read = figures.tolist()  # the one wait for the device
        values = [read[i : i + len(PER_STEP)] for i in range(0, count, len(PER_STEP))]
        others = iter(read[count:])
        now, cpu = time.perf_counter(), time.process_time()
        step_seconds = (now - self._since) / len(self._rows)
        step_cpu_seconds = (cpu - self._cpu_since) / len(self._rows)
        self._since, self._cpu_since = now, cpu
        good, nonfinite = len(values), []
        for i, row in enumerate(values):
            if not all(math.isfinite(value) for value in row):
                bad = sum(not all(map(math.isfinite, each)) for each in values)
                self.diverged = f"step {self._rows[i][0]}: loss or gradient is not finite"
                self.diverged += f" ({row[NONFINITE]:.0f} elements of gradients are not;"
                self.diverged += f" nor at {bad - 1} of the {len(values) - i - 1} steps after)"
                good, nonfinite = i, [[self._rows[i][0], row[NONFINITE]]]
                break
        last_step = self._rows[-1][0]
        rows, values, self._rows = self._rows[:good], values[:good], []
        if not rows:
            emit("points", points=[], metrics={"nonfinite": nonfinite})
            return
        if self._first_loss is None:
            self._first_loss = values[0][0]
        mean = math.fsum(row[0] for row in values) / good
        if not self.diverged and mean > self._first_loss + 1.0:
            self.diverged = (
                f"step {last_step}: mean loss {mean:.3f} is a nat above the first loss "
                f"{self._first_loss:.3f}; lower optimizer.lr"
            )
        for (step, _), row in zip(rows, values, strict=True):
            self._follow(step, row[0])
        metrics: dict[str, list[list[float]]] = {
            name: [[step, row[i]] for (step, _), row in zip(rows, values, strict=True)]
            for i, name in enumerate(PER_STEP)
            if name not in ("loss", "nonfinite")
        }
        seen_bad = math.fsum(row[NONFINITE] for row in values)
        metrics["nonfinite"] = [[rows[-1][0], seen_bad], *nonfinite]
        if self._clip > 0:
            metrics["clipped"] = [
                [step, float(norm > self._clip)] for step, norm in metrics["grad_norm"]
            ]
        for name, detector in self._detectors.items():
            column = [row[PER_STEP.index(name)] for row in values]
            seen = zip(rows, map(detector.see, column), strict=True)
            metrics[f"{name}_spike"] = [[step, z] for (step, _), z in seen if z is not None]
        metrics["step_seconds"] = [[rows[-1][0], step_seconds]]
        metrics["step_cpu_seconds"] = [[rows[-1][0], step_cpu_seconds]]
        metrics["tokens_per_second"] = [[rows[-1][0], self._batch_tokens / step_seconds]]
        rate = self._batch_tokens / step_seconds * self._flops_per_token
        metrics["flops_per_second"] = [[rows[-1][0], rate]]
        if self._peak_flops:
            metrics["mfu"] = [[rows[-1][0], rate / self._peak_flops]]
        for name, pairs in extra.items():
            seen_at = [[step, next(others)] for step, _ in pairs]
            metrics[name] = [
                [step, x] for step, x in seen_at if step <= rows[-1][0] and math.isfinite(x)
            ]
        points = [
            [step, step * self._batch_tokens, row[0], lr]
            for (step, lr), row in zip(rows, values, strict=True)
        ]
        emit("points", points=points, metrics={k: v for k, v in metrics.items() if v})

    @property
    def spikes(self) -> dict[str, int]:
        return {name: detector.count for name, detector in self._detectors.items()}

    def _follow(self, step: int, loss: float) -> None:
        """Say `diverged` after 200 steps on end whose smoothed loss is a nat above the best."""
        self._smooth = loss if math.isinf(self._smooth) else 0.98 * self._smooth + 0.02 * loss
        self._best = min(self._best, self._smooth)
        self._above = self._above + 1 if self._smooth > self._best + 1.0 else 0
        if self._above >= ABOVE_STEPS and not self.diverged:
            self.diverged = (
                f"step {step}: the loss has been a nat above its best, {self._best:.3f}, for "
                f"{ABOVE_STEPS} steps; lower optimizer.lr"
            )


class SpikeDetector:
    """Upward only, 6 standard deviations over 128 steps: the rule of OLMo-core's SkipStep, with no
    false hit in 101,722 steps of three real runs. What was a spike stays out of the window."""

    def __init__(self, window: int = 128, deviations: float = 6.0) -> None:
        self._window: deque[float] = deque(maxlen=window)
        self._deviations = deviations
        self._sum = self._squares = 0.0
        self.count = 0

    def see(self, value: float) -> float | None:
        """How many standard deviations `value` is above the window if it is a spike, else None."""
        window, n = self._window, len(self._window)
        if n == window.maxlen:
            mean = self._sum / n
            variance = max(0.0, self._squares / n - mean * mean) * n / (n - 1)
            z = (value - mean) / math.sqrt(variance) if variance > 0 else 0.0
            if z > self._deviations:
                self.count += 1
                return z
            self._sum -= window[0]
            self._squares -= window[0] ** 2
        window.append(value)
        self._sum += value
        self._squares += value * value
        return None
