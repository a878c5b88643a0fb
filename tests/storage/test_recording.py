"""The lease: what is written once, by whom, and what becomes of a run that is left alone."""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, text

from app.storage import recording, runs
from app.storage.errors import Conflict
from app.storage.recording import Batch, CheckpointLine, EvaluationLine
from tests.storage.conftest import make_run


def claim(connection: Connection, run: runs.Run, worker: str = "one") -> int:
    attempt = recording.claim_run(connection, run.id, worker)
    assert attempt is not None
    return attempt


def batch(first: int, last: int) -> Batch:
    steps = range(first, last + 1)
    return Batch(
        points=[(step, 1024.0 * step, 5.0 / step, 1e-3) for step in steps],
        metrics={"grad_norm": [(step, 0.5) for step in steps]},
        evaluations=[EvaluationLine(last, "code", 2.5, 1024.0 * last, 65536, 65536)],
        checkpoints=[CheckpointLine(last, "resume", "/c/1", "ab", 10)],
    )


def stored(connection: Connection, run: runs.Run) -> list[tuple[int, int]]:
    rows = connection.execute(
        text("select step, attempt from curve_points where run_id = :id order by step"),
        {"id": run.id},
    )
    return [(step, attempt) for step, attempt in rows]


def test_a_replayed_batch_stores_only_what_is_new(connection: Connection, run: runs.Run) -> None:
    attempt = claim(connection, run)
    first = recording.record(connection, run.id, attempt, batch(1, 10))
    assert first == recording.Recorded(True, False, 10, 10, 1, 1)
    again = recording.record(connection, run.id, attempt, batch(1, 10))
    assert again == recording.Recorded(True, False, 0, 0, 0, 0)
    more = recording.record(connection, run.id, attempt, batch(6, 15))
    assert more == recording.Recorded(True, False, 5, 5, 1, 1)
    assert [step for step, _ in stored(connection, run)] == list(range(1, 16))
    assert runs.get(connection, run.id).step == 15


def test_a_step_trained_again_keeps_its_first_value(connection: Connection, run: runs.Run) -> None:
    recording.record(
        connection, run.id, claim(connection, run), Batch(points=[(1, 1.0, 3.0, None)])
    )
    second = claim(connection, run, "two")
    recorded = recording.record(
        connection, run.id, second, Batch(points=[(1, 1.0, 3.5, None), (2, 2.0, 2.9, None)])
    )
    assert recorded.points == 1
    assert stored(connection, run) == [(1, 1), (2, 2)]
    loss = connection.scalar(
        text("select loss from curve_points where run_id = :id and step = 1"), {"id": run.id}
    )
    assert loss == 3.0


def long(first: int, last: int) -> Batch:
    """Enough rows for COPY; with losses that are not finite and figures that are not known."""
    small = batch(first, last)
    points = [
        (step, None if step % 7 == 0 else tokens, math.nan if step % 50 == 3 else loss, lr)
        for step, tokens, loss, lr in small.points
    ]
    metrics = {**small.metrics, "log_z": [(step, step / 3) for step in range(first, last + 1, 10)]}
    return Batch(points, metrics, small.evaluations, small.checkpoints)


