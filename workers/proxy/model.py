"""A decoder-only transformer, small enough to read: the one family that proxies are drawn from.

Pre-norm with parameter-free RMSNorm, rotary positions, RMSNorm of queries and keys with learned
gains (shared by the heads of a layer), SwiGLU or squared ReLU, no biases, head zero at the start.
The choices follow nanochat (github.com/karpathy/nanochat, nanochat/gpt.py) and were measured at
the sizes of a demonstration: see docs/demo-sweep.md.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.proxy import fused
from workers.proxy.config import ModelConfig

ROPE_BASE = 10_000.0  # Su et al. 2021 (arXiv 2104.09864); longer contexts than 4k want more


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6)


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values come from one matrix of (3 d, d)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.head_dim = config.d_model // config.head_dim, config.head_dim
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        # one gain a head dimension for queries, one for keys
        self.qk_gain = nn.Parameter(torch.ones(2, 1, config.head_dim)) if config.qk_norm else None

    def queries_keys_values(
        self, x: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each (batch, heads, length, head_dim)."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, self.head_dim)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        # queries and keys are normalised and turned together: half the number of operations
        if self.qk_gain is not None:
            qk = rms_norm(qk) * self.qk_gain
        qk = rotate(qk, cos, sin)
        q, k = qk.unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(x, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
        return out


class Mlp(nn.Module):
    """`down(silu(gate x) * up x)`, or `down(relu(up x)^2)`; gate and up are one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        self.up = nn.Linear(config.d_model, config.d_ff * (2 if self.gated else 1), bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def hidden(self, x: Tensor) -> Tensor:
        h: Tensor = self.up(x)
        if self.gated:
            gate, value = h.chunk(2, dim=-1)
            h = F.silu(gate) * value
        else:
            h = F.relu(h).square()
        return h

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.hidden(x))
        return out


class Block(nn.Module):
    """Attention and MLP, each added to the stream, `residual_scale` times.

    Where it is to `fuse`, the stream and the rotary tables lie positions last; see fused.py.
    """

    def __init__(self, config: ModelConfig, residual_scale: float, fuse: bool) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(config), Mlp(config)
        self.residual_scale, self.fuse = residual_scale, fuse

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, length: int) -> Tensor:
        if self.fuse:
            part, scale = self.attention, self.residual_scale
            weights = part.qkv.weight, part.qk_gain, part.out.weight
            x = fused.attend(x, *weights, cos, sin, length, scale)
            return fused.gated_mlp(x, self.mlp.up.weight, self.mlp.down.weight, scale)
        if self.residual_scale == 1.0:  # a multiplication less
            x = x + self.attention(rms_norm(x), cos, sin)
            out: Tensor = x + self.mlp(rms_norm(x))
            return out
        x = torch.add(x, self.attention(rms_norm(x), cos, sin), alpha=self.residual_scale)
        return torch.add(x, self.mlp(rms_norm(x)), alpha=self.residual_scale)


