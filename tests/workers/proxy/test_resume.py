"""A run that was interrupted is the run that was not: bit for bit, on a CPU."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.workers.proxy.conftest import Trained, start_process
from workers.proxy.config import ConfigError

Make = Callable[..., dict[str, Any]]
Run = Callable[..., Trained]
SCHEDULES = {
    "constant": {},
    "wsd": {"cooldown_steps": 6},
    "cosine": {},
    "linear": {},
    "step": {"drops": [[6, 0.3], [12, 0.1]]},
    "wsd-s": {"cooldown_steps": 6, "periods": [9, 18], "warmup_steps": 2},
}


def tensors_of(path: str) -> dict[str, bytes]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_resumed_run_equals_the_uninterrupted_one(
    kind: str, optimizer: str, make_config: Make, run: Run, tmp_path: Path
) -> None:
    config = make_config(
        schedule={"kind": kind, "steps": 18, "cooldown_steps": 0, **SCHEDULES[kind]},
        optimizer={"name": optimizer},
    )
    whole = run(config, "whole")
    with_saves = {**config, "checkpoint": {"every_steps": 7, "keep": 5}}
    first = run(with_saves, "first")
    at_7 = Path(first.checkpoint("resume", 7)["path"])
    resumed = run(with_saves, "second", resume=at_7)

    assert first.points == whole.points
    assert resumed.points == whole.points[7:]
    assert resumed.of("start")[0]["step"] == 7
    assert resumed.losses == whole.losses
    finals = [tensors_of(each.checkpoint("final", 18)["path"]) for each in (whole, resumed)]
    assert finals[0] == finals[1]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_deterministic_mode_changes_nothing_on_a_cpu(
    optimizer: str, make_config: Make, run: Run
) -> None:
    """Every operation has a deterministic way, and memory that torch then fills is not read."""
    config = make_config(optimizer={"name": optimizer}, schedule={"steps": 12})
    plain = run(config, "plain")
    try:
        strict = run({**config, "deterministic": True}, "strict")
    finally:
        torch.use_deterministic_algorithms(False)
    assert strict.points == plain.points
    assert strict.losses == plain.losses


def test_a_branch_equals_the_uninterrupted_wsd_run(make_config: Make, run: Run) -> None:
    whole = run(make_config(), "whole")
    trunk = run(
        make_config(
            schedule={"kind": "constant", "steps": 20, "cooldown_steps": 0},
            checkpoint={"branch_at_steps": [12, 16]},
        ),
        "trunk",
    )
    at_16 = trunk.checkpoint("branch", 16)["path"]
    branch = run(make_config(init={"checkpoint": at_16, "kind": "branch"}), "branch")
    assert trunk.points[:16] + branch.points == whole.points
    assert branch.losses == whole.losses
    assert branch.of("start")[0]["recipe"] == trunk.of("start")[0]["recipe"]
    # from an earlier checkpoint of the trunk the branch walks the missing steps itself
    at_12 = trunk.checkpoint("branch", 12)["path"]
    longer = run(make_config(init={"checkpoint": at_12, "kind": "branch"}), "longer")
    assert longer.points == whole.points[12:]


def test_a_killed_process_resumes_to_the_same_curve(
    make_config: Make, run: Run, tmp_path: Path
) -> None:
    config = make_config(
        schedule={"kind": "wsd", "steps": 400, "cooldown_steps": 60},
        checkpoint={"every_steps": 20, "keep": 2},
    )
    whole = run(config, "whole")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))

    process = start_process(file, tmp_path / "killed")
    seen: list[dict[str, Any]] = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(json.loads(line))
        if seen[-1]["event"] == "checkpoint" and seen[-1]["step"] >= 60:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    last = Path(seen[-1]["path"])
    resumed = run(config, "killed", resume=last)
    stored = {p[0]: p for p in Trained(seen).points} | {p[0]: p for p in resumed.points}
    assert [stored[step] for step in range(1, 401)] == whole.points
    assert resumed.losses == whole.losses
    # only the newest two, and nothing half-written
    kept = sorted(p.name for p in (tmp_path / "killed").iterdir())
    assert kept == [
        "step-000000360.resume.safetensors",
        "step-000000380.resume.safetensors",
        "step-000000400.final.safetensors",
    ]


def test_sigterm_finishes_the_step_and_leaves_a_checkpoint(
    make_config: Make, run: Run, tmp_path: Path
) -> None:
    config = make_config(schedule={"kind": "linear", "steps": 100_000, "cooldown_steps": 0})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    process = start_process(file, tmp_path / "stopped")
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=600)
    seen += [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 0
    assert seen[-1]["event"] == "end" and seen[-1]["status"] == "stopped"
    stopped = Trained(seen)
    step = seen[-1]["step"]
    assert [point[0] for point in stopped.points] == list(range(1, step + 1))
    # the folder names its own newest checkpoint; go on a little way and stop again
    again = run(config, "stopped", resume=tmp_path / "stopped", stop=True)
    assert [point[0] for point in again.points] == [step + 1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "another seed"),
        ({"model": {"d_model": 32}}, "another model"),
        ({"optimizer": {"lr": 1e-3}}, "another recipe"),
        ({"schedule": {"steps": 30}}, "another schedule"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    changes: dict[str, Any], says: str, make_config: Make, run: Run
) -> None:
    config = make_config(checkpoint={"every_steps": 6, "keep": 9})
    at_6 = Path(run(config, "one").checkpoint("resume", 6)["path"])
    with pytest.raises(ConfigError, match=says):
        run(make_config(**changes), "two", resume=at_6)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("momentum", ["reset", "carry"])
def test_a_resumed_continual_run_equals_the_uninterrupted_one(
    momentum: str, optimizer: str, make_config: Make, run: Run
) -> None:
    name = {"name": optimizer}
    parent = run(make_config(optimizer=name, schedule={"steps": 12}), "parent")
    init = {
        "kind": "continual",
        "momentum": momentum,
        "checkpoint": parent.checkpoint("final", 12)["path"],
    }
    saves = {"every_steps": 7, "keep": 5}
    config = make_config(optimizer=name, init=init, seed=1, checkpoint=saves)
    whole = run(config, "whole")
    at_7 = Path(whole.checkpoint("resume", 7)["path"])
    resumed = run(config, "resumed", resume=at_7)
    assert resumed.points == whole.points[7:]
    assert resumed.losses == whole.losses


def test_momentum_of_another_optimizer_is_not_carried(make_config: Make, run: Run) -> None:
    path = run(make_config(), "parent").checkpoint("final", 24)["path"]
    init = {"kind": "continual", "momentum": "carry", "checkpoint": path}
    with pytest.raises(ConfigError, match="written by another optimizer"):
        run(make_config(optimizer={"name": "adamw"}, init=init), "child")


def test_a_branch_cannot_start_after_its_cooldown(make_config: Make, run: Run) -> None:
    trunk = run(
        make_config(
            schedule={"kind": "constant", "steps": 20, "cooldown_steps": 0},
            checkpoint={"branch_at_steps": [20]},
        ),
        "trunk",
    )
    init = {"checkpoint": trunk.checkpoint("branch", 20)["path"], "kind": "branch"}
    with pytest.raises(ConfigError, match=r"after the cool-down starts \(16\)"):
        run(make_config(init=init), "branch")


def test_a_torn_checkpoint_is_refused(make_config: Make, run: Run) -> None:
    config = make_config(checkpoint={"every_steps": 6, "keep": 9})
    path = Path(run(config, "one").checkpoint("resume", 6)["path"])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="not a readable checkpoint"):
        run(config, "two", resume=path)