def test_a_long_batch_is_stored_as_a_short_one_is(
    connection: Connection, run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_statement, statement = make_run(connection), (recording, "BULK_ROWS")
    outcomes = []
    for one, bulk in ((run, recording.BULK_ROWS), (by_statement, 10**9)):
        monkeypatch.setattr(*statement, bulk)
        attempt = claim(connection, one)
        batches = [long(1, 400), long(1, 400), long(301, 700), long(701, 1100), batch(1101, 1105)]
        outcomes.append([recording.record(connection, one.id, attempt, each) for each in batches])
    assert outcomes[0] == outcomes[1]
    assert [each.points for each in outcomes[0]] == [392, 0, 294, 392, 5]
    rows = "select {} from {} where run_id = :id order by 1, 2"
    for columns, table in (
        ("step, attempt, tokens, loss, lr", "curve_points"),
        ("name, step, value", "metrics"),
        ("validation_set, step, loss", "evaluations"),
        ("step, kind, path", "checkpoints"),
    ):
        asked = text(rows.format(columns, table))
        a, b = (connection.execute(asked, {"id": one.id}).all() for one in (run, by_statement))
        assert a == b and a
    assert runs.get(connection, run.id).step == runs.get(connection, by_statement.id).step == 1105


def test_a_zombie_s_long_batch_is_not_stored(connection: Connection, run: runs.Run) -> None:
    old = claim(connection, run)
    new = claim(connection, run, "two")
    assert not recording.record(connection, run.id, old, long(1, 400)).held
    assert stored(connection, run) == []
    # the second attempt resumed further back than the first had come: the first values stay
    recording.record(connection, run.id, new, long(1, 400))
    newer = claim(connection, run, "three")
    assert recording.record(connection, run.id, newer, long(201, 600)).points == 196
    assert {step: attempt for step, attempt in stored(connection, run)}[400] == new


def test_a_woken_zombie_writes_nothing(connection: Connection, run: runs.Run) -> None:
    old = claim(connection, run)
    recording.record(connection, run.id, old, batch(1, 5))
    new = claim(connection, run, "two")
    assert new == old + 1
    beat = runs.get(connection, run.id).heartbeat_at

    lost = recording.record(connection, run.id, old, batch(6, 9))
    assert lost == recording.Recorded(False, False, 0, 0, 0, 0)
    assert not recording.describe_run(connection, run.id, old, {"recipe": "zombie"})
    assert not recording.finish_run(connection, run.id, old)
    assert recording.fail_run(connection, run.id, old, "no", retry=True) is None
    assert recording.release_run(connection, run.id, old) is None

    after = runs.get(connection, run.id)
    assert (after.status, after.worker, after.step, after.recipe) == ("running", "two", 5, "")
    assert after.heartbeat_at == beat
    assert len(stored(connection, run)) == 5


def test_a_zombie_that_waits_for_the_claim_is_fenced_too(engine: Engine) -> None:
    with engine.begin() as connection:
        run = make_run(connection)
        old = claim(connection, run)

    def write() -> recording.Recorded:
        with engine.begin() as connection:
            return recording.record(connection, run.id, old, batch(1, 3))

    waits = text(
        "select count(*) from pg_locks where not granted and locktype = 'transactionid'"
        " and transactionid = pg_current_xact_id()::xid"
    )
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            claim(connection, run, "two")  # holds the row; the zombie's statement waits for it
            zombie = pool.submit(write)
            while not connection.scalar(waits) and not zombie.done():
                time.sleep(0.01)
            assert not zombie.done()
        assert zombie.result() == recording.Recorded(False, False, 0, 0, 0, 0)


def test_two_writers_of_one_attempt_store_each_step_once(engine: Engine) -> None:
    with engine.begin() as connection:
        run = make_run(connection)
        attempt = claim(connection, run)

    def write() -> int:
        stored = 0
        for first in range(1, 400, 20):
            with engine.begin() as connection:
                lines = batch(first, first + 19)
                stored += recording.record(connection, run.id, attempt, lines).points
        return stored

    with ThreadPoolExecutor(2) as pool:
        counts = [writer.result() for writer in [pool.submit(write) for _ in range(2)]]
    with engine.connect() as connection:
        assert [step for step, _ in stored(connection, run)] == list(range(1, 401))
    assert sum(counts) == 400


def test_losses_that_are_not_finite_are_left_out(connection: Connection, run: runs.Run) -> None:
    points = [(1, 1.0, 2.0, 0.1), (2, 2.0, math.nan, 0.1), (3, 3.0, math.inf, 0.1)]
    metrics = {"grad_norm": [(1, 1.0), (2, math.nan)]}
    recorded = recording.record(
        connection, run.id, claim(connection, run), Batch(points=points, metrics=metrics)
    )
    assert (recorded.points, recorded.metrics) == (1, 1)
    assert runs.get(connection, run.id).step == 3


def test_a_checkpoint_written_again_is_known_by_its_new_file(
    connection: Connection, run: runs.Run
) -> None:
    attempt = claim(connection, run)
    for sha256, fresh in (("aa", 1), ("bb", 0)):
        line = CheckpointLine(100, "branch", "/c/100", sha256, 7)
        recorded = recording.record(connection, run.id, attempt, Batch(checkpoints=[line]))
        assert recorded.checkpoints == fresh
    known = text("select sha256 from checkpoints where run_id = :id")
    assert connection.scalars(known, {"id": run.id}).all() == ["bb"]


def test_an_empty_batch_is_a_heartbeat(connection: Connection, run: runs.Run) -> None:
    attempt = claim(connection, run)
    before = runs.get(connection, run.id).heartbeat_at
    assert recording.record(connection, run.id, attempt, Batch()).held
    after = runs.get(connection, run.id).heartbeat_at
    assert before is not None and after is not None and after > before


def test_only_a_run_that_waits_is_claimed(connection: Connection) -> None:
    for status in ("planned", "finished", "failed", "cancelled", "diverged"):
        run = make_run(connection, status=status)
        assert recording.claim_run(connection, run.id, "one") is None
    assert recording.claim_run(connection, 10**9, "one") is None


def test_a_live_lease_is_not_taken_over_when_asked_not_to(
    connection: Connection, run: runs.Run
) -> None:
    claim(connection, run)
    assert recording.claim_run(connection, run.id, "two", lease_seconds=600) is None
    make_late(connection, run)
    assert recording.claim_run(connection, run.id, "two", lease_seconds=600) == 2


def test_the_trainers_facts_are_stored_and_nothing_else(
    connection: Connection, run: runs.Run
) -> None:
    attempt = claim(connection, run)
    facts = {"recipe": "abc", "n_total": 1e5, "flops_6nd": 6e11, "fingerprint": {"threads": 1}}
    assert recording.describe_run(connection, run.id, attempt, facts)
    found = runs.get(connection, run.id)
    assert (found.recipe, found.n_total, found.fingerprint) == ("abc", 1e5, {"threads": 1})
    with pytest.raises(ValueError, match="status"):
        recording.describe_run(connection, run.id, attempt, {"status": "finished"})


def test_finishing_twice_is_finishing_once(connection: Connection, run: runs.Run) -> None:
    attempt = claim(connection, run)
    assert recording.finish_run(connection, run.id, attempt)
    ended = runs.get(connection, run.id)
    assert (ended.status, ended.ended) == ("finished", True)
    assert recording.finish_run(connection, run.id, attempt)
    assert runs.get(connection, run.id) == ended
    assert not recording.record(connection, run.id, attempt, batch(1, 2)).held
    with pytest.raises(Conflict, match="has ended"):
        recording.request_stop(connection, run.id)


def test_failing_with_and_without_another_try(connection: Connection, run: runs.Run) -> None:
    attempt = claim(connection, run)
    assert recording.fail_run(connection, run.id, attempt, "out of memory", retry=True) == "queued"
    again = claim(connection, run)
    assert recording.fail_run(connection, run.id, again, "no such corpus", retry=False) == "failed"
    found = runs.get(connection, run.id)
    assert (found.failures, found.message) == (2, "no such corpus")
    runs.queue_again(connection, run.id)
    found = runs.get(connection, run.id)
    assert (found.status, found.failures, found.finished_at) == ("queued", 0, None)


def test_cancelling(connection: Connection) -> None:
    waiting, training = make_run(connection), make_run(connection)
    assert recording.request_stop(connection, waiting.id) == "cancelled"
    assert recording.claim_run(connection, waiting.id, "one") is None

    attempt = claim(connection, training)
    assert recording.request_stop(connection, training.id) == "running"
    assert recording.record(connection, training.id, attempt, batch(1, 2)).stop_requested
    assert recording.release_run(connection, training.id, attempt) == "cancelled"


def test_a_worker_that_shuts_down_gives_its_run_back(connection: Connection, run: runs.Run) -> None:
    attempt = claim(connection, run)
    assert recording.release_run(connection, run.id, attempt, "worker stopped") == "queued"
    found = runs.get(connection, run.id)
    assert (found.failures, found.finished_at) == (0, None)
    assert claim(connection, run) == attempt + 1


def make_late(connection: Connection, run: runs.Run) -> None:
    connection.execute(
        text("update runs set heartbeat_at = now() - interval '1 hour' where id = :id"),
        {"id": run.id},
    )


def test_runs_without_a_sign_of_life_are_taken_back(connection: Connection) -> None:
    alive, late, cancelled, hopeless = (make_run(connection) for _ in range(4))
    for run in (alive, late, cancelled, hopeless):
        claim(connection, run)
    recording.request_stop(connection, cancelled.id)
    connection.execute(text("update runs set failures = 3 where id = :id"), {"id": hopeless.id})
    for run in (late, cancelled, hopeless):
        make_late(connection, run)
    expired = recording.expire(connection, 600, max_failures=3)
    assert {(one.run_id, one.status) for one in expired} == {
        (late.id, "queued"),
        (cancelled.id, "cancelled"),
        (hopeless.id, "failed"),
    }
    assert recording.expire(connection, 600) == []
    assert runs.get(connection, alive.id).status == "running"
    assert "no word from worker one" in runs.get(connection, late.id).message
    assert claim(connection, late) == 2


def test_a_branch_is_ready_once_its_checkpoint_is_stored(connection: Connection) -> None:
    trunk = make_run(connection, kind="trunk")
    near, far = (
        make_run(
            connection,
            project_id=trunk.project_id,
            kind="branch",
            status="planned",
            parent_run_id=trunk.id,
            parent_step=step,
        )
        for step in (100, 200)
    )
    attempt = claim(connection, trunk)
    assert runs.queue_ready_children(connection, trunk.id) == []
    resume = CheckpointLine(200, "resume", "/r", "cc", 1)
    branch = CheckpointLine(100, "branch", "/b", "dd", 1)
    recording.record(connection, trunk.id, attempt, Batch(checkpoints=[resume, branch]))
    assert runs.queue_ready_children(connection, trunk.id) == [near.id]
    assert runs.queue_ready_children(connection, trunk.id) == []
    assert runs.get(connection, far.id).status == "planned"