class Transformer(nn.Module):
    """Token ids (batch, length) -> logits (batch, length, vocabulary).

    The logits are multiplied by `logit_scale`, which muP sets to base width / width (optim.py).
    `base_layers` is the depth at which rates were tuned: what a layer adds to the stream is
    multiplied by base_layers / n_layers, and weights start as they would at that depth (CompleteP,
    Dey et al. 2025, arXiv 2505.01618, alpha = 1). 0 leaves depth alone.

    With `targets`, (loss, log Z) of every position instead: nats a token, and the log of the
    softmax's normaliser. `fuse` has them computed by fused.py, where that suits; all
    else is the formulas written here.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        config: ModelConfig,
        logit_scale: float = 1.0,
        base_layers: int = 0,
        fuse: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.logit_scale, self.fuse = config, logit_scale, fuse
        self.init_layers = base_layers or config.n_layers
        self.residual_scale = self.init_layers / config.n_layers
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = [Block(config, self.residual_scale, fuse) for _ in range(config.n_layers)]
        self.blocks = nn.ModuleList(self.layers)  # registers them; the list keeps their type
        self.head = None
        if not config.tied:
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        cos, sin = rotary_table(config.seq_len, config.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Weights from `seed`, the same on every device: drawn on the CPU, then copied.

        Block matrices ~ N(0, 1/fan_in); what writes to the residual stream starts smaller by
        sqrt(2 layers) (GPT-2); embeddings ~ N(0, 1), or N(0, 1/width) when the head shares them;
        a head of its own starts at zero, so that the first loss is ln(vocabulary).
        """
        generator = torch.Generator().manual_seed(seed)

        def draw(parameter: Tensor, std: float) -> None:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

        width = self.config.d_model
        draw(self.embedding.weight, width**-0.5 if self.head is None else 1.0)
        depth_scale = (2 * self.init_layers) ** -0.5
        for block in self.layers:
            draw(block.attention.qkv.weight, width**-0.5)
            draw(block.attention.out.weight, width**-0.5 * depth_scale)
            draw(block.mlp.up.weight, width**-0.5)
            draw(block.mlp.down.weight, self.config.d_ff**-0.5 * depth_scale)
            if block.attention.qk_gain is not None:
                block.attention.qk_gain.fill_(1.0)
        if self.head is not None:
            self.head.weight.zero_()

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        length = ids.shape[1]
        weight = self.embedding.weight if self.head is None else self.head.weight
        if self.fuse:
            cos, sin = (table[:length].t().contiguous() for table in (self.cos, self.sin))
            x = fused.embed(self.embedding.weight, ids.flatten())
        else:
            # an axis for (queries, keys) and one for the heads between position and head dimension
            cos, sin = (table[:length, None, None] for table in (self.cos, self.sin))
            x = rms_norm(self.embedding(ids))
        for block in self.layers:
            x = block(x, cos, sin, length)
        if self.fuse:
            if targets is not None:
                return fused.head(x, weight, targets.flatten(), self.logit_scale)
            x = x.t().view(*ids.shape, -1)
        logits = F.linear(rms_norm(x) * self.logit_scale, weight)
        return logits if targets is None else token_losses(logits, targets)


def token_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss in nats, and the log of the normaliser, of every token: two of (tokens,)."""
    logits = logits.float().flatten(0, 1)
    log_z = torch.logsumexp(logits, dim=-1)
    return log_z - logits.gather(1, targets.reshape(-1, 1)).squeeze(1), log_z


def rotary_table(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin of (length, head_dim / 2): position times base^(-2i/head_dim)."""
    frequency = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim/2) of the last axis by their position's angle."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


@dataclass(frozen=True)
class Costs:
    """What a model holds and what a token costs to train, in every convention in use."""

    params: dict[str, int]
    flops_per_token: dict[str, float]


def costs(model: Transformer) -> Costs:
    """Counted from the modules of `model`, at its own sequence length.

    params: `blocks` are the layers alone (Kaplan's non-embedding count); `blocks_and_head` adds
    the matrix that makes logits, shared or not; `non_embedding` is everything but the input
    embedding table (OLMo's; the shared table of a tied model is an embedding); `total` is all.

    flops_per_token, forward and backward (3 times forward), a multiply-add being 2:
    - exact: every matrix product of one token, attention over the (T + 1) / 2 positions that a
      token sees on average under the causal mask, and no lookups, norms or activations;
    - 6nd: 6 times `total`;
    - palm: 6 times `blocks_and_head` + 12 L d T, attention over all T positions (Chowdhery et al.
      2022, appendix B).
    """
    config = model.config
    embedding = model.embedding.weight.numel()
    head = 0 if model.head is None else model.head.weight.numel()
    blocks = sum(p.numel() for p in model.blocks.parameters())
    matrices = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, nn.Linear))
    logits = head or embedding
    params = {
        "total": embedding + blocks + head,
        "non_embedding": blocks + head,
        "blocks": blocks,
        "blocks_and_head": blocks + logits,
    }
    length, width = config.seq_len, config.d_model
    # scores and their product with the values: 2 * 2 * d multiply-adds per position seen
    attention = config.n_layers * 4.0 * width * (length + 1) / 2
    flops = {
        "exact": 3 * (2.0 * (matrices + logits) + attention),
        "6nd": 6.0 * params["total"],
        "palm": 6.0 * params["blocks_and_head"] + 12.0 * config.n_layers * width * length,
    }
    return Costs(params, flops)
