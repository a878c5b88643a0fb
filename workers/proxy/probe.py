"""Signs of an instability to come, looked at now and then on a few sequences of the batch.

| figure               | what it is                                          | beware of          |
|----------------------|-----------------------------------------------------|--------------------|
| attention_logit_L    | largest |query . key| / sqrt(head_dim) of layer L   | growth; above 1e4  |
| sign_fraction_NAME_L | share of the inputs of a matrix on the same side of | > 0.9 for long     |
|                      | its principal direction, between 1/2 and 1          |                    |
| grad_rms_PART        | of the gradients before clipping                    | nearing Adam's eps |

Attention logits and gradients near eps: Wortsman et al. 2023, arXiv 2309.14322. Sign fraction:
spectral alignment, Qiu et al. 2025, arXiv 2510.04202, where the loss of sign diversity comes before
the loss explodes; the thresholds are guesses. Everything stays on the device.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from workers.proxy.model import Transformer, rms_norm

SEQUENCES = 2
POWER_ITERATIONS = 8


@torch.no_grad()
def probe(model: Transformer, ids: Tensor) -> dict[str, Tensor]:
    """The figures of attention and alignment on ids (batch, length); of the first and last layer
    only where alignment is concerned."""
    length = min(ids.shape[1], model.config.seq_len)
    cos, sin = model.cos[:length, None, None], model.sin[:length, None, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    x = rms_norm(model.embedding(ids[:SEQUENCES, :length]))
    out: dict[str, Tensor] = {}
    for layer, block in enumerate(model.layers):
        attention, mlp = block.attention, block.mlp
        q, k, v = attention.queries_keys_values(rms_norm(x), cos, sin)
        logits = (q @ k.mT).float() * attention.head_dim**-0.5
        out[f"attention_logit_{layer}"] = logits.abs().masked_fill(~causal, 0.0).amax()
        weights = logits.masked_fill(~causal, float("-inf")).softmax(-1).to(v.dtype)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        x = x + model.residual_scale * attention.out(mixed)
        hidden = mlp.hidden(rms_norm(x))
        x = x + model.residual_scale * mlp.down(hidden)
        if layer in (0, len(model.layers) - 1):
            out[f"sign_fraction_out_{layer}"] = sign_fraction(attention.out.weight, mixed)
            out[f"sign_fraction_down_{layer}"] = sign_fraction(mlp.down.weight, hidden)
    return out


@torch.no_grad()
def sign_fraction(weight: Tensor, inputs: Tensor) -> Tensor:
    """The larger share of `inputs` (..., fan_in) on one side of the principal right singular vector
    of `weight` (fan_out, fan_in), found by power iteration from a fixed start."""
    w = weight.float()
    direction = w.sum(0)
    for _ in range(POWER_ITERATIONS):
        direction = w.T @ (w @ direction)
        direction = direction / (direction.norm() + 1e-30)
    positive = ((inputs.float() @ direction) > 0).float().mean()
    return torch.maximum(positive, 1 - positive)


@torch.no_grad()
def part_rms(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Root mean square of the tensors of each part (embedding, blocks, head) of the model."""
    totals: dict[str, list[Tensor | float]] = {}
    for name, tensor in named:
        entry = totals.setdefault(name.split(".")[0], [0.0, 0.0])
        entry[0] = entry[0] + tensor.float().square().sum()
        entry[1] = entry[1] + tensor.numel()
    return {part: torch.as_tensor(total / n).sqrt() for part, (total, n) in totals.items()}
