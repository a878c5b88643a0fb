"""A plan -> the configuration of the run, as `python -m workers.proxy.train` reads it."""

import math
from typing import Any

from fitting.costs import Setup, Shape
from fitting.errors import FittingError
from fitting.planning.recipe import step_law

COOLDOWN = 0.2  # of the steps: docs/demo-sweep.md
WARMUP_STEPS = 50


def run_config(
    shape: Shape,
    setup: Setup,
    tokens: float,
    *,
    train: list[dict[str, Any]] | None = None,
    validation: list[dict[str, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """CONFIG.json of one run. train, validation: [{"name", "path", "weight"?}] of corpora; without
    them the run has nothing to read, and the trainer says so.

    The learning rate is Step Law's, for AdamW at this very width (no transfer from another).
    Raises FittingError for a shape that the trainer cannot build.
    """
    if shape.mlp not in ("swiglu", "relu2") or shape.kv_heads != shape.n_heads:
        raise FittingError(
            "bad_option",
            f"The trainer builds no {shape.mlp} model of {shape.n_heads} heads with "
            f"{shape.kv_heads} of keys and values.",
            "It builds swiglu and relu2 with as many key-value heads as heads.",
        )
    if shape.n_heads * shape.head_width != shape.d_model:
        raise FittingError(
            "bad_option", f"{shape.n_heads} heads of {shape.head_width} do not make a width of "
            f"{shape.d_model}.", "The trainer needs them to.",
        )  # fmt: skip
    batch = max(1, round(setup.batch_tokens / shape.seq_len)) * shape.seq_len
    steps = max(2, math.floor(tokens / batch))
    return {
        "model": {
            "d_model": shape.d_model, "n_layers": shape.n_layers, "head_dim": shape.head_width,
            "d_ff": shape.d_ff, "vocab_size": shape.vocab_size, "seq_len": shape.seq_len,
            "mlp": shape.mlp, "tied": shape.tied, "qk_norm": shape.qk_norm,
        },
        "data": {"train": list(train or []), "validation": list(validation or [])},
        "optimizer": {
            "name": "adamw", "lr": step_law(float(shape.parameters("blocks")), tokens)["lr"],
            "mup_base_d_model": shape.d_model,
        },
        "schedule": {
            "kind": "wsd", "steps": steps, "warmup_steps": min(WARMUP_STEPS, steps // 10),
            "cooldown_steps": max(1, round(COOLDOWN * steps)),
        },
        "batch_tokens": batch,
        "seed": seed,
    }  # fmt: skip
