"""Nothing is left to resume a finished run from, whoever died before tidying up; all else stays."""

import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from sqlalchemy import text

from app.storage import checkpoints, recording
from app.storage.recording import Batch, CheckpointLine
from tests.workers.lab import PATIENCE_SECONDS, Lab, config, freeze, thaw
from workers.store import FsspecStore, StoreError
from workers.tidy import Tidier, run_folder

Paths = Iterable[tuple[tuple[int, str], str]]  # (step, kind), path


def ended(lab: Lab, name: str, paths: Callable[[int], Paths], status: str = "finished") -> int:
    """A run that ended with the checkpoints recorded that `paths` names, given its id."""
    run_id = lab.submit(name, config(lab.corpus))
    lines = [CheckpointLine(step, kind, path, "aa", 1) for (step, kind), path in paths(run_id)]
    with lab.engine.begin() as connection:
        connection.execute(text("delete from procrastinate_jobs"))
        attempt = recording.claim_run(connection, run_id, "w")
        assert attempt is not None
        assert recording.record(connection, run_id, attempt, Batch(checkpoints=lines)).held
        if status == "finished":
            assert recording.finish_run(connection, run_id, attempt)
        else:
            assert recording.fail_run(connection, run_id, attempt, "", retry=False) == status
    return run_id


def left(lab: Lab, run_id: int) -> list[tuple[int, str]]:
    with lab.engine.connect() as connection:
        return [(each.step, each.kind) for each in checkpoints.of_run(connection, run_id)]


def files(lab: Lab, run_id: int, attempt: int, *names: str) -> list[str]:
    folder = run_folder(lab.settings, run_id) / f"attempt-{attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return [str(folder / name) for name in names]


def test_only_what_a_finished_run_would_resume_from_goes(lab: Lab) -> None:
    kinds = [(10, "resume"), (20, "branch"), (30, "resume"), (40, "final")]

    def written(run_id: int) -> Paths:
        files(lab, run_id, 2, "step-35.resume.safetensors", ".step-36.tmp")  # nobody recorded it
        names = [f"step-{step}.{kind}.safetensors" for step, kind in kinds]
        return zip(kinds, files(lab, run_id, 1, *names), strict=True)

    ids = {
        status: ended(lab, f"tidy {status}", written, status) for status in ("finished", "failed")
    }
    tidier = Tidier(lab.engine, lab.settings, None)
    assert not tidier.tidy(ids["failed"])
    assert tidier.look() == [ids["finished"]]
    assert tidier.look() == []  # and costs no look at its folder any more
    there = run_folder(lab.settings, ids["finished"]).rglob("*")
    assert sorted(path.name for path in there if path.is_file()) == [
        "step-20.branch.safetensors",
        "step-40.final.safetensors",
    ]
    assert left(lab, ids["finished"]) == [(20, "branch"), (40, "final")]
    assert len(left(lab, ids["failed"])) == 4  # it may be tried again
    there = run_folder(lab.settings, ids["failed"]).rglob("*")
    assert len([path for path in there if path.is_file()]) == 6


def test_what_lies_on_another_machine_is_left_to_its_workers(lab: Lab, tmp_path: Path) -> None:
    there = tmp_path / "another machine" / "step-10.resume.safetensors"
    run_id = ended(lab, "elsewhere", lambda _: [((10, "resume"), str(there))])
    tidier = Tidier(lab.engine, lab.settings, None)
    assert tidier.look() == []
    assert left(lab, run_id) == [(10, "resume")]
    there.parent.mkdir()  # now it shares that folder
    assert tidier.look() == []  # it asked once and asks no more
    assert Tidier(lab.engine, lab.settings, None).look() == [run_id]
    assert left(lab, run_id) == []


def test_a_store_that_does_not_answer_is_asked_again(lab: Lab, tmp_path: Path) -> None:
    store = FsspecStore(f"file://{tmp_path}/shared")
    kinds = [(10, "resume"), (20, "final")]

    def uploaded(run_id: int) -> Paths:
        for step, kind in kinds:
            name = f"step-{step}.{kind}.safetensors"
            (copy,) = files(lab, run_id, 1, name)
            yield (step, kind), store.put(Path(copy), f"run-{run_id}/attempt-1/{name}")

    run_id = ended(lab, "in the store", uploaded)
    under = store.under

    def silent(folder: str) -> list[str]:
        raise StoreError("away")

    tidier = Tidier(lab.engine, lab.settings, store)
    store.under = silent
    assert tidier.look() == []
    assert left(lab, run_id) == [(10, "resume"), (20, "final")]
    store.under = under
    assert tidier.look() == [run_id]
    assert left(lab, run_id) == [(20, "final")]
    assert [Path(url).name for url in store.under(f"run-{run_id}")] == ["step-20.final.safetensors"]
    # copies on the machine that the run left, found without a row
    (copy,) = files(lab, run_id, 1, "step-10.resume.safetensors")
    assert tidier.look() == [run_id]
    assert not Path(copy).exists()


