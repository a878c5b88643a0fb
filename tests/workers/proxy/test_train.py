"""What a run reports, and that it learns."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from tests.workers.proxy.conftest import ROOT, Trained, start_process
from workers.proxy.config import ConfigError, Source, parse_config
from workers.proxy.data import Corpus, Validation
from workers.proxy.model import Transformer
from workers.proxy.optim import logit_scale

Make = Callable[..., dict[str, Any]]
Run = Callable[..., Trained]


def test_the_loss_falls_below_the_entropy_of_single_bytes(
    make_config: Make, run: Run, corpus_dir: Path
) -> None:
    """Nothing that ignores context can beat the unigram entropy; a model that learns must."""
    ids = np.fromfile(corpus_dir / "email" / "validation-00000.bin", dtype=np.uint8)
    share = np.bincount(ids, minlength=256) / len(ids)
    unigram = -sum(p * math.log(p) for p in share if p > 0)
    config = make_config(
        model={"d_model": 32, "head_dim": 16, "seq_len": 64},
        schedule={"steps": 150, "warmup_steps": 20, "cooldown_steps": 40},
        batch_tokens=512,
        evaluate={"tokens": 8192, "at_steps": [0]},
    )
    losses = run(config).losses
    assert losses["email", 0] == pytest.approx(math.log(256))  # the head starts at zero
    assert losses["email", 150] < unigram - 0.4


def test_the_events_of_a_run(make_config: Make, run: Run) -> None:
    config = make_config(evaluate={"tokens": 1024, "at_steps": [8, 16]})
    done = run(config)
    assert done.events[0]["event"] == "start"
    end = {"event": "end", "step": 24, "status": "finished", "message": ""}
    assert done.end == {**end, "spikes": {"loss": 0, "grad_norm": 0}}
    steps, tokens, losses, rates = zip(*done.points, strict=True)
    assert steps == tuple(range(1, 25))
    assert tokens == tuple(128 * step for step in steps)
    assert all(math.isfinite(loss) for loss in losses)
    # warm-up over 4 steps, constant until 16, then 1 - sqrt to 0 (Hägele et al. 2024)
    assert rates[:5] == pytest.approx([6e-3 * f for f in (0.25, 0.5, 0.75, 1, 1)])
    cooled = [6e-3 * (1 - math.sqrt(i / 8)) for i in range(1, 9)]
    assert rates[16:] == pytest.approx(cooled)
    assert [(e["validation_set"], e["step"]) for e in done.of("evaluation")] == [
        (name, step) for step in (8, 16, 24) for name in ("email", "asyncio")
    ]
    metrics = {name for event in done.of("points") for name in event["metrics"]}
    assert {"grad_norm", "clipped", "log_z", "tokens_per_second"} <= metrics
    assert {"step_seconds", "step_cpu_seconds"} <= metrics
    bad = [pair for event in done.of("points") for pair in event["metrics"]["nonfinite"]]
    assert bad[-1][0] == 24 and all(count == 0 for _, count in bad)
    assert "flops_per_second" in metrics and "mfu" not in metrics  # no data sheet for this CPU


def test_signs_of_instability_are_looked_at_every_fifty_steps(make_config: Make, run: Run) -> None:
    done = run(make_config(schedule={"steps": 101, "cooldown_steps": 8}))
    seen: dict[str, list[list[float]]] = {}
    for event in done.of("points"):
        for name, pairs in event["metrics"].items():
            seen.setdefault(name, []).extend(pairs)
    parts = [f"{what}_rms_{part}" for what in ("param", "update", "grad")
             for part in ("embedding", "blocks", "head")]  # fmt: skip
    signs = ("attention_logit", "sign_fraction_out", "sign_fraction_down")
    layers = [f"{sign}_{layer}" for layer in (0, 1) for sign in signs]
    for name in (*parts, *layers):
        assert [step for step, _ in seen[name]] == [50, 100], name
        assert all(value > 0 for _, value in seen[name])
    assert all(0.5 <= value <= 1 for name in layers if "sign" in name for _, value in seen[name])
    # the norm of all gradients, out of the parts' root mean squares and their sizes
    sizes = {"embedding": 256 * 16, "head": 256 * 16}
    sizes["blocks"] = done.of("start")[0]["params"]["blocks"]
    total = sum(dict(map(tuple, seen[f"grad_rms_{p}"]))[50] ** 2 * n for p, n in sizes.items())
    assert math.sqrt(total) == pytest.approx(dict(map(tuple, seen["grad_norm"]))[50], rel=1e-4)


def test_figures_of_a_run_against_what_it_stored(make_config: Make, run: Run) -> None:
    """The sizes of weights and of their update from two checkpoints; what is clipped from the norms
    before clipping; the first normaliser of a head that starts at zero; and time."""
    done = run(
        make_config(
            optimizer={"name": "adamw", "clip": 1.5},
            schedule={"kind": "constant", "steps": 52, "cooldown_steps": 0},
            checkpoint={"branch_at_steps": [49, 50]},
        )
    )
    seen: dict[str, dict[int, float]] = {}
    for event in done.of("points"):
        for name, pairs in event["metrics"].items():
            seen.setdefault(name, {}).update(dict(map(tuple, pairs)))
    before, after = (load_file(done.checkpoint("branch", step)["path"]) for step in (49, 50))
    for part in ("embedding", "blocks", "head"):
        names = [name for name in after if name.startswith(f"model.{part}")]
        now, then = (
            np.concatenate([held[name].double().numpy().ravel() for name in names])
            for held in (after, before)
        )
        rms = {"param": now, "update": now - then}
        for what, values in rms.items():
            found = seen[f"{what}_rms_{part}"][50]
            assert found == pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-4), (what, part)
    assert seen["log_z"][1] == pytest.approx(math.log(256))
    assert seen["clipped"] == {at: float(norm > 1.5) for at, norm in seen["grad_norm"].items()}
    assert set(seen["clipped"].values()) == {0.0, 1.0}
    (seconds, *_), (rate, *_) = seen["step_seconds"].values(), seen["tokens_per_second"].values()
    assert rate == pytest.approx(128 / seconds)


def test_evaluation_by_hand(make_config: Make, run: Run, tmp_path: Path) -> None:
    """The loss printed is the mean over every target of the fixed windows, one by one."""
    done = run(make_config())
    config = parse_config(make_config())
    source = config.data.validation[1]
    validation = Validation.load(source, config.model.seq_len, 1024)
    stored = load_file(done.checkpoint("final", 24)["path"])
    model = Transformer(config.model, logit_scale(config.optimizer, 16))
    model.load_state_dict({k[6:]: v for k, v in stored.items() if k.startswith("model.")})
    total, tokens, text = 0.0, 0, 0
    with torch.no_grad():
        for window in validation.ids:
            log_p = F.log_softmax(model(window[None, :-1])[0].double(), dim=-1)
            for position, target in enumerate(window[1:].tolist()):
                total -= float(log_p[position, target])
                tokens += 1
                text += target != 0
    event = [e for e in done.of("evaluation") if e["validation_set"] == "asyncio"][-1]
    assert (event["tokens"], event["bytes"]) == (tokens, text)
    assert event["loss"] == pytest.approx(total / tokens, rel=1e-6)


def test_a_diverging_run_says_so_and_prints_only_finite_points(
    make_config: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 9 every weight leaps so far that its square is no float."""
    monkeypatch.setattr(
        "workers.proxy.train.lr_factor", lambda schedule, step: 1e24 if step == 9 else 1.0
    )
    done = run(
        make_config(
            optimizer={"name": "adamw", "clip": 0.0},
            schedule={"steps": 200, "kind": "constant", "cooldown_steps": 0},
        )
    )
    assert done.end["status"] == "diverged"
    assert done.end["message"]
    assert len(done.points) < 200
    assert all(math.isfinite(value) for point in done.points for value in point)
    *_, (step, count) = done.of("points")[-1]["metrics"]["nonfinite"]
    assert step > len(done.points) and 0 < count <= done.of("start")[0]["params"]["total"]
    assert (
        f"step {step}: loss or gradient is not finite ({count:.0f} elements" in done.end["message"]
    )


