"""The real training loop on a GPU that is not there: `python -m tests.workers.proxy.fake_gpu FILE`

Several files are trained one after the other.

torch's fake tensors know shape, type and device and hold no numbers: an operation that would have
to look at one (`.item()`, a tensor as a condition, `nonzero`) fails, and every operation can be
seen with the device and the type of what it reads and writes. What a run prints and stores is cut
off (`Telemetry.flush`, `checkpoint.write`), for that is where it may wait; all else is the code
that trains. Printed is one JSON object a file, see `Seen`.

A process of its own, started with fake_gpu.cpp preloaded: torch must be told of a device that it
was not built for before it has looked.
"""

import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workers.proxy import train as training
from workers.proxy.checkpoint import Written
from workers.proxy.config import parse_config
from workers.proxy.model import Transformer
from workers.proxy.telemetry import Telemetry

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul")
RANDOM = ("rand", "normal", "bernoulli", "dropout", "multinomial")


@dataclass
class Seen:
    """Of the steps of a run, probes included.

    products, attention   operations by the types of what they multiply
    softmax, adamw, norm  types that the loss is computed in, that AdamW updates, that are reduced
    to_device             copies from the host, by whether the host waits for them
    elsewhere             operations that give a tensor that is not on the device: must be none
    random                operations that draw numbers: must be none, for no generator is saved
    """

    steps: int = 0
    flushes: int = 0
    products: Counter[str] = field(default_factory=Counter)
    attention: Counter[str] = field(default_factory=Counter)
    softmax: Counter[str] = field(default_factory=Counter)
    adamw: Counter[str] = field(default_factory=Counter)
    norm: Counter[str] = field(default_factory=Counter)
    to_device: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)
    random: Counter[str] = field(default_factory=Counter)
    checkpoints: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


class Watch(TorchDispatchMode):
    """Files every operation in `seen` while it is `on`."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen, self.on = seen, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.on:
            return out
        given, made = (
            [x for x in tree_leaves(each) if isinstance(x, Tensor)]
            for each in ((args, kwargs), out)
        )
        name = func.overloadpacket.__name__
        where = {x.device.type for x in made}
        kinds = " ".join(sorted({str(x.dtype).removeprefix("torch.") for x in given}))
        if name in ("_to_copy", "copy_") and "cpu" in {x.device.type for x in given}:
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            self.seen.to_device["waits" if waits else "runs behind"] += "cuda" in where
        if any(each in name for each in RANDOM):
            self.seen.random[name] += 1
        if "cuda" in {x.device.type for x in given} and where - {"cuda"}:
            self.seen.elsewhere[name] += 1
        for names, file in (
            (PRODUCTS, self.seen.products),
            (("logsumexp", "_log_softmax", "_softmax"), self.seen.softmax),
            (("_fused_adamw_",), self.seen.adamw),
            (("_foreach_norm", "linalg_vector_norm"), self.seen.norm),
        ):
            if name in names:
                file[f"{name} {kinds}"] += 1
        if "scaled_dot_product" in name and "backward" not in name:
            self.seen.attention[f"{name} {kinds}"] += 1
        return out


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    """`Module.to`, which cannot swap fake parameters for those of another device."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().to(device))
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    return model


def watch(document: dict[str, Any]) -> Seen:
    """Train as `document` says, on device cuda; raises what the loop raises."""
    seen = Seen()
    watching = Watch(seen)

    def flush(telemetry: Telemetry) -> None:
        seen.flushes += bool(telemetry._rows)
        telemetry._rows, telemetry._extra = [], {}
        telemetry.resume()

    record = Telemetry.record

    def counted(telemetry: Telemetry, *given: Any) -> None:
        seen.steps += 1
        record(telemetry, *given)

    def write(out: Path, step: int, kind: str, tensors: dict[str, Tensor], about: Any) -> Any:
        seen.checkpoints.append(kind)
        return Written(out, "", 0)

    def emit(event: str, **values: Any) -> None:
        seen.events.append(event)
        if event in ("start", "end"):
            watching.on = event == "start"

    class Stop:
        requested = False

    # so that what attention is given is seen; by itself the plain way computes in float32
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_available", lambda: True),
        patch("torch.cuda.is_bf16_supported", lambda *given, **more: True),
        patch("torch.cuda.get_device_name", lambda *given: "NVIDIA H100 80GB HBM3"),
        patch.object(Tensor, "pin_memory", lambda tensor: tensor),
        patch.object(Transformer, "to", moved),
        patch.object(Telemetry, "flush", flush),
        patch.object(Telemetry, "record", counted),
        patch.object(training, "emit", emit),
        patch.object(training, "LOOK_EVERY", 2),
        patch.object(training.checkpoint, "write", write),
        FakeTensorMode(allow_non_fake_inputs=True),
        watching,
    ):
        training.train(parse_config(document), Path(folder), None, Stop())  # type: ignore[arg-type]
    return seen


def main() -> None:
    for file in sys.argv[1:]:
        print(json.dumps(vars(watch(json.loads(Path(file).read_text())))), flush=True)


if __name__ == "__main__":
    main()
