"""The plans that are compared: shapes x GPUs x batches, with what each costs a token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fitting.costs import Setup, Shape, StepTime, count_step, flops_per_token
from fitting.costs.steptime import LIMIT
from fitting.errors import FittingError
from fitting.links import Floats

# A size of a list stands for the shapes whose N is this near to it.
SIZE_TOLERANCE = 0.03
# Widths that are tried when none are named.
MOST = 48


@dataclass(frozen=True)
class Candidates:
    """One entry a plan: [plans]. gpu_seconds: of a step, over all GPUs. N is in the convention of
    the fit, N_total is all that is stored, N_blocks the layers alone; flops: a token."""

    shapes: tuple[Shape, ...]
    setups: tuple[Setup, ...]
    width: Floats
    depth: Floats
    N: Floats
    N_total: Floats
    N_blocks: Floats
    gpus: Floats
    batch_tokens: Floats
    gpu_seconds: Floats
    flops: Floats

    def __len__(self) -> int:
        return len(self.shapes)


def default_widths(step_time: StepTime, family: Shape) -> list[int]:
    """Multiples of the head dimension within what the step-time model may be asked for."""
    e = family.head_width
    low, high = e, 96 * e
    if step_time.spans is not None:
        low = max(low, int(np.ceil(step_time.spans["width"][0] / LIMIT)))
        high = int(step_time.spans["width"][1] * LIMIT)
    every = range(e * -(-low // e), high + 1, e)
    if len(every) <= MOST:
        return list(every)
    return sorted({every[round(i)] for i in np.geomspace(1, len(every), MOST) - 1})


def default_depths(step_time: StepTime) -> list[int]:
    """Some 50 depths, evenly in their logarithm, within what the step-time model may be asked."""
    low, high = 1.0, 160.0
    if step_time.spans is not None:
        low = max(1.0, np.ceil(step_time.spans["depth"][0] / LIMIT))
        high = step_time.spans["depth"][1] * LIMIT
    return sorted({round(x) for x in np.geomspace(low, high, 64)} & set(range(1, int(high) + 1)))


def candidates(
    step_time: StepTime,
    family: Shape,
    setup: Setup,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    gpus: Sequence[int],
    batches: Sequence[float],
    n_convention: str,
    flops_convention: str,
    sizes: Sequence[float] | None = None,
) -> tuple[Candidates, int]:
    """Every plan that the step-time model may be asked for, and how many it may not.

    Raises FittingError where none is left; the reason is that of the last one refused.
    """
    shapes = []
    for width in widths:
        if width % family.head_width:
            raise FittingError(
                "bad_option", f"Width {width} is no multiple of the {family.head_width} channels "
                "of a head.", "Give multiples of it, or another head dimension.",
            )  # fmt: skip
        shapes += [family.resized(width, depth) for depth in depths]
    if sizes is not None:
        wanted = np.asarray(sizes, dtype=float)
        shapes = [
            s for s in shapes
            if np.min(np.abs(s.parameters(n_convention) / wanted - 1)) <= SIZE_TOLERANCE
        ]  # fmt: skip
        if not shapes:
            raise FittingError(
                "infeasible", f"No shape of the grid has one of the {len(wanted)} sizes, within "
                f"{SIZE_TOLERANCE:.0%}.", "Give more widths and depths.",
            )  # fmt: skip
    kept: list[tuple[Shape, Setup]] = []
    refused, why = 0, None
    setups = [replace(setup, gpus=g, batch_tokens=b) for g in gpus for b in batches]
    for shape in shapes:
        for one in setups:
            try:
                step_time.check_reach(shape, one)
            except FittingError as error:
                refused, why = refused + 1, error
                continue
            kept.append((shape, one))
    if not kept:
        assert why is not None
        raise why
    counts = [count_step(shape, one) for shape, one in kept]
    per_token = [
        flops_per_token(
            d_model=s.d_model, n_layers=s.n_layers, d_ff=s.d_ff, vocab_size=s.vocab_size,
            n_heads=s.n_heads, seq_len=s.seq_len, n_kv_heads=s.n_kv_heads, head_dim=s.head_dim,
            mlp=s.mlp, tied=s.tied, qk_norm=s.qk_norm, norm_gains=s.norm_gains,
            convention=flops_convention.lower(),
        )
        for s, _ in kept
    ]  # fmt: skip
    found = Candidates(
        shapes=tuple(s for s, _ in kept),
        setups=tuple(u for _, u in kept),
        width=np.array([float(s.d_model) for s, _ in kept]),
        depth=np.array([float(s.n_layers) for s, _ in kept]),
        N=np.array([float(s.parameters(n_convention)) for s, _ in kept]),
        N_total=np.array([float(s.parameters()) for s, _ in kept]),
        N_blocks=np.array([float(s.parameters("blocks")) for s, _ in kept]),
        gpus=np.array([float(u.gpus) for _, u in kept]),
        batch_tokens=np.array([u.batch_tokens for _, u in kept]),
        gpu_seconds=np.array([step_time.gpu_seconds(c) for c in counts]),
        flops=np.array(per_token),
    )
    return found, refused