def test_recipe_leaves_out_size_steps_and_seed(make_config: Make, run: Run) -> None:
    def recipe(**changes: Any) -> str:
        short = {"steps": 2, "warmup_steps": 2, "cooldown_steps": 1, **changes.pop("schedule", {})}
        return str(run(make_config(schedule=short, **changes)).of("start")[0]["recipe"])

    base = recipe()
    assert recipe(seed=5) == base
    assert recipe(model={"d_model": 24, "n_layers": 1, "head_dim": 12}) == base
    assert recipe(schedule={"steps": 3, "cooldown_steps": 2}) == base
    assert recipe(schedule={"kind": "constant", "cooldown_steps": 0}) == base  # a trunk
    others = [
        recipe(optimizer={"lr": 5e-3}),
        recipe(optimizer={"name": "adamw"}),
        recipe(schedule={"kind": "cosine", "cooldown_steps": 0}),
        recipe(schedule={"warmup_steps": 1}),
        recipe(batch_tokens=64),
        recipe(model={"seq_len": 64}),
        recipe(model={"mlp": "relu2"}),
    ]
    assert len({base, *others}) == 8


def test_a_continual_run_starts_from_trained_weights(make_config: Make, run: Run) -> None:
    first = run(make_config(), "first")
    path = first.checkpoint("final", 24)["path"]
    config = make_config(
        init={"checkpoint": path, "kind": "continual"}, evaluate={"at_steps": [0], "tokens": 1024}
    )
    second = run(config, "second")
    assert second.losses["email", 0] == first.losses["email", 24]
    assert second.points[0][0] == 1
    # the parent's momentum, carried over, moves the weights another way; the recipe says which
    config["init"]["momentum"] = "carry"
    third = run(config, "third")
    assert third.points[0] == second.points[0] and third.points[1:] != second.points[1:]
    recipes = {done.of("start")[0]["recipe"] for done in (first, second, third)}
    assert len(recipes) == 3


