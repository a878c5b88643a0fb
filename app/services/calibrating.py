"""Measure step times on this very machine: short runs of the trainer, one after the other.

A run is `python -m workers.proxy.train`, as a worker starts it; it reports the seconds (and CPU
seconds) a step took, averaged over up to 50 steps or 2 seconds at a time. The first report of a run
holds the warm-up (allocation, first touches, caches) and is dropped; the median of the rest counts.
On a CPU the CPU seconds are what is fitted: wall time on a shared machine measures the neighbours.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.services.errors import ServiceError
from fitting.costs import Measurement, Setup, Shape, StepTime, fit_step_time

# (width, depth, batch tokens): small and large of each, in combinations that tell fixed time per
# layer, activations, arithmetic and the optimizer apart.
SIZES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "cpu": (
        (32, 2, 1024), (32, 8, 1024), (32, 4, 4096), (64, 2, 2048), (64, 6, 1024), (96, 3, 1024),
        (96, 1, 4096), (128, 2, 1024), (128, 4, 1024), (160, 2, 2048),
    ),
    "cuda": (
        (256, 4, 32768), (256, 16, 16384), (384, 8, 32768), (512, 4, 32768), (512, 12, 16384),
        (768, 6, 32768), (768, 16, 16384), (1024, 4, 32768), (1024, 12, 16384), (1280, 8, 16384),
    ),
}  # fmt: skip
# FLOP/s to plan the length of a run with; only the number of steps depends on it.
PLANNED_RATE = {"cpu": 20e9, "cuda": 3e13}


@dataclass(frozen=True)
class Plan:
    """What is measured: sizes (width, depth, batch tokens), and the family and stack of all.

    seconds: that each run should spend on steps, about. seed: of the order and the data.
    """

    device: str = "cpu"
    sizes: tuple[tuple[int, int, int], ...] = ()
    seconds: float = 4.0
    seq_len: int = 256
    vocab_size: int = 256
    head_dim: int = 16
    mlp: str = "swiglu"
    optimizer: str = "muon"
    dtype: str = "float32"
    threads: int = 1
    compile: bool = False
    seed: int = 0

    @property
    def kind(self) -> str:
        """cpu or cuda."""
        return self.device.partition(":")[0]

    def shapes(self) -> list[tuple[Shape, Setup]]:
        """Every size as a shape and how its steps are run."""
        sizes = self.sizes or SIZES.get(self.kind, SIZES["cuda"])
        return [
            (
                Shape(
                    d_model=width, n_layers=depth, d_ff=_d_ff(width, self.mlp),
                    vocab_size=self.vocab_size, n_heads=width // self.head_dim,
                    seq_len=self.seq_len, head_dim=self.head_dim, mlp=self.mlp, qk_norm=True,
                    norm_gains=False,
                ),
                Setup(
                    batch_tokens=float(batch), optimizer=self.optimizer,
                    compute_bytes=2 if self.dtype == "bfloat16" else 4,
                ),
            )
            for width, depth, batch in sizes
        ]  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """The fit, the measured steps that it rests on, and the stack that they were run with."""

    step_time: StepTime
    measurements: tuple[Measurement, ...]
    stack: dict[str, Any] = field(default_factory=dict)
    unit: str = "CPU-seconds"

    def to_dict(self) -> dict[str, Any]:
        """STEP_TIME.json with the measurements and the stack beside it."""
        return {
            **self.step_time.to_dict(),
            "stack": dict(self.stack),
            "measurements": [one.to_dict() for one in self.measurements],
        }


def calibrate(
    plan: Plan,
    corpus: Path,
    *,
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Make the runs, then fit. corpus: the folder of a corpus whose ids fit the vocabulary.

    Raises ServiceError where a run fails, and FittingError with too few sizes.
    """
    runs = plan.shapes()
    order = list(range(len(runs)))
    random.Random(plan.seed).shuffle(order)  # a machine that slows down must not look like a size
    found: dict[int, Measurement] = {}
    stack: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="scalewright-calibrate-") as folder:
        for done, i in enumerate(order):
            shape, setup = runs[i]
            lines = _train(_config(plan, shape, setup, corpus), Path(folder) / str(i))
            seconds = median_step_seconds(lines, cpu=plan.kind == "cpu")
            stack = next(line["fingerprint"] for line in lines if line["event"] == "start")
            found[i] = Measurement(shape, setup, seconds)
            if progress:
                progress(
                    f"{done + 1} of {len(order)}: {shape.label}, {setup.batch_tokens:g} tokens a "
                    f"step: {seconds:.4g} {'CPU ' if plan.kind == 'cpu' else ''}s"
                )
    measurements = tuple(found[i] for i in range(len(runs)))
    unit = "CPU-seconds" if plan.kind == "cpu" else "GPU-seconds"
    fitted = fit_step_time(measurements, hardware=describe(stack), unit=unit)
    return Calibration(fitted, measurements, stack, unit)


