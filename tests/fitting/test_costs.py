"""Counts against numbers printed by others and counts done by hand."""

import pytest

from fitting import FittingError
from fitting.costs import budget_flops, flops_per_token, parameter_counts

GPT2 = dict(d_model=768, n_layers=12, d_ff=3072, vocab_size=50257, n_heads=12, mlp="gelu")


def test_gpt2_small() -> None:
    """124.44M printed for GPT-2 small: this count, its positions (1024 x 768), its biases and
    the gains and offsets of its LayerNorms."""
    ours = parameter_counts(**GPT2, tied=True, qk_norm=False, norm_gains=True)
    biases = 12 * (3 * 768 + 768 + 3072 + 768)
    offsets = 25 * 768
    assert ours["total"] + 1024 * 768 + biases + offsets == 124_439_808


def test_llama_7b() -> None:
    """6,738,415,616 in Llama 7B (Touvron et al. 2023: 32 layers, 4096, 11008, 32000, untied)."""
    counts = parameter_counts(
        d_model=4096, n_layers=32, d_ff=11008, vocab_size=32000, n_heads=32, qk_norm=False,
        norm_gains=True,
    )  # fmt: skip
    assert counts["total"] == 6_738_415_616


def test_llama3_8b_shares_key_value_heads() -> None:
    """8,030,261,248 (Llama 3 8B: 8 key-value heads of 32, 14336, 128256)."""
    counts = parameter_counts(
        d_model=4096, n_layers=32, d_ff=14336, vocab_size=128256, n_heads=32, n_kv_heads=8,
        qk_norm=False, norm_gains=True,
    )  # fmt: skip
    assert counts["total"] == 8_030_261_248


def test_conventions_add_up() -> None:
    for tied in (False, True):
        c = parameter_counts(**GPT2, tied=tied)
        assert c["total"] == c["embedding"] + c["head"] + c["blocks"]
        assert c["blocks_and_head"] == c["blocks"] + 50257 * 768
        assert c["non_embedding"] == c["total"] - c["embedding"]


def test_exact_flops_by_hand() -> None:
    """d 2, one layer, one head of 2, f 3 (SwiGLU), V 5, T 3: matrices 4*4 + 18 + 10 = 44 entries;
    keys met: (1 + 2 + 3) / 3 = 2 a token, 2 * 2 + 2 * 2 FLOPs each."""
    shape = dict(d_model=2, n_layers=1, d_ff=3, vocab_size=5, n_heads=1)
    assert flops_per_token(**shape, seq_len=3) == 3 * (2 * 44 + 2 * 8)


def test_conventions_of_flops() -> None:
    shape = dict(d_model=32, n_layers=2, d_ff=80, vocab_size=256, n_heads=2)
    n = parameter_counts(**shape)
    assert flops_per_token(**shape, seq_len=256, convention="6nd") == 6 * n["total"]
    palm = flops_per_token(**shape, seq_len=256, convention="palm")
    assert palm == 6 * n["blocks_and_head"] + 12 * 2 * 32 * 256
    assert flops_per_token(**shape, seq_len=256) < palm  # only the past is attended to


def test_budgets() -> None:
    # 8 H100 (989e12 dense bf16) for a day at 40 %
    by_time = budget_flops(hours=24, gpus=8, peak_flops_per_second=989e12, utilisation=0.4)
    assert by_time == pytest.approx(2.7343e20, rel=1e-4)
    by_money = budget_flops(
        dollars=384, dollars_per_gpu_hour=2, peak_flops_per_second=989e12, utilisation=0.4
    )
    assert by_money == by_time


@pytest.mark.parametrize(
    "wrong", [{"d_model": 0}, {"mlp": "conv"}, {"n_heads": 5}, {"n_kv_heads": 7}]
)
def test_impossible_shapes_are_refused(wrong: dict) -> None:
    with pytest.raises(FittingError):
        parameter_counts(**{**GPT2, **wrong})


def test_two_budgets_are_refused() -> None:
    with pytest.raises(FittingError, match="2 budgets"):
        budget_flops(gpu_hours=1, dollars=1, peak_flops_per_second=1e12, utilisation=0.4)
