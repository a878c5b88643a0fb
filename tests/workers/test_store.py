"""Checkpoints in a store: whole or not there, checked when read, and enough to go on from.

Real file systems of fsspec's: a folder by `file://`; `memory://`, which has no rename, as an object
store has none; and `s3://`, on a server that speaks S3. A run changes machines: each worker has a
checkpoint folder of its own.
"""

import hashlib
import json
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.settings import Settings
from app.storage.checkpoints import Checkpoint
from tests.workers.lab import PATIENCE_SECONDS, STEPS, Lab, config
from workers.lifecycle import Close
from workers.store import FsspecStore, NoDriver, StoreError, localized
from workers.upload import Uploader


def recorded(url: str, payload: bytes, kind: str = "resume") -> Checkpoint:
    digest = hashlib.sha256(payload).hexdigest()
    return Checkpoint(1, 10, kind, 1, url, digest, len(payload), datetime.now(UTC))


@pytest.fixture(params=["file", "memory", "s3"])
def store(request, tmp_path) -> FsspecStore:
    if request.param == "s3":
        return FsspecStore(request.getfixturevalue("s3").url(tmp_path.name))
    root = tmp_path / "shared" if request.param == "file" else Path("/bucket") / tmp_path.name
    return FsspecStore(f"{request.param}://{root}")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "step-10.resume.safetensors"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def test_what_is_put_can_be_had_elsewhere_and_is_checked(store, file, tmp_path) -> None:
    url = store.put(file, "run-1/attempt-1/step-10.resume.safetensors")
    assert url.startswith(("file:///", "memory://", "s3://")) and store.holds(url)
    assert not store.holds("s3://another bucket/run-1/attempt-1/step-10.resume.safetensors")
    checkpoint = recorded(url, file.read_bytes())
    there = localized(checkpoint, store, tmp_path / "cache")
    assert there is not None and Path(there.path).read_bytes() == file.read_bytes()
    file.write_bytes(file.read_bytes()[:-1] + b"!")  # as long, and not the same
    store.put(file, "run-1/attempt-1/step-10.resume.safetensors")
    assert localized(checkpoint, store, tmp_path / "another cache") is None
    store.remove(url)
    store.remove(url)
    assert localized(checkpoint, store, tmp_path / "a third") is None
    assert not list(tmp_path.rglob("*.part"))


def test_what_lies_under_a_folder_is_listed_recorded_or_not(store, file) -> None:
    assert store.under("run-1") == []
    urls = [store.put(file, f"run-1/attempt-{i}/{file.name}") for i in (1, 2)]
    store.put(file, f"run-10/attempt-1/{file.name}")
    assert sorted(store.under("run-1")) == sorted(urls)
    store.remove(urls[0])
    assert store.under("run-1") == urls[1:]


def test_a_store_that_does_not_answer_is_no_verdict_on_the_checkpoint(file, tmp_path) -> None:
    (tmp_path / "in the way").write_text("a file where the store's folder should be")
    store = FsspecStore(f"file://{tmp_path}/in the way")
    with pytest.raises(StoreError):
        store.put(file, "run-1/x")
    with pytest.raises(StoreError, match="SCALEWRIGHT_CHECKPOINT_STORE"):
        localized(recorded("s3://bucket/x", b""), None, tmp_path)


def test_a_missing_driver_names_the_package(monkeypatch) -> None:
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "s3fs", None)
        absent.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
        with pytest.raises(NoDriver, match=r"s3://.*s3fs"):
            FsspecStore("s3://bucket/folder")
    with pytest.raises(NoDriver):
        FsspecStore("nothing://bucket/folder")


@pytest.mark.parametrize("url", ["bucket/folder", "s3://", "s3://key:secret@bucket/folder"])
def test_settings_refuse_what_is_no_url_or_holds_a_password(url) -> None:
    with pytest.raises(ValueError) as refused:
        Settings(checkpoint_store=url)
    assert "secret" not in str(refused.value)


