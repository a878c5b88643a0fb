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
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 64, (8, 17), generator=generator)

    def size(width: int, base: int) -> float:
        config = ModelConfig(
            d_model=width, n_layers=2, head_dim=16, vocab_size=64, seq_len=16, d_ff=2 * width
        )
        optim = OptimizerConfig(name=name, lr=5e-3, mup_base_d_model=base)
        model = Transformer(config, logit_scale(optim, width), fuse=fuse)
        model.initialise(0)
        optimizer = Optimizer(model, optim)
        for _ in range(8):
            losses, _ = model(ids[:, :-1], ids[:, 1:])
            losses.mean().backward()
            optimizer.step(5e-3)
            optimizer.zero_grad()
        with torch.no_grad():
            return float(model(ids[:, :-1]).square().mean().sqrt())

    assert abs(math.log(size(256, 64) / size(32, 64))) < math.log(2)
    # each width its own base is no transfer: the wide model moves several times as far
    assert math.log(size(256, 256) / size(32, 32)) > math.log(4)


@pytest.mark.parametrize("width", [32, 128])
def test_decay_is_the_same_share_at_every_width_and_spares_the_rest(width: int) -> None:
    """Without gradients only decay moves a weight: each step by rate times decay, which are given
    for the base width, where the rate falls with the width and the decay rises (table 8 of Yang et
    al. 2022 has the rate). Embedding, head and gains are not decayed."""
    config = ModelConfig(d_model=width, n_layers=1, head_dim=16, seq_len=16)
    for name in ("adamw", "muon"):
        model = Transformer(config)
        model.initialise(0)
        given = OptimizerConfig(name=name, lr=1e-2, weight_decay=0.1, mup_base_d_model=64)
        optimizer = Optimizer(model, given)
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        for parameter in optimizer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(1e-2)
        for key, parameter in model.named_parameters():
            decayed = parameter.dim() == 2 and "blocks" in key
            kept = 1 - 1e-2 * 0.1 if decayed else 1.0
            assert torch.allclose(parameter, before[key] * kept, rtol=1e-6, atol=0), (name, key)


def test_eps_of_block_matrices_follows_the_depth() -> None:
    """CompleteP, table 1: eps times base depth / depth. A gradient as large as eps moves a weight
    by rate / (1 + L0/L), where eps is left alone by half the rate."""
    config = ModelConfig(d_model=64, n_layers=8, head_dim=32, seq_len=16)
    model = Transformer(config, base_layers=2)
    model.initialise(0)
    given = OptimizerConfig(
        name="adamw", lr=1.0, weight_decay=0, eps=1e-4, clip=0, mup_base_d_model=64, base_n_layers=2
    )
    optimizer = Optimizer(model, given)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for parameter in optimizer.parameters:
        parameter.grad = torch.full_like(parameter, 1e-4)
    optimizer.step(1.0)
    for key, parameter in model.named_parameters():
        matrix = parameter.dim() == 2 and "blocks" in key
        moved = before[key] - parameter.detach()
        expected = 1 / (1 + 2 / 8) if matrix else 1 / 2
        assert torch.allclose(moved, torch.full_like(moved, expected), rtol=1e-4), key


@pytest.mark.parametrize("width", [32, 128])
def test_muon_s_step_has_its_size_in_every_shape(width: int) -> None:
    """Its spectral norm is rate * 0.2 sqrt(base) * sqrt(out / in), for each matrix that is fused in
    a parameter, to within what Newton and Schulz leave of a singular value."""
    config = ModelConfig(d_model=width, n_layers=2, head_dim=16, seq_len=16)
    model = Transformer(config)
    model.initialise(0)
    given = OptimizerConfig(lr=1e-2, weight_decay=0, clip=0, mup_base_d_model=64)
    optimizer = Optimizer(model, given)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for parameter in optimizer.parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step(1e-2)
    fused = {"qkv": 3, "up": 2}
    seen = 0
    for key, parameter in model.named_parameters():
        if parameter.dim() != 2 or "blocks" not in key:
            continue
        for part in (parameter.detach() - before[key]).chunk(fused.get(key.split(".")[-2], 1)):
            rows, cols = part.shape
            size = float(torch.linalg.matrix_norm(part, 2))
            expected = 1e-2 * 0.2 * math.sqrt(64) * math.sqrt(rows / cols)
            assert 0.7 < size / expected < 1.3, (key, size, expected)
            seen += 1
    assert seen == 2 * (3 + 1 + 2 + 1)