def describe(stack: Mapping[str, Any]) -> str:
    """A machine and its stack in a line, from a run's fingerprint."""
    device = stack.get("device", "cpu")
    name = f"{stack.get('machine', '')} {stack.get('cpu_capability', '')} CPU".strip()
    parts = [name if device == "cpu" else str(device)]
    if device == "cpu":
        parts.append(f"{stack.get('threads', 1)} thread(s)")
    parts += [f"torch {stack.get('torch', '?')}", str(stack.get("dtype", ""))]
    if stack.get("compile"):
        parts.append("compiled")
    return ", ".join(part for part in parts if part)


def median_step_seconds(lines: Sequence[Mapping[str, Any]], *, cpu: bool) -> float:
    """The median of a run's reports without the first. Raises ServiceError with fewer than two."""
    name = "step_cpu_seconds" if cpu else "step_seconds"
    reports = [
        float(value)
        for line in lines
        if line.get("event") == "points"
        for _, value in line["metrics"].get(name, ())
    ]
    if len(reports) < 2:
        raise ServiceError(
            "conflict",
            f"A run reported its step time {len(reports)} times: nothing is left without warm-up.",
            "Give each run more seconds.",
        )
    return statistics.median(reports[1:])


def _d_ff(width: int, mlp: str) -> int:
    """The trainer's own default (workers/proxy/config.py)."""
    return 16 * -(-width * 8 // (3 * 16)) if mlp == "swiglu" else 4 * width


def _config(plan: Plan, shape: Shape, setup: Setup, corpus: Path) -> dict[str, Any]:
    from fitting.costs import count_step

    planned = count_step(shape, setup).flops / PLANNED_RATE.get(plan.kind, 3e13)
    steps = int(min(max(plan.seconds / planned, 60), 2000))
    return {
        "model": {
            "d_model": shape.d_model, "n_layers": shape.n_layers, "head_dim": shape.head_width,
            "d_ff": shape.d_ff, "vocab_size": shape.vocab_size, "seq_len": shape.seq_len,
            "mlp": shape.mlp,
        },
        "data": {"train": [{"name": "calibration", "path": str(corpus)}], "validation": []},
        "optimizer": {"name": plan.optimizer},
        "schedule": {"kind": "constant", "steps": steps, "warmup_steps": 10},
        "batch_tokens": int(setup.batch_tokens),
        "seed": plan.seed, "device": plan.device, "threads": plan.threads, "dtype": plan.dtype,
        "compile": plan.compile,
    }  # fmt: skip


def _train(config: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """One run in a process of its own; what it printed."""
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    threads = str(config["threads"])
    done = subprocess.run(
        [sys.executable, "-m", "workers.proxy.train", str(path), "--out", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    ended = next((line for line in lines if line["event"] == "end"), None)
    if done.returncode or ended is None or ended["status"] != "finished":
        said = done.stderr.strip().splitlines()
        raise ServiceError(
            "conflict",
            f"A calibration run of {config['model']['d_model']}x{config['model']['n_layers']} "
            f"failed: {said[-1] if said else (ended or {}).get('message', 'no message')}",
            "Is torch installed (pip install 'scalewright[train]'), and does the corpus fit?",
        )
    return lines
