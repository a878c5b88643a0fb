"""What a GPU makes of the trainer: utilisation at 124M and 300M, and small runs side by side on it.

    python -m tests.benchmarks.train_on_gpu [--seconds 60] [--packed 1 2 4 8]

Goals, on an H100: 40% of its bfloat16 peak at 124M and 45% at 300M, in PaLM's convention, as
nanoGPT and others report it (`exact` counts the causal half of attention alone); and four times the
tokens a second when 10M models train in several processes at once. Without a GPU it says so and
measures nothing; `--toy` walks the same way on a CPU, with sizes and figures that mean nothing.

The trainer runs as a worker starts it, on random tokens, which cost what others do. What is counted
are the steps that all processes report between two looks, after each has reported twice.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers import machine
from workers.proxy.process import PEAK_BF16_FLOPS

ROOT = Path(__file__).resolve().parents[2]
WARM_SECONDS = 900  # until every process has reported twice, compilation included


@dataclass(frozen=True)
class Size:
    name: str
    d_model: int
    n_layers: int
    head_dim: int
    vocab_size: int
    seq_len: int
    batch_tokens: int
    tied: bool = False


# GPT-2's small model (tied, its vocabulary), one of 303M alike, and the ladder's 10M
LARGE = (
    Size("124M", 768, 12, 64, 50304, 1024, 32768, tied=True),
    Size("303M", 1024, 20, 64, 50304, 1024, 16384, tied=True),
)
SMALL = Size("10M", 384, 6, 64, 8192, 1024, 16384)
TOY = Size("toy", 16, 1, 8, 300, 32, 128)


def missing() -> str | None:
    """Why nothing can be trained on a GPU here, if so."""
    if not machine.gpus():
        return "no GPU here: nvidia-smi lists none, or CUDA_VISIBLE_DEVICES is empty"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} cannot use the GPU: install a build with CUDA"
    return None


@dataclass(frozen=True)
class Speed:
    """Of `processes` runs of one size at once: tokens a second of all, on `device`."""

    size: str
    processes: int
    device: str
    tokens_per_second: float
    flops_per_token: dict[str, float]

    def mfu(self, convention: str) -> float | None:
        """Share of the peak; None where no data sheet is at hand."""
        peak = next((p for name, p in PEAK_BF16_FLOPS.items() if name in self.device), None)
        return peak and self.tokens_per_second * self.flops_per_token[convention] / peak

    def __str__(self) -> str:
        shares = ((each, self.mfu(each)) for each in ("palm", "exact"))
        mfu = "".join(f", {each} MFU {share:.1%}" for each, share in shares if share)
        return (
            f"{self.size} x {self.processes} on {self.device}: "
            f"{self.tokens_per_second:,.0f} tokens/s{mfu}"
        )


def measure(size: Size, processes: int, seconds: float, on_gpu: bool) -> Speed:
    """Train `processes` models of `size` at once, each for itself; stop them after `seconds`."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        config = folder / "config.json"
        config.write_text(json.dumps(document(size, random_corpus(folder, size), on_gpu)))
        runs = [Run(config, folder / str(i), stack) for i in range(processes)]
        deadline = time.monotonic() + WARM_SECONDS
        while not all(run.reports() >= 2 for run in runs):
            for run in runs:
                run.must_live()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{size.name}: not two reports in {WARM_SECONDS} s")
            time.sleep(0.2)
        began, first = time.monotonic(), [run.step() for run in runs]
        time.sleep(seconds)
        steps = sum(run.step() - at for run, at in zip(runs, first, strict=True))
        spent = time.monotonic() - began
        for run in runs:
            run.must_live()
        start = runs[0].events()[0]
    rate = steps * size.batch_tokens / spent
    device = str(start["fingerprint"]["device"])
    return Speed(size.name, processes, device, rate, start["flops_per_token"])


class Run:
    """A trainer that writes its events to a file, and is stopped with `stack`."""

    def __init__(self, config: Path, out: Path, stack: ExitStack) -> None:
        out.mkdir()
        self.path, self.errors = out / "events", out / "errors"
        stdout = stack.enter_context(self.path.open("w"))
        stderr = stack.enter_context(self.errors.open("w"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.proxy.train", str(config), "--out", str(out)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=stdout,
            stderr=stderr,
        )
        stack.callback(self.stop)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def must_live(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"the trainer ended: {self.errors.read_text()[-2000:]}")

    def events(self) -> list[dict[str, Any]]:
        whole = [line for line in self.path.read_text().splitlines(True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def reports(self) -> int:
        return sum(event["event"] == "points" for event in self.events())

    def step(self) -> int:
        """The last step that it has reported."""
        steps = (int(e["points"][-1][0]) for e in self.events() if e["event"] == "points")
        return max(steps)


def document(size: Size, corpus: Path, on_gpu: bool) -> dict[str, Any]:
    model = {
        "d_model": size.d_model,
        "n_layers": size.n_layers,
        "head_dim": size.head_dim,
        "vocab_size": size.vocab_size,
        "seq_len": size.seq_len,
        "tied": size.tied,
    }
    device = {"device": "cuda", "dtype": "bfloat16", "compile": True} if on_gpu else {}
    return {
        "model": model,
        "data": {"train": [{"name": "random", "path": str(corpus)}], "validation": []},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "schedule": {"kind": "constant", "steps": 10_000_000, "warmup_steps": 100},
        "batch_tokens": size.batch_tokens,
        **device,
    }


def random_corpus(folder: Path, size: Size) -> Path:
    """About 200 batches; they are read again from the start, in another order."""
    corpus = folder / "corpus"
    corpus.mkdir()
    ids = np.random.default_rng(0).integers(1, size.vocab_size, 200 * size.batch_tokens)
    (corpus / "train.bin").write_bytes(ids.astype(np.uint16).tobytes())
    manifest = {
        "digest": "random",
        "dtype": "uint16",
        "shards": [{"file": "train.bin", "split": "train", "tokens": len(ids)}],
        "tokenizer": {
            "digest": "random",
            "vocab_size": size.vocab_size,
            "token_bytes": [1] * size.vocab_size,
        },
    }
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    return corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--packed", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--toy", action="store_true", help="on a CPU, to see that it works")
    given = parser.parse_args()
    reason = missing()
    if reason and not given.toy:
        print(f"nothing measured: {reason}")
        return
    for size in () if given.toy else LARGE:
        print(measure(size, 1, given.seconds, on_gpu=True), flush=True)
    alone = 0.0
    for processes in given.packed:
        speed = measure(TOY if given.toy else SMALL, processes, given.seconds, not given.toy)
        alone = alone or speed.tokens_per_second / processes
        print(f"{speed}, {speed.tokens_per_second / alone:.2f} times one alone", flush=True)


if __name__ == "__main__":
    main()
