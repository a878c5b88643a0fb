"""What bounds a step, by the data sheet: the roofline of every op (Williams et al. 2009).

An op of F FLOPs that moves b bytes takes max(F / (peak x compute efficiency),
b / (bandwidth x memory efficiency)); ops follow one another; the gradient all-reduce is added in
full (nothing is assumed to overlap). It says *what* bounds a step well before it says how long the
step takes: for that, calibrate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fitting.costs.hardware import Gpu
from fitting.costs.ops import count_step
from fitting.costs.shape import Setup, Shape
from fitting.costs.steptime import StepTime

# Guesses: what large matrix products and long copies reach of the printed peaks. Tried on
# llm-foundry's 18 H100 rows of 128-512 GPUs (see tests/fitting/test_steptime.py).
COMPUTE_EFFICIENCY = 0.65
MEMORY_EFFICIENCY = 0.8
LINK_EFFICIENCY = 0.8
# A guess: one standard deviation of ln(seconds) for a step that is read off a data sheet.
PRIOR_SIGMA = 0.3


@dataclass(frozen=True)
class Roofline:
    """ops: name, flops, bytes, seconds, bound ("compute" or "memory") of each, one GPU's share.
    seconds: of the step; bound_by: where most of it goes; utilisation: of the printed peak."""

    gpu: str
    seconds: float
    ops: tuple[dict[str, Any], ...]
    shares: dict[str, float]
    bound_by: str
    utilisation: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "seconds": self.seconds,
            "ops": [dict(op) for op in self.ops],
            "shares": dict(self.shares),
            "bound_by": self.bound_by,
            "utilisation": self.utilisation,
        }


def roofline(
    shape: Shape,
    setup: Setup,
    gpu: Gpu,
    *,
    dtype: str = "bf16",
    compute_efficiency: float = COMPUTE_EFFICIENCY,
    memory_efficiency: float = MEMORY_EFFICIENCY,
    link_efficiency: float = LINK_EFFICIENCY,
) -> Roofline:
    """Seconds of every op on one of `setup.gpus` GPUs, and what bounds them."""
    counts = count_step(shape, setup)
    rate, moved = gpu.peak(dtype) * compute_efficiency, gpu.memory_bandwidth * memory_efficiency
    rows: list[dict[str, Any]] = []

    def add(name: str, flops: float, size: float) -> None:
        arithmetic, memory = flops / rate, size / moved
        rows.append(
            {
                "name": name, "flops": flops, "bytes": size, "seconds": max(arithmetic, memory),
                "bound": "compute" if arithmetic >= memory else "memory",
            }
        )  # fmt: skip

    for op in counts.ops:
        elements = (op.activations + op.weights) / setup.gpus
        add(op.name, op.flops / setup.gpus, elements * setup.compute_bytes)
    optimizer_flops = counts.flops / setup.gpus - sum(op.flops for op in counts.ops) / setup.gpus
    add("optimizer", max(optimizer_flops, 0.0), counts.optimizer_copies * 4)  # fp32 states
    one_way = 0.5 * gpu.link_bandwidth * link_efficiency
    if setup.gpus > 1:
        rows.append(
            {
                "name": "all_reduce", "flops": 0.0, "bytes": counts.all_reduce_bytes,
                "seconds": counts.all_reduce_bytes / one_way, "bound": "link",
            }
        )  # fmt: skip
    total = sum(row["seconds"] for row in rows)
    shares = {
        bound: sum(row["seconds"] for row in rows if row["bound"] == bound) / total
        for bound in ("compute", "memory", "link")
    }
    return Roofline(
        gpu=gpu.name,
        seconds=total,
        ops=tuple(rows),
        shares=shares,
        bound_by=max(shares, key=lambda bound: shares[bound]),
        utilisation=counts.flops / setup.gpus / total / gpu.peak(dtype),
    )


def prior_step_time(
    gpu: Gpu,
    *,
    dtype: str = "bf16",
    compute_bytes: int = 2,
    compute_efficiency: float = COMPUTE_EFFICIENCY,
    memory_efficiency: float = MEMORY_EFFICIENCY,
    link_efficiency: float = LINK_EFFICIENCY,
) -> StepTime:
    """A step-time model from the data sheet alone, for use until the machine is calibrated.

    Arithmetic and activations add up (a sum, so that it has the form of the calibrated model; the
    roofline takes the larger of the two, op by op). parameters x GPUs: 7 fp32 copies of the
    optimizer, three passes of weights, and 2 values a parameter through the links.
    """
    moved = gpu.memory_bandwidth * memory_efficiency
    link = 0.5 * gpu.link_bandwidth * link_efficiency
    return StepTime(
        hardware=gpu.name,
        features=("flops", "copies", "layers_gpus", "params_gpus"),
        coefficients={
            "flops": 1.0 / (gpu.peak(dtype) * compute_efficiency),
            "copies": compute_bytes / moved,
            "layers_gpus": 0.0,
            "params_gpus": (7 * 4 + 3 * compute_bytes) / moved + 2 * compute_bytes / link,
        },
        residuals=np.zeros(0),
        sigma=PRIOR_SIGMA,
        spans=None,
        n_groups=0,
        source=f"data sheet ({gpu.source}); efficiencies {compute_efficiency:g}, "
        f"{memory_efficiency:g}, {link_efficiency:g} are guesses",
    )
