"""Counts of a step's work against torch's own counter on real models, and by hand."""

from dataclasses import replace

import pytest

from fitting import FittingError
from fitting.costs import Setup, Shape, count_step, flops_per_token, forward_ops, parameter_counts
from fitting.costs.ops import optimizer_flops

TINY = Shape(d_model=64, n_layers=3, d_ff=176, vocab_size=300, n_heads=2, seq_len=128, qk_norm=True,
             norm_gains=False)  # fmt: skip


def counted(step) -> float:
    """FLOPs that torch counts while `step` runs; attention as plain matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("mlp", ["swiglu", "relu2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_the_proxy_model_within_a_percent(mlp: str, tied: bool, trained: bool) -> None:
    torch = pytest.importorskip("torch")
    from workers.proxy.config import ModelConfig
    from workers.proxy.model import Transformer

    shape = replace(TINY, mlp=mlp, tied=tied)
    model = Transformer(
        ModelConfig(d_model=64, n_layers=3, head_dim=32, d_ff=176, vocab_size=300, seq_len=128,
                    mlp=mlp, tied=tied)
    )  # fmt: skip
    model.initialise(0)
    ids = torch.randint(0, 300, (2, 128))

    def step() -> None:
        out = model(ids).sum()
        if trained:
            out.backward()

    ours = sum(op.flops for op in forward_ops(shape, 2 * 128)) * (3 if trained else 1)
    assert counted(step) == pytest.approx(ours, rel=0.01)


def test_shared_key_value_heads_and_checkpointing_within_a_percent() -> None:
    """A grouped-query layer written out, and the same under torch's activation checkpointing."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    T, s, d, h, k, e, f = 256, 128, 96, 6, 2, 16, 256

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv = nn.Linear(d, h * e, bias=False), nn.Linear(d, 2 * k * e, bias=False)
            self.o = nn.Linear(h * e, d, bias=False)
            self.gate, self.up = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
            self.down = nn.Linear(f, d, bias=False)

        def forward(self, x):
            b = x.shape[0]
            q = self.q(x).view(b, s, h, e).transpose(1, 2)
            keys, values = self.kv(x).view(b, s, 2 * k, e).transpose(1, 2).split(k, dim=1)
            keys, values = (y.repeat_interleave(h // k, dim=1) for y in (keys, values))
            a = torch.softmax(q @ keys.transpose(-1, -2), dim=-1) @ values
            x = x + self.o(a.transpose(1, 2).reshape(b, s, h * e))
            return x + self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))

    layer = Layer()
    shape = Shape(d, 1, f, 10, h, s, n_kv_heads=k, head_dim=e)
    x = torch.randn(T // s, s, d, requires_grad=True)
    ops = [op for op in forward_ops(shape, T) if op.per_layer]
    forward = sum(op.flops for op in ops)
    assert counted(lambda: layer(x).sum().backward()) == pytest.approx(3 * forward, rel=0.01)
    # The other kind stops recomputing before the last product, and so does a little less.
    again = counted(lambda: checkpoint(layer, x, use_reentrant=True).sum().backward())
    assert again == pytest.approx(4 * forward, rel=0.01)
    step = count_step(shape, Setup(T, causal=False, checkpointing=True))
    head = sum(op.flops for op in step.ops if not op.per_layer)
    assert step.flops - head == pytest.approx(4 * forward)


def test_agrees_with_the_field_s_convention() -> None:
    """`exact` counts (T + 1) / 2 keys a token, a causal kernel T / 2: .4% of attention here."""
    per_token = flops_per_token(
        d_model=64, n_layers=3, d_ff=176, vocab_size=300, n_heads=2, seq_len=128
    )
    step = count_step(TINY, Setup(batch_tokens=1000))
    assert step.flops / 1000 == pytest.approx(per_token, rel=2e-3)


def test_copies_by_hand() -> None:
    """One layer, d 4, one head, f 8 (two matrices), V 10, T 3 tokens of context 3:
    qkv 3 (4 + 12), attention 3 * 16, output 3 * 8, MLP 3 (8 + 32), norms 96, embedding 24,
    head 12 + 90."""
    shape = Shape(4, 1, 8, 10, 1, 3, mlp="gelu")
    ops = {op.name: op for op in forward_ops(shape, 3)}
    moved = {name: op.activations for name, op in ops.items()}
    assert moved == {
        "embedding": 24, "qkv": 48, "attention": 48, "output": 24, "mlp": 120, "norms": 96,
        "head": 102,
    }  # fmt: skip
    assert {n: op.weights for n, op in ops.items() if op.weights} == {
        "qkv": 48, "output": 16, "mlp": 64, "head": 40,
    }  # fmt: skip
    unfused = {op.name: op for op in forward_ops(shape, 3, attention="unfused")}
    assert unfused["attention"].activations == 48 + 4 * 3 * 3


def test_weights_move_once_a_micro_batch() -> None:
    whole = count_step(TINY, Setup(batch_tokens=4096, gpus=2))
    cut = count_step(TINY, Setup(batch_tokens=4096, gpus=2, micro_batch_tokens=512))
    assert cut.weights == 4 * whole.weights
    assert cut.layers_gpus == 4 * whole.layers_gpus == 3 * 8
    assert (cut.flops, cut.copies) == (whole.flops, whole.copies)
    assert whole.params_gpus == 2 * TINY.parameters()
    assert whole.all_reduce_bytes == TINY.parameters() * 2  # 2 (G - 1) / G = 1, two bytes


def test_muon_by_hand() -> None:
    """Square d x d: five times (4 + 2) d^3 = 30 d^3 a matrix."""
    shape = Shape(8, 2, 8, 10, 1, 4, mlp="relu2")
    assert optimizer_flops(shape, "muon") == 2 * 6 * 30 * 8**3
    assert optimizer_flops(shape, "adamw") == 0
    both = [count_step(shape, Setup(100, 2, optimizer=o)).flops for o in ("muon", "adamw")]
    assert both[0] - both[1] == 2 * optimizer_flops(shape, "muon")  # every GPU does it


def test_the_family_keeps_its_proportions() -> None:
    gemstone = Shape(1024, 28, 4096, 50304, 8, 2048, n_kv_heads=4, head_dim=128, mlp="geglu")
    assert gemstone.parameters() == 543_482_880
    other = gemstone.resized(3072, 12)
    assert (other.n_heads, other.kv_heads, other.d_ff) == (24, 12, 12288)
    assert other.parameters() == 2_007_837_696
    assert other.parameters("blocks") == parameter_counts(
        d_model=3072, n_layers=12, d_ff=12288, vocab_size=50304, n_heads=24, n_kv_heads=12,
        mlp="geglu", qk_norm=False, norm_gains=True,
    )["blocks"]  # fmt: skip
    assert Shape.from_dict(other.to_dict()) == other


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_tokens": 0.0},
        {"batch_tokens": 10.0, "gpus": 0},
        {"batch_tokens": 10.0, "attention": "magic"},
        {"batch_tokens": 10.0, "optimizer": "lion"},
        {"batch_tokens": 10.0, "micro_batch_tokens": -1.0},
    ],
)
def test_an_impossible_setup_is_refused(wrong: dict) -> None:
    with pytest.raises(FittingError):
        Setup(**wrong)


def test_an_unknown_document_is_refused() -> None:
    with pytest.raises(FittingError, match="not a shape"):
        Shape.from_dict({"d_model": 4, "colour": "red"})
