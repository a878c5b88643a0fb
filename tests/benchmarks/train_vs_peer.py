"""Tokens a second of the trainer against a plain loop, in the same run on the same machine.

    python -m tests.benchmarks.train_vs_peer [--sizes 32x2 96x2] [--steps 60] [--compile]

The peer is written as karpathy/nanoGPT's train.py is: a module a layer, `torch.optim` as it comes
(Muon on the block matrices and AdamW elsewhere, or AdamW alone), batches stacked from slices of a
memory map, `clip_grad_norm_`, `loss.item()` every tenth step. Shape, text, batch, optimizer and
precision are the trainer's. Eager is set against eager, compiled against compiled.

Each runs in a process of its own, as it would be started: ours tells glibc to keep memory. CPU
seconds of one thread between step 10 and the end; the best of the repeats, which alternate.
"""

import argparse
import contextlib
import io
import json
import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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

SEQ_LEN, BATCH_TOKENS, HEADS = 128, 1024, 2  # as app/demo_sweep.json has them
WARM = 10


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


def plain(d: int, layers: int, steps: int, optimizer: str, text: Path, compiled: bool) -> float:
    """CPU seconds of steps WARM + 1 to `steps` of the plain loop."""
    torch.compiler.reset()
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
    began = 0.0
    for step in range(1, steps + 1):
        if step == WARM + 1:
            began = time.process_time()
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
    return time.process_time() - began


class Clock(io.StringIO):
    """Stands for stdout: notes the CPU time of the first points and of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[int, float] = {}

    def write(self, line: str) -> int:
        if line.startswith('{"event": "points"'):
            self.at[json.loads(line)["points"][-1][0]] = time.process_time()
        return len(line)


class Never:
    requested = False


def ours(d: int, layers: int, steps: int, optimizer: str, text: Path, compiled: bool) -> float:
    """The same of the trainer, telemetry included."""
    torch.compiler.reset()
    source = {"name": "text", "path": str(text.parent)}
    config: dict[str, Any] = {
        "model": {"d_model": d, "n_layers": layers, "head_dim": d // HEADS, "seq_len": SEQ_LEN},
        "data": {"train": [source], "validation": []},
        "optimizer": {"name": optimizer, "lr": 6e-3},
        "schedule": {"kind": "cosine", "steps": steps, "warmup_steps": 20},
        "batch_tokens": BATCH_TOKENS,
        "compile": compiled,
        # the evaluation of nothing ends the first flush, so that the clock starts there
        "evaluate": {"at_steps": [WARM]},
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(clock):
        train(parse_config(config), Path(folder), None, Never())  # type: ignore[arg-type]
    return clock.at[steps] - clock.at[WARM]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["32x2", "48x2", "64x2", "96x2"])
    parser.add_argument("--optimizers", nargs="+", default=["muon"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compiled too; 20 s a size")
    given = parser.parse_args()
    tokens = (given.steps - WARM) * BATCH_TOKENS
    spawn = get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, spawn, initializer=one_thread, initargs=(True,)) as first,
        ProcessPoolExecutor(1, spawn, initializer=one_thread, initargs=(False,)) as second,
    ):
        library = Path(json.__file__).parents[1]
        corpora.build("text", [library / "asyncio", library / "email"], folder)
        text = Path(folder) / "text" / "train-00000.bin"
        for size in given.sizes:
            d, layers = map(int, size.split("x"))
            for optimizer in given.optimizers:
                for compiled in (False, True) if given.compile else (False,):
                    best = [math.inf, math.inf]
                    for _ in range(given.repeats):
                        for i, (process, way) in enumerate(((first, ours), (second, plain))):
                            job = (d, layers, given.steps, optimizer, text, compiled)
                            best[i] = min(best[i], process.submit(way, *job).result())
                    how = "compiled" if compiled else "eager"
                    a, b = (tokens / seconds for seconds in best)
                    print(
                        f"d{d}-L{layers} {optimizer:5} {how:8} ours {a:8,.0f} tokens/CPU-s, "
                        f"plain {b:8,.0f}, ratio {a / b:.2f}",
                        flush=True,
                    )


def one_thread(is_ours: bool) -> None:
    torch.set_num_threads(1)
    if is_ours:
        keep_memory()


if __name__ == "__main__":
    main()
