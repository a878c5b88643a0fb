"""Runs that start from another's checkpoint: planned, stored, released when it lands."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from app.errors import ServiceError
from app.services import continuations, projects, runs, scheduling, sweeps
from app.settings import Settings
from app.storage import recording
from app.storage import runs as storage
from app.storage.recording import Batch, CheckpointLine
from app.storage.runs import Run
from tests.services.conftest import SPEC

PARENT: dict[str, Any] = {
    **{k: SPEC[k] for k in ("corpora", "model", "optimizer", "batch_tokens")},
    "size": {"d_model": 32, "n_layers": 2},
    "steps": 1000,
    "schedule": {"kind": "constant", "warmup_steps": 50},
}
ONWARD: dict[str, Any] = {
    "corpora": {"train": [{"name": "english"}]},
    "steps": 500,
    "schedule": {"kind": "cosine", "warmup_steps": 20},
}


@pytest.fixture
def parent(connection: Connection, settings: Settings, with_corpora: Path) -> Run:
    projects.create(connection, "onward")
    return runs.submit(connection, settings, "onward", "parent", PARENT)


def lands(connection: Connection, run: Run, step: int, kind: str) -> list[int]:
    attempt = recording.claim_run(connection, run.id, "w") or runs.get(connection, run.id).attempt
    line = CheckpointLine(step, kind, "/x", "0" * 64, 1)
    assert recording.record(connection, run.id, attempt, Batch(checkpoints=[line])).held
    return scheduling.checkpoint_landed(connection, run.id)


def test_a_continual_run_waits_for_its_parent(
    connection: Connection, settings: Settings, parent: Run
) -> None:
    spec = {**ONWARD, "parent": parent.id, "replay_ratio": 0.25, "lr": 2e-3}
    child = runs.submit(connection, settings, "onward", "child", spec)
    assert (child.kind, child.status, child.parent_step) == ("continual", "planned", 1000)
    assert child.config["init"] == {"kind": "continual", "momentum": "reset"}
    weights = {each["name"]: each["weight"] for each in child.config["data"]["train"]}
    assert weights == {"english": 0.75, "code": 0.25}
    assert continuations.replay_ratio(child.config["data"]["train"], parent.config["data"]["train"])
    assert child.config["optimizer"] == {**parent.config["optimizer"], "lr": 2e-3}
    assert child.config["model"] == parent.config["model"]
    assert child.config["seed"] == parent.config["seed"] + 1
    assert child.tokens == 500 * 1024 and child.n_total == parent.n_total
    assert child.flops_exact == pytest.approx((parent.flops_exact or 0) / 2)
    assert lands(connection, parent, 500, "resume") == []
    assert lands(connection, parent, 1000, "final") == [child.id]
    (job,) = connection.execute(
        text("select args from procrastinate_jobs where args ->> 'run_id' = :id"),
        {"id": str(child.id)},
    ).all()
    assert job.args == {"run_id": child.id}


@pytest.mark.parametrize(
    ("spec", "column", "says"),
    [
        (
            {**PARENT, "evaluate": {"at_steps": [0, 1000, 1001]}},
            "evaluate.at_steps",
            "evaluate.at_steps names step 1001, and training ends at step 1000.",
        ),
        (
            {**PARENT, "checkpoint_at_steps": [1000, 3000, 2000]},
            "checkpoint_at_steps",
            "checkpoint_at_steps names step 2000, and training ends at step 1000.",
        ),
        (
            {**ONWARD, "parent": 0, "evaluate": {"at_steps": [500, 501]}},
            "evaluate.at_steps",
            "evaluate.at_steps names step 501, and training ends at step 500.",
        ),
        (
            {**ONWARD, "parent": 0, "schedule": {"kind": "cosine", "warmup_steps": 500}},
            None,
            "500 steps: the warm-up of 500 steps is not over when the cool-down starts.",
        ),
    ],
)
def test_what_no_step_comes_to_is_refused(
    connection: Connection, settings: Settings, parent: Run, spec: dict[str, Any],
    column: str | None, says: str,
) -> None:  # fmt: skip
    if "parent" in spec:
        spec = {**spec, "parent": parent.id}
    with pytest.raises(ServiceError, match=re.escape(says)) as refused:
        runs.submit(connection, settings, "onward", "late", spec)
    assert refused.value.column == column and refused.value.hint


def test_a_sweep_s_own_steps_are_left_out_of_its_shorter_runs(
    connection: Connection, settings: Settings, with_corpora: Path
) -> None:
    """What it evaluates at suits its longest run; a run that takes its recipe may be short."""
    projects.create(connection, "grid")
    spec = {**SPEC, "evaluate": {"tokens": 4096, "at_steps": [100, 1000]}}
    swept = sweeps.create(connection, settings, "grid", "s", spec)
    short = {"sweep": swept.id, "size": {"d_model": 32, "n_layers": 2}, "steps": 200}
    made = runs.submit(connection, settings, "grid", "short", short)
    assert made.config["evaluate"]["at_steps"] == [100, 200]


def waits_for_a_lock(engine: Engine) -> bool:
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return bool(connection.scalar(text(f"{waiting} and datname = current_database()")))


@pytest.mark.parametrize("first", ["checkpoint", "child"])
def test_a_child_and_its_parent_s_checkpoint_do_not_miss_each_other(
    engine: Engine, settings: Settings, with_corpora: Path, first: str
) -> None:
    """Neither sees what the other has not committed yet, so the second waits for the first."""
    project = f"{first} first"
    settings = settings.model_copy(update={"worker_timeout_seconds": 60.0})  # this machine is busy
    with engine.begin() as connection:
        projects.create(connection, project)
        parent = runs.submit(connection, settings, project, "parent", PARENT)
        lands(connection, parent, 500, "resume")

    def submit(connection: Connection) -> None:
        runs.submit(connection, settings, project, "child", {**ONWARD, "parent": parent.id})

    def land(connection: Connection) -> None:
        lands(connection, parent, 1000, "final")

    def later() -> None:
        with engine.begin() as connection:
            (submit if first == "checkpoint" else land)(connection)

    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as connection:
            (land if first == "checkpoint" else submit)(connection)
            second = thread.submit(later)
            while not waits_for_a_lock(engine):
                assert not second.done(), "it did not wait"
                time.sleep(0.01)
        second.result(600)
    with engine.begin() as connection:
        child = storage.find_by_name(connection, parent.project_id, "child")
        assert child is not None and child.status == "queued"
        connection.execute(text("delete from projects"))


def test_from_the_middle_of_a_run_that_has_not_started(
    connection: Connection, settings: Settings, parent: Run
) -> None:
    spec = {**ONWARD, "parent": parent.id, "parent_step": 600, "momentum": "carry"}
    child = runs.submit(connection, settings, "onward", "child", spec)
    config = runs.get(connection, parent.id).config
    assert config["checkpoint"]["branch_at_steps"] == [600]
    assert lands(connection, parent, 600, "branch") == [child.id]
    # it trains now: what it was not asked to keep is not there
    with pytest.raises(ServiceError, match=r"no checkpoint at step 700; it has: 600, 1000"):
        runs.submit(connection, settings, "onward", "late", {**spec, "parent_step": 700})
    again = runs.submit(connection, settings, "onward", "again", spec)
    assert again.status == "queued"  # the checkpoint is there already


def test_a_branch_takes_everything_from_its_trunk(
    connection: Connection, settings: Settings, parent: Run
) -> None:
    spec = {"parent": parent.id, "kind": "branch", "steps": 1000}
    branch = runs.submit(connection, settings, "onward", "branch", spec)
    assert (branch.kind, branch.status, branch.parent_step) == ("branch", "planned", 800)
    schedule = branch.config["schedule"]
    assert schedule == {
        **parent.config["schedule"],
        "kind": "wsd",
        "steps": 1000,
        "cooldown_steps": 200,
    }
    assert branch.config["data"] == parent.config["data"]
    assert branch.flops_exact == parent.flops_exact
    lands(connection, parent, 800, "branch")
    # a longer one starts from the last checkpoint before its cool-down
    longer = runs.submit(connection, settings, "onward", "longer", {**spec, "steps": 1200})
    assert (longer.parent_step, longer.status) == (800, "queued")
    with pytest.raises(ServiceError, match="constant part"):
        runs.submit(connection, settings, "onward", "too long", {**spec, "steps": 2000})


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"replay_ratio": 1.0}, "replay_ratio"),
        ({"corpora": {}}, "corpora"),
        ({"corpora": {"train": [{"name": "nowhere"}]}}, "corpora"),
        ({"steps": None}, "steps"),
        ({"budget_flops": 1e12}, "budget_flops"),
        ({"parent_step": 2000}, "parent_step"),
        ({"momentum": "keep"}, "momentum"),
        ({"hold": True}, "hold"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(
    change: dict[str, Any], column: str, connection: Connection, settings: Settings, parent: Run
) -> None:
    spec = {**ONWARD, "parent": parent.id, **change}
    with pytest.raises(ServiceError) as refused:
        hold = bool(spec.pop("hold", False))
        runs.submit(connection, settings, "onward", "child", spec, hold=hold)
    assert refused.value.column == column


def test_a_run_of_another_project_is_no_parent(
    connection: Connection, settings: Settings, parent: Run
) -> None:
    projects.create(connection, "elsewhere")
    with pytest.raises(ServiceError, match="another project"):
        runs.submit(connection, settings, "elsewhere", "c", {**ONWARD, "parent": parent.id})


def test_a_refusal_says_what_is_wrong_and_what_helps(
    connection: Connection, settings: Settings, parent: Run
) -> None:
    def refused(**changed: Any) -> ServiceError:
        spec = {**ONWARD, "parent": parent.id, **changed}
        with pytest.raises(ServiceError) as caught:
            runs.submit(connection, settings, "onward", "child", spec)
        return caught.value

    assert "How long the run is" in refused(steps=None).message
    assert refused(corpora=None).message == "No new text is named."
    both = refused(budget_flops=1e12)
    assert "Both budget_flops and steps" in both.message
    warm = refused(steps=60, schedule={"kind": "wsd"})
    assert "warm-up of 50 steps" in warm.message and "warmup_steps" in warm.hint
    long = refused(steps=10**10)
    assert "more than" in long.message and "longer" not in long.hint
