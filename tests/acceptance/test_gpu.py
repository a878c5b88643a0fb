"""The whole way on a GPU: worker, compiled bfloat16 run, Postgres, a kill, and another worker.

Two workers, each with one GPU by CUDA_VISIBLE_DEVICES (the same one where there is but one). The
body is the same for a CPU, where it costs a minute and shows nothing that tests/workers/test_faults
does not: `make soak` alone runs it.
"""

import math
import signal
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.services import corpora
from tests.benchmarks import train_on_gpu
from tests.benchmarks.train_on_gpu import missing
from tests.workers.lab import PATIENCE_SECONDS, Lab, WorkerProcess, points_of, train_alone
from workers import machine

GPUS = machine.gpus()
TEXTS = ("asyncio", "email", "json", "unittest", "multiprocessing", "importlib", "xml", "http")


NO_GPU = missing()
ON_GPU: dict[str, Any] = {
    "model": {"d_model": 256, "n_layers": 4, "head_dim": 64, "vocab_size": 256, "seq_len": 256},
    "schedule": {"kind": "wsd", "steps": 3000, "warmup_steps": 50, "cooldown_steps": 600},
    "batch_tokens": 8192,
    "device": "cuda",
    "dtype": "bfloat16",
    "compile": True,
    "checkpoint": {"every_steps": 250, "keep": 2},
}
ON_CPU: dict[str, Any] = {
    "model": {"d_model": 16, "n_layers": 1, "head_dim": 8, "vocab_size": 256, "seq_len": 64},
    "schedule": {"kind": "wsd", "steps": 400, "warmup_steps": 20, "cooldown_steps": 100},
    "batch_tokens": 256,
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "checkpoint": {"every_steps": 50, "keep": 2},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    library = Path(sysconfig.get_paths()["stdlib"])
    corpora.build("code", [library / name for name in TEXTS], folder, validation_fraction=0.1)
    return folder / "code"


@pytest.fixture
def lab(engine, settings, corpus, tmp_path) -> Lab:
    return Lab(engine, settings, corpus, tmp_path)


def workers(lab: Lab, stack: ExitStack, gpus: list[str]) -> Iterator[WorkerProcess]:
    """Two of them, each of which sees one GPU, or none."""
    for i in range(2):
        lab.env["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)] if gpus else ""
        yield stack.enter_context(lab.worker("--concurrency", "1"))


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("setup", "gpus"),
    [
        pytest.param(
            ON_GPU, GPUS, id="cuda", marks=pytest.mark.skipif(bool(NO_GPU), reason=str(NO_GPU))
        ),
        pytest.param(ON_CPU, [], id="cpu", marks=pytest.mark.soak),
    ],
)
def test_a_killed_worker_s_run_goes_on_on_another_gpu(
    lab: Lab, tmp_path: Path, setup: dict[str, Any], gpus: list[str]
) -> None:
    source = {"name": "code", "path": str(lab.corpus)}
    steps, every = setup["schedule"]["steps"], setup["checkpoint"]["every_steps"]
    config = {
        **setup,
        "data": {"train": [source], "validation": [source]},
        "optimizer": {"name": "muon", "lr": 6e-3},
        "seed": 3,
        "threads": 1,
        "evaluate": {"tokens": 16384},
    }
    lab.hold(2 * every)  # that it trains still when its worker is killed
    run_id = lab.submit("gpu", config)
    with ExitStack() as stack:
        both = [worker.ready() for worker in list(workers(lab, stack, gpus))]
        lab.wait(run_id, lambda run: run.step >= 2 * every)
        victim, heir = both if both[0].trainers else both[::-1]
        assert seen(victim.trainers) == [one(gpus, both.index(victim))]
        orphan = next(each for each in victim.trainers if is_trainer(each))
        victim.send(signal.SIGKILL)
        orphan.wait(PATIENCE_SECONDS)  # it dies with its worker, and its CUDA context with it
        lab.hold(2 * every + 1)
        lab.wait(run_id, lambda run: run.attempt == 2 and run.step > 2 * every)
        assert seen(heir.trainers) == [one(gpus, both.index(heir))]
        lab.release()
        run = lab.wait_ended(run_id)
        (begun,) = [line for line in heir.log if line["event"] == "run started"]

    assert (run.status, run.attempt, run.step) == ("finished", 2, steps)
    assert begun["resume_step"] >= every
    (fingerprint,) = lab.rows("select fingerprint from runs where id = :id", id=run_id)[0]
    for key in ("dtype", "compile"):
        assert fingerprint[key] == config[key]
    assert (fingerprint["device"] == "cpu") == (not gpus)

    curve = lab.curve(run_id)
    assert [point[0] for point in curve] == list(range(1, steps + 1))  # no step lost, none twice
    (loss,) = lab.rows(
        "select loss from evaluations where run_id = :id and step = :step", id=run_id, step=steps
    )[0]
    assert 0 < loss < math.log(256) - 1
    undisturbed = points_of(train_alone(tmp_path, config))
    if not gpus:
        assert curve == undisturbed
        return
    # kernels that add in another order, in bfloat16: the same curve, but not the same bits.
    # The bounds are guesses; the seed moves the loss by more.
    apart = np.abs(np.array(curve)[:, 2] - np.array(undisturbed)[:, 2])
    assert apart.mean() < 0.02
    assert apart[:every].max() < 0.05


def short(corpus: Path, optimizer: str, steps: int) -> dict[str, Any]:
    """The run on a GPU, of few steps and as it is written."""
    source = {"name": "code", "path": str(corpus)}
    return {
        **ON_GPU,
        "schedule": {"kind": "wsd", "steps": steps, "warmup_steps": 20, "cooldown_steps": 40},
        "data": {"train": [source], "validation": [source]},
        "optimizer": {"name": optimizer, "lr": 6e-3},
        "evaluate": {"tokens": 16384},
        "compile": False,
    }


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_GPU), reason=str(NO_GPU))
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_deterministic_mode_repeats_a_run_bit_for_bit(
    corpus: Path, tmp_path: Path, optimizer: str
) -> None:
    config = {**short(corpus, optimizer, 200), "deterministic": True}
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    one, two = (points_of(train_alone(folder, config)) for folder in folders)
    assert one == two


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_GPU), reason=str(NO_GPU))
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_no_step_waits_for_the_gpu(
    corpus: Path, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA itself refuses to wait, but where figures are read, written and stored. On fake tensors
    tests/workers/proxy/test_gpu_path.py says the same where there is no GPU."""
    import torch

    from workers.proxy import train as training
    from workers.proxy.config import parse_config
    from workers.proxy.telemetry import Telemetry

    class Stop:
        requested = False

    def may_wait(owner: object, name: str) -> None:
        function = getattr(owner, name)

        def waits(*given: Any, **more: Any) -> Any:
            torch.cuda.set_sync_debug_mode("default")
            out = function(*given, **more)
            torch.cuda.set_sync_debug_mode("error")
            return out

        monkeypatch.setattr(owner, name, waits)

    for owner, name in (
        (training, "emit"),  # the first time before the first step: from there on
        (training, "evaluate"),
        (training.checkpoint, "write"),
        (Telemetry, "flush"),
    ):
        may_wait(owner, name)
    config = parse_config(short(corpus, optimizer, 120))
    try:
        stop: Any = Stop()
        assert training.train(config, tmp_path, None, stop) == "finished"
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_GPU), reason=str(NO_GPU))
@pytest.mark.parametrize("size", train_on_gpu.LARGE, ids=lambda size: size.name)
def test_how_much_of_a_gpu_a_large_proxy_uses(size: train_on_gpu.Size) -> None:
    """The figure is what this is for (`pytest -s`); the bound only says that something is wrong."""
    speed = train_on_gpu.measure(size, 1, 60, on_gpu=True)
    print(speed)
    assert speed.mfu("palm") is None or speed.mfu("palm") > 0.2


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_GPU), reason=str(NO_GPU))
def test_small_runs_side_by_side_on_a_gpu_train_more_tokens() -> None:
    one, four = (train_on_gpu.measure(train_on_gpu.SMALL, n, 60, on_gpu=True) for n in (1, 4))
    print(one, four, sep="\n")
    assert four.tokens_per_second > 1.5 * one.tokens_per_second


@pytest.mark.slow
def test_the_gpu_s_measurements_walk_on_a_cpu() -> None:
    """So that they work on the day that there is a GPU: two runs at once, started and stopped."""
    speed = train_on_gpu.measure(train_on_gpu.TOY, 2, 2.5, on_gpu=False)
    assert (speed.processes, speed.device, speed.mfu("palm")) == (2, "cpu", None)
    assert speed.tokens_per_second > 100
    assert str(speed).startswith("toy x 2 on cpu: ")


def is_trainer(process: psutil.Process) -> bool:
    """And not a compiler that a trainer has started."""
    return "workers.proxy.train" in process.cmdline()


def seen(processes: list[psutil.Process]) -> list[str]:
    """The GPUs that each trainer may use."""
    return [each.environ()["CUDA_VISIBLE_DEVICES"] for each in processes if is_trainer(each)]


def one(gpus: list[str], worker: int) -> str:
    return gpus[worker % len(gpus)] if gpus else ""
