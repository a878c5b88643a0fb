"""Peaks printed in data sheets: the prior for a step's time while nothing has been measured.

Dense figures (sheets print twice as much "with sparsity"). A GPU is here only where its sheet, or
a page that reproduces it, was read; `source` names both. Whoever has another one gives its figures:
`Gpu(name, {"bf16": ...}, ...)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitting.errors import FittingError


@dataclass(frozen=True)
class Gpu:
    """flops: peak FLOP/s by dtype, dense. memory_bandwidth: bytes/s. memory_bytes: capacity.
    link_bandwidth: bytes/s to the other GPUs of a node, both directions added as sheets do."""

    name: str
    flops: Mapping[str, float]
    memory_bandwidth: float
    memory_bytes: float
    link_bandwidth: float
    source: str

    def peak(self, dtype: str = "bf16") -> float:
        """FLOP/s for a dtype; a FittingError names those that the sheet has."""
        if dtype not in self.flops:
            raise FittingError(
                "bad_option",
                f"There is no figure for {dtype} on {self.name}.",
                f"Use one of {', '.join(self.flops)}.",
            )
        return self.flops[dtype]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "flops": dict(self.flops),
            "memory_bandwidth": self.memory_bandwidth,
            "memory_bytes": self.memory_bytes,
            "link_bandwidth": self.link_bandwidth,
            "source": self.source,
        }


_A100_SHEET = (
    "NVIDIA A100 data sheet (nvidia-1758950-r4), as tabled on glennklockwood.com/garden/processors/"
    "A100"
)
_AMPERE = {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12}
_HOPPER = {"bf16": 989.4e12, "fp16": 989.4e12, "tf32": 494.7e12, "fp32": 66.9e12, "fp8": 1978.9e12}

GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", _AMPERE, 1555e9, 40e9, 600e9, _A100_SHEET),
        Gpu("a100-80gb", _AMPERE, 2039e9, 80e9, 600e9, _A100_SHEET),
        Gpu(
            "h100-sxm", _HOPPER, 3.35e12, 80e9, 900e9,
            "NVIDIA H100 data sheet and architecture white paper, as tabled on "
            "glennklockwood.com/garden/processors/h100",
        ),
        Gpu(
            "h200-sxm", _HOPPER, 4.8e12, 141e9, 900e9,
            "NVIDIA H200 announcement, as reproduced on aiwiki.ai/wiki/nvidia_h200: 141 GB at "
            "4.8 TB/s, the compute of the H100",
        ),
        Gpu(
            "l40s", {"bf16": 362.05e12, "fp16": 362.05e12, "tf32": 183e12, "fp32": 91.6e12,
                     "fp8": 733e12}, 864e9, 48e9, 64e9,
            "NVIDIA L40S data sheet, as reproduced on mullet.se (product 355414); the link is "
            "PCIe 4.0 x16",
        ),
        Gpu(
            "mi250x", {"bf16": 383.0e12, "fp16": 383.0e12, "fp32": 47.9e12}, 3.2e12, 128e9, 800e9,
            "AMD's table of the MI200 series, as reproduced on zexron.com (both dies together; a "
            "die, which is what software sees as a GPU, has half); links: 8 of 2 x 50 GB/s, "
            "rocm.docs.amd.com gpu-arch/mi250",
        ),
    )
}  # fmt: skip


def get_gpu(name: str) -> Gpu:
    """The data sheet of that name; a FittingError lists those that there are."""
    if name not in GPUS:
        raise FittingError(
            "bad_option",
            f"There is no data sheet for {name!r} here.",
            f"There are {', '.join(GPUS)}; or calibrate, which is better than any sheet.",
        )
    return GPUS[name]
