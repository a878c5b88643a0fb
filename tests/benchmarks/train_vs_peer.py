"""Tokens a second of the trainer against a plain loop, in the same run on the same machine.

    python -m tests.benchmarks.train_vs_peer [--sizes 32x2 96x2] [--optimizers adamw] [--rounds 5]
                                             [--machine]

Without options: the sizes and the optimizer of the demonstration (app/demo_sweep.json), and AdamW;
eager against eager and compiled against compiled.

The peer is written as karpathy/nanoGPT's train.py is: a module a layer, `torch.optim` as it comes
(Muon on the block matrices and AdamW elsewhere, or AdamW alone), batches stacked from slices of a
memory map, `clip_grad_norm_`, `loss.item()` every tenth step. Shape, text, batch, optimizer and
precision are the trainer's, whose telemetry is included.

Each runs in a process of its own, as it would be started (ours tells glibc to keep memory), on one
thread, and they take turns of CHUNK steps. CPU seconds of a turn are compared with those of the
other's turn beside it; printed is the median of these ratios, with the least and the greatest. A
third process takes its turns with the products of matrices of a step and nothing else: no way to
compute the model can be quicker than that, so the last figure is the ratio that cannot be passed.

With --machine the whole machine is compared, by the clock, and so only where nothing else runs: a
worker's way to fill it, a run of one thread on each core side by side, against one plain loop with
a thread a core, as torch starts it.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.services import corpora
from workers.proxy.config import default_d_ff, parse_config
from workers.proxy.process import keep_memory
from workers.proxy.train import train

ROOT = Path(__file__).resolve().parents[2]
DEMO = json.loads((ROOT / "app" / "demo_sweep.json").read_text())["sweep"]
SEQ_LEN, BATCH_TOKENS, HEADS = DEMO["model"]["seq_len"], DEMO["batch_tokens"], 2
SIZES = [f"{size['d_model']}x{size['n_layers']}" for size in DEMO["sizes"]]
OPTIMIZERS = list(dict.fromkeys([DEMO["optimizer"]["name"], "adamw"]))
assert all(size["d_model"] == HEADS * size["head_dim"] for size in DEMO["sizes"])
CHUNK = 50  # steps of a turn: one look at the signs of instability is among them
QUERIES = 64  # of a block, in the products of attention


class PlainBlock(nn.Module):
    """Llama's block as textbooks have it: one module for each matrix."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        f = default_d_ff(d, "swiglu")
        self.gate, self.up = (nn.Linear(d, f, bias=False) for _ in range(2))
        self.down = nn.Linear(f, d, bias=False)
        self.norm_1, self.norm_2 = (
            nn.RMSNorm(d, elementwise_affine=False, eps=1e-6) for _ in range(2)
        )
        self.q_norm, self.k_norm = (nn.RMSNorm(d // heads, eps=1e-6) for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        h = self.norm_1(x)
        q, k, v = (
            layer(h).view(b, t, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = rope(self.q_norm(q), cos, sin), rope(self.k_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).contiguous().view(b, t, d))
        h = self.norm_2(x)
        out: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return out


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)
    return x * cos + half * sin


class Plain(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, d: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, d)
        self.blocks = nn.ModuleList(PlainBlock(d, HEADS) for _ in range(layers))
        self.norm = nn.RMSNorm(d, elementwise_affine=False, eps=1e-6)
        self.head = nn.Linear(d, 256, bias=False)
        head_dim = d // HEADS
        frequency = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.outer(torch.arange(SEQ_LEN), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.norm(self.embedding(ids))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, 256), targets.reshape(-1))


class Turns:
    """Counts steps; after each CHUNK of them says what they cost in CPU seconds, and waits."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._steps, self._since = pipe, 0, time.process_time()

    @property
    def requested(self) -> bool:
        """A step is over; the trainer asks once a step whether it should stop, and it should not
        until the other side closes."""
        self._steps += 1
        if self._steps % CHUNK == 0:
            self._pipe.send(time.process_time() - self._since)
            if not self._pipe.recv():
                return True
            self._since = time.process_time()
        return False


def plain(
    d: int, layers: int, steps: int, optimizer: str, text: Path, compiled: bool, turns: Turns
) -> None:
    """The plain loop."""
    torch.manual_seed(0)
    model = Plain(d, layers)
    hidden = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for n, p in model.named_parameters() if p.dim() < 2 or not n.startswith("blocks")]
    optimizers: list[torch.optim.Optimizer] = []
    if optimizer == "muon":
        optimizers.append(
            torch.optim.Muon(hidden, lr=6e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        )
        rest = [{"params": others, "weight_decay": 0.0}]
    else:
        rest = [{"params": hidden, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizers.append(torch.optim.AdamW(rest, lr=6e-3, betas=(0.9, 0.95), fused=True))
    forward: Callable[..., Tensor] = torch.compile(model) if compiled else model
    data = np.memmap(text, dtype=np.uint8, mode="r")
    for step in range(1, steps + 1):
        at = torch.randint(len(data) - SEQ_LEN - 1, (BATCH_TOKENS // SEQ_LEN,))
        x = torch.stack([torch.from_numpy(data[i : i + SEQ_LEN].astype(np.int64)) for i in at])
        y = torch.stack(
            [torch.from_numpy(data[i + 1 : i + 1 + SEQ_LEN].astype(np.int64)) for i in at]
        )
        rate = 6e-3 * min(1.0, step / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = rate
        loss = forward(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in optimizers:
            each.step()
            each.zero_grad(set_to_none=True)
        if step % 10 == 0:
            loss.item()
        if turns.requested:
            return


def ours(
    d: int, layers: int, steps: int, optimizer: str, text: Path, compiled: bool, turns: Turns
) -> None:
    """The same of the trainer, telemetry included."""
    keep_memory()
    source = {"name": "text", "path": str(text.parent)}
    config: dict[str, Any] = {
        "model": {"d_model": d, "n_layers": layers, "head_dim": d // HEADS, "seq_len": SEQ_LEN},
        "data": {"train": [source], "validation": []},
        "optimizer": {"name": optimizer, "lr": 6e-3},
        "schedule": {"kind": "cosine", "steps": steps, "warmup_steps": 20},
        "batch_tokens": BATCH_TOKENS,
        "compile": compiled,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        train(parse_config(config), Path(folder), None, turns)  # type: ignore[arg-type]


def products(
    d: int, layers: int, steps: int, optimizer: str, text: Path, compiled: bool, turns: Turns
) -> None:
    """The matrix products of a step, forward and backward, into memory that is there already."""
    f, positions = default_d_ff(d, "swiglu"), BATCH_TOKENS
    weights = [(3 * d, d), (d, d), (2 * f, d), (d, f)] * layers + [(256, d)]
    dense = []
    for rows, cols in weights:
        w, x, y = (
            torch.randn(rows, cols),
            torch.randn(cols, positions),
            torch.randn(rows, positions),
        )
        dense.append((w, x, y, torch.empty_like(w), torch.empty_like(x), torch.empty_like(y)))
    batch = HEADS * positions // SEQ_LEN
    queries = torch.randn(batch, d // HEADS, QUERIES)
    attention = []
    for end in range(QUERIES, SEQ_LEN + 1, QUERIES):
        keys, scores = torch.randn(batch, d // HEADS, end), torch.randn(batch, QUERIES, end)
        into = (torch.empty_like(each) for each in (scores, queries, keys))
        attention.append((keys, scores, *into))
    for _ in range(steps):
        for w, x, y, to_w, to_x, to_y in dense:
            torch.mm(w, x, out=to_y)
            torch.mm(w.t(), y, out=to_x)
            torch.mm(y, x.t(), out=to_w)
        for _ in range(layers):
            for keys, scores, to_scores, to_queries, to_keys in attention:
                for _ in range(2):  # the scores and their gradient; and so on
                    torch.bmm(queries.mT, keys, out=to_scores)
                    torch.bmm(keys, scores.mT, out=to_queries)
                    torch.bmm(queries, scores, out=to_keys)
        if turns.requested:
            return


def work(way: Callable[..., None], pipe: Connection, threads: int, *job: Any) -> None:
    torch.set_num_threads(threads)
    way(*job, Turns(pipe))
    pipe.close()


class Worker:
    """A process that trains in one of the ways, a turn at a time; the first one is over."""

    def __init__(self, way: Callable[..., None], threads: int, job: tuple[Any, ...]) -> None:
        spawn = get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=work, args=(way, other, threads, *job), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()

    def begin(self) -> None:
        self._pipe.send(True)

    def ended(self) -> float:
        """CPU seconds of the turn that was begun, once it is over."""
        return float(self._pipe.recv())

    def close(self) -> None:
        self._pipe.send(False)
        self._process.join()


def compare(job: tuple[Any, ...], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every turn, of each way by name."""
    running = {way.__name__: Worker(way, 1, job) for way in (ours, plain, products)}
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, worker in running.items():
            worker.begin()
            seconds[name].append(worker.ended())
    for worker in running.values():
        worker.close()
    return seconds


def compare_machines(job: tuple[Any, ...], rounds: int) -> dict[str, list[float]]:
    """Tokens a second of the clock of the whole machine in every turn, filled in either way."""
    cores = len(os.sched_getaffinity(0))
    running = {"ours": [Worker(ours, 1, job) for _ in range(cores)]}
    running["plain"] = [Worker(plain, cores, job)]
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, workers in running.items():
            began = time.monotonic()
            for worker in workers:
                worker.begin()
            for worker in workers:
                worker.ended()
            tokens = len(workers) * CHUNK * BATCH_TOKENS
            rates[name].append(tokens / (time.monotonic() - began))
    for workers in running.values():
        for worker in workers:
            worker.close()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS)
    parser.add_argument("--how", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--machine", action="store_true", help="the whole of it, by the clock")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(json.__file__).parents[1]
        corpora.build("text", [library / "asyncio", library / "email"], folder)
        text = Path(folder) / "text" / "train-00000.bin"
        for how in given.how:
            for optimizer in given.optimizers:
                for size in given.sizes:
                    d, layers = map(int, size.split("x"))
                    steps = (given.rounds + 2) * CHUNK  # more than there are turns for
                    job = (d, layers, steps, optimizer, text, how == "compiled")
                    what = f"d{d}-L{layers} {optimizer:5} {how:8}"
                    if given.machine:
                        report_machines(what, compare_machines(job, given.rounds))
                    else:
                        report(what, compare(job, given.rounds))


def report(what: str, seconds: dict[str, list[float]]) -> None:
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True)]
    least = [b / a for a, b in zip(seconds["products"], seconds["plain"], strict=True)]
    mine, theirs, floor = (statistics.median(each) / CHUNK for each in seconds.values())
    print(
        f"{what} ours {BATCH_TOKENS / mine:7,.0f} tokens/CPU-s, plain {BATCH_TOKENS / theirs:7,.0f}"
        f"; ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"a step {1e3 * mine:.1f} ms, of which products {1e3 * floor:.1f}; "
        f"with nothing else the ratio were {statistics.median(least):.2f}",
        flush=True,
    )


def report_machines(what: str, rates: dict[str, list[float]]) -> None:
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    mine, theirs = (statistics.median(each) for each in rates.values())
    print(
        f"{what} the whole machine: ours {mine:7,.0f} tokens/s, plain {theirs:7,.0f}; "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
