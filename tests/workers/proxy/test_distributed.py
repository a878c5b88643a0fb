"""Several processes train one model: the batches, the order and the losses of one process.

Real processes, started as people start them, that talk over gloo.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workers.proxy.conftest import ROOT, Trained
from workers.proxy.config import ConfigError, parse_config
from workers.proxy.distributed import Group

STEPS = 24
SAME = 1e-5  # nats a token


def start(config: dict[str, Any], folder: Path, *more: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    trainer = ("-m", "workers.proxy.train", str(folder / "config.json"), "--out", str(folder))
    return subprocess.Popen(
        [sys.executable, *launcher, *trainer, *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_processes(
    config: dict[str, Any], folder: Path, *more: str, timeout: float = 600
) -> Trained:
    process = start(config, folder, *more)
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return Trained([json.loads(line) for line in out.splitlines()])


def losses(trained: Trained) -> np.ndarray:
    return np.array([loss for _, _, loss, _ in trained.points])


def test_two_processes_are_one(
    make_config: Callable[..., dict[str, Any]], run: Callable[..., Trained], tmp_path: Path
) -> None:
    half = STEPS // 2
    config = make_config(
        schedule={"steps": STEPS}, evaluate={"tokens": 20_000}, checkpoint={"every_steps": half}
    )
    one = run(config, "one")
    two = two_processes(config, tmp_path / "two")

    assert [point[:2] for point in two.points] == [point[:2] for point in one.points]
    assert np.abs(losses(two) - losses(one)).max() < SAME
    assert two.losses.keys() == one.losses.keys()
    for which, loss in one.losses.items():
        assert two.losses[which] == pytest.approx(loss, abs=SAME)
    (start,) = two.of("start")
    assert start["fingerprint"]["processes"] == 2
    assert start["recipe"] == one.of("start")[0]["recipe"]
    # of all events: how many steps are in one depends on the time that they took
    norms = [
        np.array([pair for event in done.of("points") for pair in event["metrics"]["grad_norm"]])
        for done in (one, two)
    ]
    assert norms[0].shape == (STEPS, 2) and np.allclose(norms[0], norms[1], rtol=1e-4)
    # what they wrote is a checkpoint like any other, once: one process goes on from it
    assert [e["kind"] for e in two.of("checkpoint")] == ["resume", "final"]
    left = Path(two.checkpoint("resume", half)["path"])
    rest = run(config, "rest", resume=left)
    assert rest.points[0][0] == half + 1
    assert np.abs(losses(rest) - losses(one)[half:]).max() < SAME


def test_shards_are_one_model_and_stopped_as_one(
    make_config: Callable[..., dict[str, Any]], run: Callable[..., Trained], tmp_path: Path
) -> None:
    """FSDP goes on from the checkpoint of one process, with its losses. SIGTERM to the launcher:
    every process finishes the same step, and leaves one checkpoint, which one process reads."""
    config = make_config(
        optimizer={"name": "adamw"},
        schedule={"steps": 120},
        evaluate={"at_steps": [8], "tokens": 1024},
        checkpoint={"every_steps": 6},
        parallel="fsdp",
    )
    begun = run({**config, "checkpoint": {}}, "begun", stop=True)
    assert begun.end["step"] == 1
    left = begun.checkpoint("resume", 1)["path"]
    process = start(config, tmp_path / "two", "--resume", left)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        event = json.loads(line)
        if event["event"] == "checkpoint" and event["step"] >= STEPS:
            break
    process.send_signal(signal.SIGTERM)
    lines += process.communicate(timeout=600)[0].splitlines()
    two = Trained([json.loads(line) for line in lines])
    assert two.end["status"] == "stopped"
    done = two.end["step"]
    assert [point[0] for point in two.points] == list(range(2, done + 1))
    written = Path(two.checkpoint("resume", done)["path"])
    one = run(config, "one")
    rest = run(config, "rest", resume=written)
    assert two.losses[("email", 8)] == pytest.approx(one.losses[("email", 8)], abs=SAME)
    few = min(done + STEPS, 120)
    together = np.concatenate((losses(begun), losses(two), losses(rest)))
    assert np.abs(together - losses(one))[:few].max() < SAME


@pytest.mark.soak  # two compilers at work: a minute
@pytest.mark.parametrize(("parallel", "optimizer"), [("ddp", "muon"), ("fsdp", "adamw")])
def test_two_compiled_processes_are_one(
    parallel: str,
    optimizer: str,
    make_config: Callable[..., dict[str, Any]],
    run: Callable[..., Trained],
    tmp_path: Path,
) -> None:
    config = make_config(optimizer={"name": optimizer}, schedule={"steps": STEPS})
    one = run(config, "one")
    compiled = {**config, "compile": True, "parallel": parallel}
    two = two_processes(compiled, tmp_path / "two", timeout=900)
    assert [point[:2] for point in two.points] == [point[:2] for point in one.points]
    assert np.abs(losses(two) - losses(one)).max() < SAME
    for which, loss in one.losses.items():
        assert two.losses[which] == pytest.approx(loss, abs=SAME)


def test_muon_is_not_sharded(make_config: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"Muon needs them whole; set optimizer\.name to 'adamw'"):
        parse_config(make_config(parallel="fsdp"))


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    assert [Group(rank, rank, 2).share(4) for rank in (0, 1)] == [slice(0, 2), slice(2, 4)]
    with pytest.raises(ConfigError, match="4 sequences a step, which 3 processes"):
        Group(0, 0, 3).share(4)
