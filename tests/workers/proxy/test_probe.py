"""What foretells an instability, each figure against a second way to get it."""

import math
import random

import pytest
import torch
from torch import Tensor

from workers.proxy.config import ModelConfig, OptimizerConfig
from workers.proxy.model import Transformer, rms_norm, rotate
from workers.proxy.optim import Optimizer, logit_scale
from workers.proxy.probe import part_rms, probe, sign_fraction
from workers.proxy.telemetry import SpikeDetector, Telemetry

CONFIG = ModelConfig(d_model=16, n_layers=3, head_dim=8, vocab_size=32, seq_len=12)


def model_and_ids() -> tuple[Transformer, Tensor]:
    model = Transformer(CONFIG)
    model.initialise(1)
    return model, torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(2))


def test_the_largest_attention_logit_by_hand() -> None:
    """Layer 0: each pair of positions that the mask allows, one product at a time."""
    model, ids = model_and_ids()
    weight = model.layers[0].attention.qkv.weight.detach()
    x = rms_norm(rms_norm(model.embedding(ids)))
    largest = 0.0
    for sequence in x.detach():
        for head in range(2):
            rows = slice(8 * head, 8 * head + 8)
            q = rotate(rms_norm(sequence @ weight[rows].T), model.cos, model.sin)
            k = rotate(rms_norm(sequence @ weight[16:32][rows].T), model.cos, model.sin)
            for i in range(12):
                for j in range(i + 1):
                    largest = max(largest, abs(float(q[i] @ k[j])) / math.sqrt(8))
    found = probe(model, ids)
    assert float(found["attention_logit_0"]) == pytest.approx(largest, rel=1e-5)
    assert {name for name in found if name.startswith("attention")} == {
        f"attention_logit_{layer}" for layer in range(3)
    }


def test_the_probe_walks_the_model_s_own_forward_pass() -> None:
    """The inputs of the last matrix that it looks at give back the model's logits."""
    model, ids = model_and_ids()
    assert model.head is not None
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(3))
    seen: list[Tensor] = []
    handle = model.layers[-1].mlp.down.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    with torch.no_grad():
        model(ids)
        probe(model, ids)
    handle.remove()
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


def test_sign_fraction_agrees_with_the_singular_vector() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 16, generator=generator)
    weight += 4 * torch.outer(torch.randn(24, generator=generator), torch.ones(16) / 4)
    inputs = torch.randn(200, 16, generator=generator) + 0.5
    principal = torch.linalg.svd(weight).Vh[0]
    positive = float((inputs @ principal > 0).float().mean())
    assert float(sign_fraction(weight, inputs)) == pytest.approx(max(positive, 1 - positive))


def test_rms_of_parts() -> None:
    named = [("blocks.a", torch.full((2, 3), 2.0)), ("blocks.b", torch.zeros(6)),
             ("head.w", torch.tensor([3.0, 4.0]))]  # fmt: skip
    found = {name: float(value) for name, value in part_rms(named).items()}
    assert found == pytest.approx({"blocks": math.sqrt(2), "head": math.sqrt(12.5)})


def test_spikes_are_found_and_noise_is_not() -> None:
    """The science of it: no false hit in 1e5 steps, and nearly every bump of ten deviations."""
    chance, detector = random.Random(0), SpikeDetector()
    assert all(detector.see(3 + 0.04 * chance.gauss(0, 1)) is None for _ in range(50_000))
    hits = 0
    for _ in range(50):
        z = detector.see(3 + 0.4 + 0.04 * chance.gauss(0, 1))
        hits += z is not None and z > 6
        for _ in range(20):
            detector.see(3 + 0.04 * chance.gauss(0, 1))
    assert hits == detector.count == 50
    assert detector.see(1.0) is None  # a fall is no spike


def test_a_run_that_stays_a_nat_above_its_best_has_diverged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry = Telemetry(torch.device("cpu"), 64, clip=1.0)
    for step in range(1, 1001):
        loss = 5.0 - 0.01 * min(step, 300) if step <= 500 else 3.5
        telemetry.record(step, 1e-3, *(torch.tensor(x) for x in (loss, 0.1, 0.0, 0.0)))
        if telemetry.due:
            telemetry.flush()
        if telemetry.diverged:
            break
    # smoothed over 50 steps it is a nat above 2.0 some 55 steps after the jump, then 200 more
    assert telemetry.diverged.endswith("for 200 steps; lower optimizer.lr")
    assert 740 <= step <= 850
    assert telemetry.spikes["loss"] > 0
    assert "loss_spike" in capsys.readouterr().out


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_coordinates_keep_their_size_at_every_depth(name: str, fuse: bool) -> None:
    """CompleteP's coordinate check: logits after some steps are alike at 2 layers and at 32, where
    with depth left alone they are not."""
    ids = torch.randint(0, 64, (8, 17), generator=torch.Generator().manual_seed(0))

    def size(layers: int, base: int) -> float:
        config = ModelConfig(
            d_model=32, n_layers=layers, head_dim=16, vocab_size=64, seq_len=16, d_ff=64
        )
        optim = OptimizerConfig(name=name, lr=1e-2, mup_base_d_model=32, base_n_layers=base)
        model = Transformer(config, logit_scale(optim, 32), base, fuse=fuse)
        model.initialise(0)
        assert model.head is not None
        torch.nn.init.normal_(
            model.head.weight, std=32**-0.5, generator=torch.Generator().manual_seed(4)
        )
        optimizer = Optimizer(model, optim)
        before = model(ids[:, :-1]).detach()
        for _ in range(6):
            losses, _ = model(ids[:, :-1], ids[:, 1:])
            losses.mean().backward()
            optimizer.step(1e-2)
            optimizer.zero_grad()
        with torch.no_grad():
            return float((model(ids[:, :-1]) - before).square().mean().sqrt())

    assert abs(math.log(size(32, 2) / size(2, 2))) < math.log(1.1)
    assert math.log(size(32, 0) / size(2, 0)) > math.log(1.15)
    assert size(2, 0) == size(2, 2)  # at the depth where rates were tuned nothing changes
