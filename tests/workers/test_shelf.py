"""What a successor would go on from stays, however long the database was away."""

import hashlib
import json
import queue as queues

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.storage import checkpoints, projects, recording, runs
from app.storage.runs import NewRun
from tests.workers.lab import PATIENCE_SECONDS
from workers.attempt import kept, left_to_the_shelf, newest_whole, remover
from workers.lifecycle import Recorded
from workers.proxy.config import CheckpointConfig
from workers.recorder import Recorder
from workers.shelf import Shelf
from workers.store import FsspecStore
from workers.tidy import drop_resume_files


def line(path, kind: str = "resume", step: int = 1) -> bytes:
    said = {"event": "checkpoint", "step": step, "kind": kind, "path": str(path)}
    return json.dumps({**said, "sha256": "y", "bytes": 1}).encode()


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 3), st.data())
def test_the_newest_and_the_newest_that_is_recorded_stay(moves, keep, data):
    """Recorded in order, in batches of any size, and as late as may be."""
    left: set[int] = set()
    shelf = Shelf(lambda path: left.remove(int(path)), keep)
    written = recorded = 0
    resumable = -1  # the furthest that was recorded while it was still there
    for write in moves:
        if write:
            left.add(written)
            shelf.written(line(written))
            written += 1
            assert len(left) <= keep + 1
        elif recorded < written:
            upto = data.draw(st.integers(recorded + 1, written))
            resumable = max({*range(recorded, upto)} & left, default=resumable)
            shelf.recorded([line(each) for each in range(recorded, upto)])
            recorded = upto
        assert {*range(max(0, written - keep), written)} <= left
        assert resumable in left or resumable < 0
        assert bool(recorded) == (resumable >= 0)  # there is always one to go on from


def test_other_lines_and_other_kinds_are_no_business_of_its():
    gone: list[str] = []
    shelf = Shelf(gone.append, keep=1)
    for said in (line("a"), line("b", "final"), b'{"event": "points"}', b'"checkpoint"', line("c")):
        shelf.written(said)
    assert gone == []
    shelf.recorded([line("c"), line("d", "final")])
    shelf.written(line("d"))
    assert gone == ["a"]


@pytest.fixture(params=["folder", "store"])
def place(request, tmp_path):
    """A folder or a store: (what keeps a file there, what removes it, all that is there)."""
    if request.param == "folder":
        return (lambda file: str(file)), remover(None), lambda: sorted(tmp_path.glob("step-*"))
    there = tmp_path / "shared"
    store = FsspecStore(f"file://{there}")
    put = lambda file: store.put(file, file.name)  # noqa: E731
    return put, remover(store), lambda: sorted(there.glob("*"))


def test_a_run_can_be_resumed_after_checkpoints_that_nobody_could_record(engine, tmp_path, place):
    """Six checkpoints come while the database is away, and then the worker dies."""
    keep, remove, there = place
    with engine.begin() as connection:
        project = projects.create(connection, f"p{connection.scalar(text('select random()'))}")
        run = runs.create(connection, NewRun(project.id, "r", status="queued"))
        attempt = recording.claim_run(connection, run.id, "here", lease_seconds=60)
    mailbox: queues.SimpleQueue = queues.SimpleQueue()

    def checkpoint(step: int) -> bytes:
        file = tmp_path / f"step-{step}.resume.safetensors"
        file.write_bytes(b"x" * step)
        said = json.loads(line(keep(file), step=step))
        digest = hashlib.sha256(b"x" * step).hexdigest()
        return json.dumps({**said, "sha256": digest, "bytes": step}).encode()

    before = Recorder(
        engine, run.id, attempt, {}, mailbox.put, flush_seconds=0.05, shelf=Shelf(remove)
    )
    for step in (1, 2, 3):
        before.put(checkpoint(step))
    assert len(there()) == 3
    before.start()
    assert isinstance(mailbox.get(timeout=PATIENCE_SECONDS), Recorded)
    before.abandon()  # its database is away from here on
    before.join(PATIENCE_SECONDS)
    for step in range(4, 10):
        before.put(checkpoint(step))
    assert [path.name.split(".")[0] for path in there()] == ["step-3", "step-8", "step-9"]
    with engine.connect() as connection:
        left = checkpoints.of_run(connection, run.id)
    found = newest_whole(left, FsspecStore(f"file://{tmp_path}/shared"), tmp_path / "cache")
    assert found is not None and found.step == 3


def test_what_cannot_be_removed_stops_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    remover(None)(str(tmp_path / "folder"))
    remover(None)(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("config", "keep"),
    [({}, 2), ({"checkpoint": {"keep": 5}}, 5), ({"checkpoint": {"keep": "x"}}, 2),
     ({"checkpoint": None}, 2), ({"checkpoint": [1]}, 2)],
)  # fmt: skip
def test_a_configuration_says_how_many_stay(config, keep):
    assert kept(config) == keep


@pytest.mark.parametrize("checkpoint", [{}, {"keep": 3}, {"every_steps": 50, "keep": 1}])
def test_the_trainer_takes_what_keeps_it_from_removing(checkpoint):
    asked = left_to_the_shelf({"checkpoint": checkpoint})["checkpoint"]
    assert CheckpointConfig(**asked).keep > 1e8
    assert {**asked, "keep": 0} == {**checkpoint, "keep": 0}


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": "x"}, [1], None, 5])
def test_the_trainer_is_left_to_refuse_what_is_wrong(wrong):
    assert left_to_the_shelf({"checkpoint": wrong}) == {"checkpoint": wrong}


def test_of_a_finished_run_no_half_written_checkpoint_stays(tmp_path):
    for name in (
        "attempt-1/.step-50.resume.safetensors.77.tmp",
        "attempt-1/step-9.resume.safetensors",
        "attempt-2/step-400.final.safetensors",
        "attempt-1/config.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    drop_resume_files(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "config.json", "step-400.final.safetensors"
    ]  # fmt: skip
