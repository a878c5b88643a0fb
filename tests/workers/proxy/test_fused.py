"""Gradients written by hand: against finite differences, and against the plain formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.proxy.conftest import Trained
from workers.proxy import fused
from workers.proxy.config import ModelConfig
from workers.proxy.model import Transformer, rotary_table

WIDTH, HEAD_DIM, SEQUENCES, LENGTH = 8, 4, 2, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(shape, generator=generator, dtype=torch.float64)
    return out.requires_grad_()


def tables() -> list[Tensor]:
    return [each.double().t() for each in rotary_table(LENGTH, HEAD_DIM)]


X = drawn(WIDTH, SEQUENCES * LENGTH, seed=1)
TARGETS = torch.tensor([1, 0, 2, 6, 6, 3, 3, 5, 4, 1])
PARTS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "embed": (lambda table: fused.embed(table, TARGETS), (drawn(7, WIDTH),)),
    "embed_of_many": (lambda table: fused.embed(table, TARGETS), (drawn(12, WIDTH),)),
    "attend": (
        lambda *given: fused.attend(*given, *tables(), LENGTH, 0.7),
        (X, drawn(3 * WIDTH, WIDTH), drawn(2, 1, HEAD_DIM), drawn(WIDTH, WIDTH)),
    ),
    "gated_mlp": (
        lambda *given: fused.gated_mlp(*given, 0.7),
        (X, drawn(12, WIDTH), drawn(WIDTH, 6)),
    ),
    "head": (lambda *given: fused.head(*given, TARGETS, 0.7), (X, drawn(7, WIDTH))),
    "head_loss": (lambda *given: fused.head(*given, TARGETS, 0.7)[0], (X, drawn(7, WIDTH))),
    "head_log_z": (lambda *given: fused.head(*given, TARGETS, 0.7)[1], (X, drawn(7, WIDTH))),
}


@pytest.mark.parametrize("queries", [2, 64])  # blocks of queries, the last one short; and one block
@pytest.mark.parametrize("part", PARTS)
def test_gradients_are_those_of_finite_differences(
    part: str, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "QUERIES", queries)
    function, given = PARTS[part]
    assert torch.autograd.gradcheck(function, given)


@pytest.mark.parametrize(
    ("length", "tied", "base_layers"), [(32, False, 0), (100, True, 2), (130, False, 4)]
)
def test_the_model_is_the_plain_one(length: int, tied: bool, base_layers: int) -> None:
    """Losses, normalisers, logits and the gradient of every parameter, in float32."""
    config = ModelConfig(d_model=24, n_layers=3, head_dim=12, seq_len=length, tied=tied)
    models = [Transformer(config, 0.7, base_layers, fuse=fuse) for fuse in (False, True)]
    for model in models:
        model.initialise(0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # where a zero or a one could hide a mistake
            for name, parameter in model.named_parameters():
                if "head" in name or "gain" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
    ids = torch.randint(0, 256, (3, length + 1), generator=torch.Generator().manual_seed(2))
    results = []
    for model in models:
        losses, log_z = model(ids[:, :-1], ids[:, 1:])
        (losses.mean() + 0.1 * log_z.square().mean()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append(
            {"losses": losses, "log_z": log_z, "logits": model(ids[:, :-1]), **gradients}
        )
    plain, ours = results
    for name, expected in plain.items():
        apart = (ours[name] - expected).norm() / expected.norm()
        assert float(apart.detach()) < 2e-6, name


def test_a_target_of_vanishing_probability_has_a_loss() -> None:
    """exp(-300) is no float32; the loss and the normaliser are exact all the same."""
    x = torch.ones(4, 2)
    weight = torch.tensor([[75.0], [0.0]]).repeat(1, 4)
    losses, log_z = fused.head(x, weight, torch.tensor([1, 0]), 1.0)
    assert losses.tolist() == pytest.approx([300.0, 0.0], abs=1e-3)
    assert log_z.tolist() == pytest.approx([300.0, 300.0], rel=1e-5)


@pytest.mark.parametrize(
    "model", [{"mlp": "relu2"}, {"qk_norm": False}, {"seq_len": fused.LONGEST * 2}]
)
def test_what_it_does_not_suit_is_trained_plainly(
    model: dict[str, Any],
    make_config: Callable[..., dict[str, Any]],
    run: Callable[..., Trained],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused, "embed", None)
    batch = model.get("seq_len", 64)
    schedule = {"steps": 2, "warmup_steps": 0, "cooldown_steps": 1}
    done = run(make_config(model=model, batch_tokens=batch, schedule=schedule))
    assert done.end["status"] == "finished"
