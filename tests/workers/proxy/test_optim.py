"""Muon against torch's, AdamW's width rule, and updates that keep their size at every width."""

import math

import pytest
import torch

from workers.proxy.config import ModelConfig, OptimizerConfig
from workers.proxy.model import Transformer
from workers.proxy.optim import Optimizer, count_nonfinite, logit_scale, orthogonalise


def test_orthogonalise_brings_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((4, 16, 16), (3, 16, 48)):
        out = orthogonalise(torch.randn(shape, generator=generator))
        values = torch.linalg.svdvals(out)
        # Jordan's coefficients trade exactness for speed: between about 0.7 and 1.2
        assert values.min() > 0.3 and values.max() < 1.3
        assert ((values - 1).abs() < 0.35).float().mean() > 0.9


def test_muon_agrees_with_torch() -> None:
    """Given the same gradients and the same size of update, torch.optim.Muon walks the same way."""
    config = ModelConfig(d_model=64, n_layers=2, head_dim=32, seq_len=16)
    ours = Transformer(config)
    ours.initialise(0)
    optimizer = Optimizer(ours, OptimizerConfig(lr=1e-2, clip=0.0, mup_base_d_model=64))
    out = ours.layers[0].attention.out.weight
    reference = torch.nn.Parameter(out.detach().clone())
    muon = torch.optim.Muon(
        [reference], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    generator = torch.Generator().manual_seed(1)
    start = reference.detach().clone()
    for _ in range(5):
        for parameter in optimizer.parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        reference.grad = out.grad.clone()
        muon.step()
        optimizer.step(1e-2)
    # torch iterates in bfloat16, ours in float32 on a CPU
    moved, theirs = out.detach() - start, reference.detach() - start
    assert float((moved - theirs).norm() / theirs.norm()) < 0.02


def test_adamw_is_torch_s_bit_for_bit() -> None:
    """Muon's leftovers and the block matrices of plain AdamW, with decay, over several steps."""
    config = ModelConfig(d_model=32, n_layers=2, head_dim=16, seq_len=16)
    for name in ("muon", "adamw"):
        model = Transformer(config)
        model.initialise(0)
        given = OptimizerConfig(name=name, lr=1e-2, clip=0.0, mup_base_d_model=32)
        optimizer = Optimizer(model, given)
        hidden = [p for block in model.blocks for p in block.parameters() if p.dim() == 2]
        ours = [p for p in optimizer.parameters if all(p is not h for h in hidden)]
        groups = [{"params": [p.detach().clone() for p in ours], "weight_decay": 0.0}]
        if name == "adamw":
            ours += hidden
            groups.append({"params": [p.detach().clone() for p in hidden], "weight_decay": 0.1})
        theirs = [p for group in groups for p in group["params"]]
        reference = torch.optim.AdamW(groups, betas=given.betas, eps=given.eps, fused=True)
        generator = torch.Generator().manual_seed(1)
        for lr in (1e-2, 1e-2, 5e-3):
            for parameter in optimizer.parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            for mine, other in zip(ours, theirs, strict=True):
                assert mine.grad is not None
                other.grad = mine.grad.clone()
            for group in reference.param_groups:
                group["lr"] = lr
            optimizer.step(lr)
            reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        names = {key.split(".", 1)[1] for key in optimizer.state() if key.startswith("adamw")}
        stored = reference.state_dict()["state"]
        assert names == {f"{i}.{key}" for i, values in stored.items() for key in values}


def test_elements_that_are_not_finite_are_counted() -> None:
    tensors = [torch.ones(3, 4), torch.ones(5)]
    tensors[0][1, 2], tensors[1][0], tensors[1][4] = math.nan, math.inf, -math.inf
    norm = torch.tensor(math.nan)
    assert float(count_nonfinite(tensors, norm)) == 3
    huge = [torch.full((5,), 1e38)]  # finite, and their norm is not
    assert float(count_nonfinite(huge, torch.tensor(math.inf))) == 0
    assert float(count_nonfinite(tensors[:1], torch.tensor(1.0))) == 0  # it trusts the norm


def test_adamw_follows_the_width() -> None:
    config = ModelConfig(d_model=128, n_layers=1, head_dim=32, seq_len=16)
    model = Transformer(config)
    model.initialise(0)
    optimizer = Optimizer(
        model, OptimizerConfig(name="adamw", lr=1e-2, weight_decay=0.0, mup_base_d_model=64)
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in optimizer.parameters:
        parameter.grad = torch.ones_like(parameter) * 1e-3
    optimizer.step(1e-2)
    # the first Adam step moves every entry by its rate: half of it for matrices of twice the width
    for name, parameter in model.named_parameters():
        rate = 5e-3 if parameter.dim() == 2 and "blocks" in name else 1e-2
        moved = (parameter.detach() - before[name]).abs()
        assert torch.allclose(moved, torch.full_like(moved, rate), rtol=1e-3), name


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_coordinates_keep_their_size_at_every_width(name: str, fuse: bool) -> None:
    """muP's coordinate check: after some steps, logits and activations change alike (d x 8), by
    the plain formulas and by the fused ones, which a CPU trains with."""
    sizes = {}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 64, (8, 17), generator=generator)
    for width in (32, 256):
        config = ModelConfig(
            d_model=width, n_layers=2, head_dim=16, vocab_size=64, seq_len=16, d_ff=2 * width
        )
        optim = OptimizerConfig(name=name, lr=5e-3, mup_base_d_model=64)
        model = Transformer(config, logit_scale(optim, width), fuse=fuse)
        model.initialise(0)
        optimizer = Optimizer(model, optim)
        for _ in range(8):
            losses, _ = model(ids[:, :-1], ids[:, 1:])
            losses.mean().backward()
            optimizer.step(5e-3)
            optimizer.zero_grad()
        with torch.no_grad():
            sizes[width] = float(model(ids[:, :-1]).square().mean().sqrt())
    assert sizes[32] > 0 and abs(math.log(sizes[256] / sizes[32])) < math.log(2), sizes
