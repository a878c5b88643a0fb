"""What a GPU does differently, as far as it can be seen without one: tests/acceptance/test_gpu.py
has what needs a GPU.

On fake tensors of device cuda (fake_gpu.py): no step waits for the device, products are bfloat16,
sums and weights float32. On a CPU, which computes bfloat16 too: the loss of a bfloat16 run, and
what a compiler is given.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.workers.proxy.conftest import ROOT, Trained
from workers.proxy.config import ConfigError, ModelConfig
from workers.proxy.distributed import Group
from workers.proxy.model import Transformer
from workers.proxy.process import peak_flops

Make = Callable[..., dict[str, Any]]
Run = Callable[..., Trained]
OPTIMIZERS = ("muon", "adamw")
ON_GPU = {"device": "cuda", "dtype": "bfloat16"}


@pytest.fixture(scope="module")
def one_gpu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The library that tells torch of a GPU, compiled."""
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for CUDA and knows the device by itself")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++, which fake_gpu.cpp needs")
    library = tmp_path_factory.mktemp("fake") / "libfake_gpu.so"
    home = Path(torch.__file__).parent
    source = Path(__file__).with_name("fake_gpu.cpp")
    flags = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{home}/include", f"-L{home}/lib"]
    linked = ["-ltorch_cpu", "-lc10", f"-Wl,-rpath,{home}/lib"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library), *linked], check=True)
    return str(library)