# The worker that finishes the run is killed before it tidies up.
KILLED = """
import os, signal
from workers.tidy import Tidier
Tidier.tidy = lambda self, run_id: os.kill(os.getpid(), signal.SIGKILL)
"""


def short(lab: Lab) -> dict:
    return config(
        lab.corpus,
        schedule={"kind": "constant", "steps": 60},
        evaluate={"at_steps": [], "tokens": 2048},
        checkpoint={"every_steps": 20, "branch_at_steps": [40], "keep": 2},
    )


@pytest.mark.faults
@pytest.mark.parametrize("where", ["folder", "store"])
def test_the_next_worker_tidies_up_after_one_killed_at_the_end(
    lab: Lab, tmp_path: Path, where: str
) -> None:
    shared = tmp_path / "shared"
    if where == "store":
        lab.env["SCALEWRIGHT_CHECKPOINT_STORE"] = f"file://{shared}"
    lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "first" if where == "store" else shared)

    def there() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in shared.rglob("step-*")}

    run_id = lab.submit(f"killed at its end, {where}", short(lab))
    with lab.worker("--concurrency", "1", first=KILLED) as worker:
        assert worker.wait() == -signal.SIGKILL
    assert lab.run(run_id).status == "finished"
    before = there()
    assert any("resume" in name for name in before)
    if where == "store":
        lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "second")
    with lab.worker("--concurrency", "1") as worker:
        worker.wait_said(lambda line: line["event"] == "tidied" and line["runs"] == [run_id])
    kept = {name: data for name, data in before.items() if "resume" not in name}
    assert sorted(name.split(".", 1)[1] for name in kept) == [
        "branch.safetensors",
        "final.safetensors",
    ]
    assert there() == kept
    assert {kind for _, kind in left(lab, run_id)} == {"branch", "final"}


# Its uploads wait while LAB_UPLOADS is there; that the run has become another's is heard only when
# the last one was handed on.
FROZEN = """
import os, time
from workers.recorder import Recorder
from workers.store import FsspecStore
from workers.upload import Uploader
hold, folder = os.environ["LAB_UPLOADS"], os.path.dirname(os.environ["LAB_UPLOADS"])
put, record, abandon = FsspecStore.put, Recorder.put, Uploader.abandon
def touch(name):
    open(os.path.join(folder, name), "w").close()
def waits(self, local, name):
    touch("uploading")
    while os.path.exists(hold):
        time.sleep(0.02)
    return put(self, local, name)
def recorded(self, line):
    record(self, line)
    if b"resume" in line and b"file://" in line:
        touch("handed on")
def late(self):
    while not os.path.exists(os.path.join(folder, "handed on")):
        time.sleep(0.02)
    abandon(self)
FsspecStore.put, Recorder.put, Uploader.abandon = waits, recorded, late
"""


@pytest.mark.faults
def test_an_upload_that_was_frozen_past_the_run_s_end_leaves_nothing(
    lab: Lab, tmp_path: Path
) -> None:
    hold = tmp_path / "uploads wait"
    hold.touch()
    shared = tmp_path / "shared"
    lab.env |= {"LAB_UPLOADS": str(hold), "SCALEWRIGHT_CHECKPOINT_STORE": f"file://{shared}"}
    lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "first")
    lab.hold(30)
    run_id = lab.submit("frozen", short(lab))
    with lab.worker("--concurrency", "1", first=FROZEN) as first:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (tmp_path / "uploading").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lab.wait(run_id, lambda run: run.step >= 30)
        frozen = [first, *first.trainers]
        freeze(*frozen)
        lab.env["LAB_HOLD"] = str(tmp_path / "not held")  # its own trainer gets no further
        lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "second")
        with lab.worker("--concurrency", "1", "--drain") as second:
            assert second.wait() == 0
        assert (lab.run(run_id).status, lab.run(run_id).attempt) == ("finished", 2)
        hold.unlink()
        thaw(*frozen)
        first.wait_said(lambda line: line.get("outcome") == "left to others")
        assert (tmp_path / "handed on").exists()
        kinds = [path.name.split(".", 1)[1] for path in shared.rglob("*") if path.is_file()]
        assert sorted(kinds) == ["branch.safetensors", "final.safetensors"]
        assert not list((tmp_path / "first").rglob("*.resume.safetensors"))
