"""Real text for tiny runs: a slice of the standard library, as two small corpora."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.services import corpora

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for name in ("email", "asyncio"):
        corpora.build(name, [stdlib / name], folder, validation_fraction=0.2)
    return folder


@pytest.fixture(scope="session")
def make_config(corpus_dir: Path) -> Callable[..., dict[str, Any]]:
    """A tiny run on the `email` corpus; keyword arguments replace or extend its sections."""

    def make(**changes: Any) -> dict[str, Any]:
        config: dict[str, Any] = {
            "model": {"d_model": 16, "n_layers": 2, "head_dim": 8, "seq_len": 32},
            "data": {
                "train": [{"name": "email", "path": str(corpus_dir / "email")}],
                "validation": [
                    {"name": name, "path": str(corpus_dir / name)} for name in ("email", "asyncio")
                ],
            },
            "optimizer": {"name": "muon", "lr": 6e-3},
            "schedule": {"kind": "wsd", "steps": 24, "warmup_steps": 4, "cooldown_steps": 8},
            "batch_tokens": 128,
            "evaluate": {"tokens": 1024},
        }
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(config.get(key), dict):
                config[key] = {**config[key], **value}
            else:
                config[key] = value
        return config

    return make


class Trained:
    """The events that one run printed."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    @property
    def points(self) -> list[list[float]]:
        return [point for each in self.of("points") for point in each["points"]]

    @property
    def losses(self) -> dict[tuple[str, int], float]:
        return {(e["validation_set"], e["step"]): e["loss"] for e in self.of("evaluation")}

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1]

    def checkpoint(self, kind: str, step: int) -> dict[str, Any]:
        found = [e for e in self.of("checkpoint") if (e["kind"], e["step"]) == (kind, step)]
        return found[-1]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Trained]:
    """Train in this process (a new one costs seconds of imports)."""
    from workers.proxy.config import parse_config
    from workers.proxy.train import train

    class Stop:
        """Asks to stop once the run has printed that it passed `after`."""

        requested = False

    def go(
        config: dict[str, Any], name: str = "run", resume: Path | None = None, stop: bool = False
    ) -> Trained:
        flag = Stop()
        flag.requested = stop
        capsys.readouterr()
        train(parse_config(config), tmp_path / name, resume, flag)  # type: ignore[arg-type]
        return Trained([json.loads(line) for line in capsys.readouterr().out.splitlines()])

    return go


def start_process(config: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """The trainer as the worker starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "workers.proxy.train", str(config), "--out", str(out), *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
