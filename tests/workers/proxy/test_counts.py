"""Parameters and FLOPs of the real modules, against formulas and against torch's own counter."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from workers.proxy.config import ModelConfig
from workers.proxy.model import Transformer, costs

SHAPES = [
    ModelConfig(d_model=32, n_layers=2, head_dim=16, seq_len=64),
    ModelConfig(d_model=48, n_layers=3, head_dim=24, seq_len=32, tied=True),
    ModelConfig(d_model=64, n_layers=1, head_dim=32, seq_len=128, mlp="relu2", qk_norm=False),
    ModelConfig(d_model=32, n_layers=2, head_dim=32, seq_len=32, vocab_size=1000),
]


@pytest.mark.parametrize("config", SHAPES)
def test_total_is_what_the_module_holds(config: ModelConfig) -> None:
    model = Transformer(config)
    assert costs(model).params["total"] == sum(p.numel() for p in model.parameters())


def test_counts_by_hand() -> None:
    # d=32, L=2, hidden 96: 2 * (4 * 32^2 + 3 * 32 * 96 + 2 * 16 gains), and 256 * 32 twice
    counted = costs(Transformer(SHAPES[0]))
    blocks = 2 * (4096 + 9216 + 32)
    assert counted.params == {
        "total": blocks + 2 * 8192,
        "non_embedding": blocks + 8192,
        "blocks": blocks,
        "blocks_and_head": blocks + 8192,
    }
    # 6 per matrix entry and token; attention: 12 L d (T + 1) / 2
    assert counted.flops_per_token == {
        "exact": 6 * (2 * (4096 + 9216) + 8192) + 12 * 2 * 32 * 65 / 2,
        "6nd": 6 * (blocks + 2 * 8192),
        "palm": 6 * (blocks + 8192) + 12 * 2 * 32 * 64,
    }


@pytest.mark.parametrize("config", SHAPES)
def test_exact_flops_agree_with_torch(config: ModelConfig) -> None:
    """torch counts all T x T scores; with the causal half it must give the exact count."""
    model = Transformer(config)
    model.initialise(0)
    ids = torch.zeros(2, config.seq_len, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids)  # the fused kernel for CPUs is one that torch does not count
    tokens = ids.numel()
    attention = config.n_layers * 4 * config.d_model * config.seq_len
    causal = config.n_layers * 4 * config.d_model * (config.seq_len + 1) / 2
    matrices = counter.get_total_flops() / tokens - attention
    assert costs(model).flops_per_token["exact"] == pytest.approx(3 * (matrices + causal))


@pytest.mark.parametrize("config", SHAPES)
def test_the_planner_counts_the_same(config: ModelConfig) -> None:
    planner = pytest.importorskip("fitting.costs")
    counted = costs(Transformer(config))
    shape = {
        "d_model": config.d_model,
        "n_layers": config.n_layers,
        "d_ff": config.d_ff,
        "vocab_size": config.vocab_size,
        "n_heads": config.d_model // config.head_dim,
        "mlp": config.mlp,
        "tied": config.tied,
        "qk_norm": config.qk_norm,
    }
    planned = planner.parameter_counts(**shape)
    assert {name: planned[name] for name in counted.params} == counted.params
    for convention, flops in counted.flops_per_token.items():
        assert planner.flops_per_token(
            **shape, seq_len=config.seq_len, convention=convention
        ) == pytest.approx(flops)