def test_a_mixture_trains_on_both(make_config: Make, run: Run, corpus_dir: Path) -> None:
    train = [
        {"name": name, "path": str(corpus_dir / name), "weight": weight}
        for name, weight in (("email", 0.75), ("asyncio", 0.25))
    ]
    start = run(make_config(data={"train": train})).of("start")[0]
    digests = [Corpus(Source(t["name"], t["path"]), 32).digest for t in train]
    assert start["corpus_digest"] == "+".join(digests)
    assert start["unique_tokens"] == 24 * 128


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": {"nmae": "muon"}}, "optimizer has no key 'nmae'"),
        ({"optimizer": {"name": "sgd"}}, "known: muon, adamw"),
        ({"batch_tokens": 100}, "not a multiple of model.seq_len 32"),
        ({"model": {"head_dim": 7}}, "not a multiple of head_dim 7"),
        ({"schedule": {"cooldown_steps": 0}}, "a wsd run of 24 steps needs between 1"),
        ({"model": {"vocab_size": 100}}, "has 256 token ids"),
        (
            {"optimizer": {"lr": 1e300}},
            r"lr is 1e\+300; .* 100 at most; peak rates .* 1e-4 to 1e-1",
        ),
        ({"optimizer": {"lr": math.nan}}, "lr is nan"),
        ({"optimizer": {"lr": "0.1"}}, "lr is '0.1'; it must be a number above 0"),
        ({"optimizer": {"weight_decay": -1}}, "weight_decay is -1"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, r"betas\[1\] is 1.0"),
        ({"optimizer": {"betas": [0.9]}}, "must be two"),
        ({"optimizer": {"momentum": 2}}, "momentum is 2"),
        ({"optimizer": {"eps": 0}}, "eps is 0"),
        ({"optimizer": {"clip": -1}}, "clip is -1.*0 does not clip"),
        ({"optimizer": {"mup_base_d_model": 0}}, "mup_base_d_model is 0"),
        ({"optimizer": {"base_n_layers": -1}}, "base_n_layers is -1"),
        ({"optimizer": {"z_loss": math.inf}}, "z_loss is inf"),
        ({"model": {"d_model": 16.5}}, "d_model is 16.5; it must be a whole number"),
        ({"schedule": {"steps": True}}, "steps is True"),
        ({"schedule": {"warmup_steps": -1}}, "warmup_steps is -1"),
        (
            {"schedule": {"warmup_steps": 25}},
            "warmup_steps is 25, longer than the run of 24 .*at most that many",
        ),
        (
            {"evaluate": {"at_steps": [0, 24, 40, 25]}},
            "evaluate.at_steps names step 25, and the run ends at step 24; .*or train longer",
        ),
        (
            {"checkpoint": {"branch_at_steps": [24, 30]}},
            "branch_at_steps names step 30, and the run ends at step 24",
        ),
        ({"schedule": {"final_fraction": 5}}, "final_fraction is 5.*share of the peak"),
        ({"schedule": {"initial_fraction": math.nan}}, "initial_fraction is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "device is 'tpu'; known: cpu, cuda"),
        ({"compile": "no"}, "compile is 'no'; it must be true or false"),
        ({"evaluate": {"tokens": 0}}, "evaluate.tokens is 0"),
        ({"checkpoint": {"keep": 0}}, "checkpoint.keep is 0"),
        ({"checkpoint": {"every_steps": -1}}, "only when stopped"),
    ],
)
def test_a_bad_configuration_is_one_sentence(
    changes: dict[str, Any], says: str, make_config: Make, run: Run
) -> None:
    with pytest.raises(ConfigError, match=says):
        run(make_config(**changes))


def test_the_process_refuses_with_status_2(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model": {"d_model": 16}}))
    process = start_process(file, tmp_path / "out")
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1


def test_an_eager_run_does_not_load_the_compiler(make_config: Make, tmp_path: Path) -> None:
    """torch's compiler and sympy cost as much to import as torch itself."""
    file = tmp_path / "config.json"
    short = {"steps": 2, "warmup_steps": 1, "cooldown_steps": 1}
    file.write_text(json.dumps(make_config(schedule=short)))
    code = (
        "import sys; from workers.proxy.train import main;"
        f"main([{str(file)!r}, '--out', {str(tmp_path / 'out')!r}]);"
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.splitlines()[-1].startswith('{"event": "end"')
    assert done.stderr.strip() == "[]"