class Book:
    """A ledger that writes down the order of things."""

    def __init__(self) -> None:
        self.entries: list[dict | Close] = []
        self.closed = threading.Event()

    def put(self, line: bytes) -> None:
        self.entries.append(json.loads(line))

    def close(self, close: Close) -> None:
        self.entries.append(close)
        self.closed.set()

    def abandon(self) -> None:
        self.closed.set()


def test_the_end_waits_for_the_uploads(store, file, tmp_path) -> None:
    book = Book()
    uploader = Uploader(book, store, "run-1/attempt-1")
    uploader.start()
    for step in range(1, 5):
        path = tmp_path / f"step-{step}.resume.safetensors"
        path.write_bytes(file.read_bytes())
        line = {"event": "checkpoint", "step": step, "kind": "resume", "path": str(path)}
        uploader.put(json.dumps(line).encode())
    gone = {"event": "checkpoint", "step": 5, "kind": "resume", "path": str(tmp_path / "gone")}
    uploader.put(json.dumps(gone).encode())
    uploader.put(b'{"event": "points", "points": []}')
    uploader.close(Close("finished"))
    assert book.closed.wait(PATIENCE_SECONDS)
    uploader.abandon()
    uploader.join(PATIENCE_SECONDS)
    assert isinstance(book.entries[-1], Close)
    lines = [entry for entry in book.entries if isinstance(entry, dict)]
    urls = [line["path"] for line in lines if line["event"] == "checkpoint"]
    assert len(urls) == 4
    for i, url in enumerate(urls):
        assert localized(recorded(url, file.read_bytes()), store, tmp_path / f"cache-{i}")


def test_what_was_uploaded_too_late_is_not_left_behind(store, file) -> None:
    """The run became another's while a frozen worker was uploading: nobody will know of it."""
    book = Book()
    uploader = Uploader(book, store, "run-1/attempt-1")
    put = store.put

    def slow(local: Path, name: str) -> str:
        url: str = put(local, name)
        uploader.abandon()
        return url

    store.put = slow
    line = {"event": "checkpoint", "step": 1, "kind": "resume", "path": str(file)}
    uploader.put(json.dumps(line).encode())
    uploader.start()
    uploader.join(PATIENCE_SECONDS)
    assert book.entries == [] and store.under("run-1") == []


@pytest.mark.faults
def test_a_run_goes_on_from_the_store_on_another_machine(lab: Lab, undisturbed, tmp_path) -> None:
    """Killed under one worker; the other has nothing of the first one's folder."""
    lab.hold(STEPS // 4)
    run_id = lab.submit("moved", config(lab.corpus))
    shared = tmp_path / "shared"
    lab.env["SCALEWRIGHT_CHECKPOINT_STORE"] = f"file://{shared}"
    lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "first")
    with lab.worker("--concurrency", "1") as first:
        lab.wait(run_id, lambda run: run.step >= STEPS // 4)
        lab.wait(run_id, lambda _: bool(lab.rows("select 1 from checkpoints")))
        first.send(signal.SIGKILL)
        first.wait()
    lab.release()
    (tmp_path / "first").rename(tmp_path / "another machine")
    # what the first leaves if it dies after an upload and before its record, or while it writes
    attempt = shared / f"run-{run_id}" / "attempt-1"
    (attempt / "step-399.resume.safetensors").write_bytes(b"never recorded")
    (attempt / ".step-399.resume.safetensors.7.part").write_bytes(b"never whole")
    lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "second")
    with lab.worker("--concurrency", "1", "--drain") as second:
        assert second.wait() == 0  # it has tidied up too
        (begun,) = [line for line in second.log if line["event"] == "run started"]
    run = lab.run(run_id)
    assert (run.status, run.attempt) == ("finished", 2)
    assert begun["resume_step"] >= 50 and str(tmp_path / "second") in begun["command"]
    assert lab.curve(run_id) == undisturbed
    # a finished run is never resumed
    assert [p.name.split(".", 1)[1] for p in shared.rglob("*") if p.is_file()] == [
        "final.safetensors"
    ]