@pytest.fixture(scope="module")
def seen_on_gpu(
    make_config: Make, one_gpu: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """By optimizer, of four steps of the real loop, two of them with a look at the signs of
    instability, clipping and z-loss. Whatever must know a number on the device fails here."""
    folder = tmp_path_factory.mktemp("seen")
    for optimizer in OPTIMIZERS:
        config = make_config(
            **ON_GPU,
            schedule={"steps": 4, "warmup_steps": 1, "cooldown_steps": 1},
            optimizer={"name": optimizer, "lr": 6e-3, "z_loss": 1e-4},
            data={"validation": []},
        )
        (folder / optimizer).write_text(json.dumps(config))
    files = [str(folder / optimizer) for optimizer in OPTIMIZERS]
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.proxy.fake_gpu", *files],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": one_gpu},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(OPTIMIZERS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_on_a_gpu_waits_for_it(
    optimizer: str, seen_on_gpu: dict[str, dict[str, Any]]
) -> None:
    seen = seen_on_gpu[optimizer]
    assert seen["steps"] == 4
    assert seen["to_device"] == {"runs behind": 4}  # each batch, while the host goes on
    assert seen["elsewhere"] == {}  # nothing comes back, nothing is made on the host
    assert seen["random"] == {}  # so there is no generator on the device to save

    # Products of a step forward and backward: 2 layers of qkv, out, up, down, and the head, each
    # three times; the first layer's own input has a gradient too, for the embedding is trained.
    # Fewer would be a product that is not in bfloat16.
    assert seen["products"]["mm bfloat16"] == 4 * 3 * (2 * 4 + 1)
    # attention, in the plain way that torch takes where it finds no flash kernel: two products
    # forward, four backward, a layer
    assert seen["attention"] == {}
    newton_schulz = 3 * 5 * 4 if optimizer == "muon" else 0  # shapes * iterations * steps
    assert seen["products"].get("baddbmm bfloat16", 0) == 2 * newton_schulz
    assert seen["products"]["bmm bfloat16"] == 4 * 2 * 6 + newton_schulz
    # the rest are looks (two of four steps), which no gradient depends on: two products of
    # attention a layer; the others are those with a matrix of float32 weights
    kinds = {"mm bfloat16", "bmm bfloat16", "baddbmm bfloat16", "mm float32", "bmm float32"}
    assert set(seen["products"]) <= kinds
    assert seen["products"]["bmm float32"] == 2 * 2 * 2

    assert set(seen["softmax"]) >= {"logsumexp float32"}
    groups = 1 if optimizer == "muon" else 2
    assert seen["adamw"] == {"_fused_adamw_ float32": 4 * groups}
    assert {name.split()[1] for name in seen["norm"]} == {"float32"}
    assert seen["checkpoints"] == ["final"]
    assert seen["events"] == ["start", "checkpoint", "end"]


def test_waiting_would_be_seen(make_config: Make, one_gpu: str, tmp_path: Path) -> None:
    """The same run with what a plain loop does, `loss.item()`, is refused by fake tensors, and a
    loss that is fetched is filed: so the test above can fail."""
    config = make_config(
        **ON_GPU,
        schedule={"steps": 2, "warmup_steps": 1, "cooldown_steps": 1},
        data={"validation": []},
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    code = """
import json, sys
from pathlib import Path
from tests.workers.proxy import fake_gpu
from workers.proxy.telemetry import Telemetry

document, record = json.loads(Path(sys.argv[1]).read_text()), Telemetry.record
for look in (lambda loss: loss.cpu(), lambda loss: loss.item()):
    def spy(self, step, lr, loss, *more):
        look(loss)
        record(self, step, lr, loss, *more)
    Telemetry.record = spy
    print(json.dumps(fake_gpu.watch(document).elsewhere), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": one_gpu},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert json.loads(done.stdout) == {"_to_copy": 2}
    assert done.returncode and "DataDependentOutputException" in done.stderr


def test_a_bfloat16_run_ends_where_a_float32_run_does(make_config: Make, run: Run) -> None:
    """bfloat16 keeps 8 bits: a product is off by up to 2^-8, at random. Micikevicius et al. 2018
    (arXiv 1710.03740) and Kalamkar et al. 2019 (arXiv 1905.12322) find no loss of accuracy in whole
    trainings; here the two validation losses must agree to 0.1%, and every step to 0.01 nats. Seen
    were 0.001% and 0.0008; runs of other seeds end 0.03 nats apart at this size."""
    losses, curves = {}, {}
    for dtype in ("float32", "bfloat16"):
        config = make_config(
            model={"d_model": 32, "head_dim": 16, "seq_len": 64},
            schedule={"steps": 80, "warmup_steps": 10, "cooldown_steps": 20},
            batch_tokens=512,
            evaluate={"tokens": 8192},
            dtype=dtype,
        )
        done = run(config, dtype)
        losses[dtype] = done.losses["email", 80]
        curves[dtype] = np.array([loss for _, _, loss, _ in done.points])
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=1e-3)
    assert np.abs(curves["bfloat16"] - curves["float32"]).max() < 0.01


def test_losses_of_bfloat16_logits_are_float32(make_config: Make) -> None:
    model = Transformer(ModelConfig(d_model=16, n_layers=1, head_dim=8, seq_len=8))
    model.initialise(0)
    ids = torch.zeros(2, 8, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids)
        losses, log_z = model(ids, ids)
    assert logits.dtype == torch.bfloat16
    assert losses.dtype == log_z.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiler_is_given_the_whole_model_twice(
    dtype: str, make_config: Make, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph to train and one to evaluate, whatever the sizes of the validation sets: nothing
    that it cannot follow (`fullgraph`), and no shape that it meets later. The losses are those of
    a run that was not compiled."""
    config = make_config(
        model={"d_model": 16, "n_layers": 2, "head_dim": 8, "seq_len": 32},
        schedule={"steps": 6, "cooldown_steps": 2},
        evaluate={"tokens": 10**9, "at_steps": [0, 3]},
        dtype=dtype,
    )
    plain = run(config, "plain")
    sets = {e["validation_set"]: e["tokens"] for e in plain.of("evaluation")}
    assert len({*sets.values()}) == 2
    graphs = CompileCounter()
    given = functools.partial(torch.compile, backend=graphs, fullgraph=True)
    monkeypatch.setattr(torch, "compile", given)
    torch._dynamo.reset()
    done = run({**config, "compile": True}, "compiled")
    assert graphs.frame_count == 2
    assert done.losses.keys() == plain.losses.keys()
    for key, loss in plain.losses.items():
        assert done.losses[key] == pytest.approx(loss, abs=2e-3 if dtype == "bfloat16" else 1e-5)


def test_a_gpu_that_is_not_there_is_said(make_config: Make, run: Run) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(
        ConfigError, match=r"device is 'cuda:1', and torch .* no GPU here; .*\"cpu\""
    ):
        run(make_config(device="cuda:1"))


def test_each_process_has_the_gpu_of_its_rank() -> None:
    assert (
        Group(3, 1, 4).device("cuda") == Group(3, 1, 4).device("cuda:0") == torch.device("cuda:1")
    )
    assert Group().device("cuda:1") == torch.device("cuda:1")
    assert Group(3, 1, 4).device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "peak"),
    [  # as torch names them, and what NVIDIA's data sheets say without sparsity
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks_of_data_sheets(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), "bfloat16") == peak
    assert peak_flops(torch.device("cuda"), "float32") is None
