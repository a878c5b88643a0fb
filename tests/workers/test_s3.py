"""Checkpoints in a bucket: workers with nothing in common but a server that speaks S3.

What a store promises is in test_store.py, on this server too.
"""

import signal
from pathlib import Path

import pytest

from tests.workers.lab import Lab, config
from tests.workers.s3_server import KEY, SECRET, TOKEN, S3Server
from workers.store import FsspecStore, StoreError

STEPS = 120


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step-10.resume.safetensors"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def test_a_wrong_key_is_a_refusal_that_names_no_key(s3: S3Server, file: Path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-other-secret")
    store = FsspecStore(s3.url("refused"))
    for refused in (
        lambda: store.put(file, "run-1/x"),
        lambda: store.under("run-1"),
        lambda: store.get(s3.url("refused/run-1/x"), file),
    ):
        with pytest.raises(StoreError) as error:
            refused()
        assert not {KEY, "some-other-secret", TOKEN} & set(str(error.value).split())
    assert s3.objects("refused") == {}


def test_a_bucket_that_is_not_there_is_not_made(s3: S3Server, file: Path) -> None:
    """Nor does it pass for a checkpoint that was removed meanwhile, which nobody misses."""
    with pytest.raises(StoreError, match="no such bucket"):
        FsspecStore("s3://chekpoints/folder").put(file, "run-1/x")
    assert [path.name for path in s3.folder.iterdir()] == ["checkpoints"]


def test_a_server_that_is_gone_is_a_store_that_does_not_answer(
    s3: S3Server, file: Path, monkeypatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError):
        FsspecStore(s3.url("gone")).get(s3.url("gone/x"), file)


@pytest.mark.faults
def test_a_run_killed_on_one_machine_goes_on_from_the_bucket_on_another(
    lab: Lab, s3: S3Server, tmp_path: Path
) -> None:
    lab.env |= s3.environment
    lab.env["SCALEWRIGHT_CHECKPOINT_STORE"] = s3.url("runs")
    lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "first")
    lab.env["SCALEWRIGHT_LOG_LEVEL"] = "debug"  # botocore's says what it signs
    lab.hold(60)
    wanted = {"schedule": {"kind": "constant", "steps": STEPS}, "evaluate": {"at_steps": []}}
    run_id = lab.submit("in a bucket", config(lab.corpus, **wanted))
    with lab.worker("--concurrency", "1") as first:
        lab.wait(run_id, lambda run: run.step >= 60)
        lab.wait(run_id, lambda _: bool(lab.rows("select 1 from checkpoints")))
        first.send(signal.SIGKILL)
        first.wait()
    before = lab.curve(run_id)
    ((url, size),) = lab.rows("select path, bytes from checkpoints")
    name = url.removeprefix(s3.url("runs") + "/")
    assert len(s3.objects("runs")[name]) == size
    lab.release()
    (tmp_path / "first").rename(tmp_path / "another machine")
    lab.env["SCALEWRIGHT_CHECKPOINT_DIR"] = str(tmp_path / "second")
    with lab.worker("--concurrency", "1", "--drain") as second:
        assert second.wait() == 0
        (begun,) = [line for line in second.log if line["event"] == "run started"]
    run = lab.run(run_id)
    assert (run.status, run.attempt, begun["resume_step"]) == ("finished", 2, 50)
    curve = lab.curve(run_id)
    assert [point[0] for point in curve] == list(range(1, STEPS + 1))
    assert curve[: len(before)] == before
    (left,) = s3.objects("runs")  # the resume checkpoints went with the run's end
    assert left.endswith(".final.safetensors")
    final = f"{s3.url('runs')}/{left}"
    assert lab.rows("select 1 from checkpoints where path = :path", path=final)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".log", ".json", ".safetensors"} <= {path.suffix for path in written}
    tables = lab.rows("select tablename from pg_tables where schemaname = 'public'")
    stored = "".join(str(lab.rows(f'select t::text from "{name}" t')) for (name,) in tables)
    assert final in stored
    for secret in (KEY, SECRET, TOKEN):
        assert secret not in stored
        assert [path for path in written if secret.encode() in path.read_bytes()] == []
