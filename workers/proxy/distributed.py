"""Several processes that train one model: what they share, and how they agree.

`python -m torch.distributed.run --nproc-per-node 8 -m workers.proxy.train ...` starts one process
for each GPU (or, with gloo, several on a CPU). Each reads its share of every global batch; the
gradients are averaged; so the run has the batches, the order and, to rounding, the losses of one
process. Only the first prints and writes checkpoints.

The kernels of a device run behind the host, and no step waits for them. What processes must decide
alike (to stop, to look at the figures) therefore goes over a second group, between hosts (gloo).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workers.proxy.config import Config, ConfigError
from workers.proxy.model import Transformer


@dataclass(frozen=True)
class Group:
    """This process among the `size` that train one model. Alone, every method does nothing."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    hosts: Any = None  # the group over which hosts agree

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """The GPU of this process, or the CPU. Several processes have a GPU each, by their rank."""
        device = torch.device(kind)
        if device.type == "cuda" and self.size > 1:
            return torch.device("cuda", self.local_rank)
        return device

    def share(self, sequences: int) -> slice:
        """Which sequences of a global batch are read here; raises ConfigError if it cannot be."""
        if sequences % self.size:
            raise ConfigError(
                f"batch_tokens make {sequences} sequences a step, which {self.size} processes "
                "cannot share equally; choose a batch that is a multiple, or fewer processes"
            )
        each = sequences // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def shard(self, model: Transformer, device: torch.device) -> None:
        """Leave each process its part of every parameter, put together layer by layer when it is
        needed (FSDP2). The parameters become DTensors; their gradients are averaged."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard  # a second of imports

        mesh = init_device_mesh(device.type, (self.size,))
        for block in model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def averaging(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model`, whose backward pass averages the gradients of all processes as it goes."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,  # constants
            gradient_as_bucket_view=True,
        )

    def mean(self, figures: Tensor) -> Tensor:
        """The average over the processes, in place; waits for nothing on a GPU."""
        if self.size > 1:
            dist.all_reduce(figures)
            figures /= self.size
        return figures

    def sum(self, figures: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(figures)
        return figures

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether any process has set it: the same answer everywhere."""
        if self.size == 1:
            return list(flags)
        agreed = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=self.hosts)
        return [bool(flag) for flag in agreed]


ALONE = Group()


def mine(tensor: Any) -> Tensor:
    """The part of a sharded tensor that this process holds, as a view; else the tensor itself."""
    local: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return local


def whole(tensor: Any) -> Tensor:
    """All of a sharded tensor; every process must ask."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


@torch.no_grad()
def assign(target: Any, full: Tensor) -> None:
    """Write `full` into `target`, or this process's part of it."""
    if is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = target.device_mesh, target.placements
        part = distribute_tensor(full.to(target.device), mesh, placements)
        target.to_local().copy_(part.to_local())
    else:
        target.copy_(full)


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


@contextlib.contextmanager
def joined(config: Config) -> Iterator[Group]:
    """The group that torchrun's environment names, left at the end; ALONE without one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.device(config.device).type == "cuda"
    if on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank} of this machine has no GPU: {torch.cuda.device_count()} are "
                "visible; start one process for each (--nproc-per-node)"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        hosts = dist.new_group(backend="gloo") if on_gpu else None
        with contextlib.ExitStack() as quiet:
            if rank > 0:  # one curve, told once
                nowhere = quiet.enter_context(open(os.devnull, "w"))
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
            yield Group(rank, local_rank, size, hosts)
    finally:
        dist.destroy_process_group()
