"""Lines into the database: in order, once, fenced; and what cannot be stored is said."""

import json
import queue as queues
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app.storage import projects, recording, runs
from app.storage.queue import depth
from app.storage.runs import NewRun
from tests.workers.lab import PATIENCE_SECONDS
from workers.lifecycle import Close, Closed, LeaseLost, LinesRefused, Recorded
from workers.recorder import Recorder, Spool, parse

CONFIG = {"schedule": {"steps": 100}, "batch_tokens": 256}
START = {
    "event": "start",
    "step": 0,
    "recipe": "abc",
    "params": {"total": 10, "non_embedding": 8, "blocks": 6, "blocks_and_head": 7},
    "flops_per_token": {"exact": 61, "6nd": 60, "palm": 62},
    "fingerprint": {"device": "cpu"},
    "corpus_digest": "d",
    "unique_tokens": 1000,
}


def points(*steps: int) -> dict:
    rows = [[step, 256 * step, 5.0 / step, 0.1] for step in steps]
    return {"event": "points", "points": rows, "metrics": {"grad_norm": [[steps[0], 1.5]]}}


@given(st.lists(st.one_of(st.binary(max_size=9), st.integers(1, 5)), max_size=60))
def test_a_spool_is_a_queue_wherever_its_lines_lie(moves):
    """Against a plain deque; a memory of 20 bytes makes most lines go through the file."""
    spool, plain = Spool(memory_bytes=20), deque()
    for move in moves:
        if isinstance(move, bytes):
            line = move.replace(b"\n", b"")
            spool.put(line)
            plain.append(line)
        else:
            expected = [plain.popleft() for _ in range(min(move, len(plain)))]
            taken = spool.take(move)
            taken += spool.take(move - len(taken))
            assert taken == expected
        assert len(spool) == len(plain)


def test_lines_become_rows():
    parsed = parse([START, points(1, 2), {"event": "news"}], CONFIG)
    assert parsed.batch.points == [(1, 256.0, 5.0, 0.1), (2, 512.0, 2.5, 0.1)]
    assert parsed.batch.metrics == {"grad_norm": [(1, 1.5)]}
    assert parsed.facts["tokens"] == 25_600 and parsed.facts["flops_exact"] == 61 * 25_600
    assert parsed.facts["n_blocks_and_head"] == 7


@pytest.fixture
def claimed(engine):
    """A run that is ours: (id, attempt)."""
    with engine.begin() as connection:
        name = f"p{connection.scalar(text('select count(*) from projects'))}"
        project = projects.create(connection, name)
        run = runs.create(connection, NewRun(project.id, "r", status="queued", config=CONFIG))
        attempt = recording.claim_run(connection, run.id, "here", lease_seconds=60)
    return run.id, attempt


@pytest.fixture
def recorder(engine, claimed):
    mailbox = queues.SimpleQueue()
    recorder = Recorder(engine, *claimed, CONFIG, mailbox.put, flush_seconds=0.05)
    yield recorder, mailbox
    recorder.abandon()
    if recorder.ident is not None:
        recorder.join(PATIENCE_SECONDS)
        assert not recorder.is_alive()


def wait_for(mailbox, kind):
    while True:
        event = mailbox.get(timeout=PATIENCE_SECONDS)
        if isinstance(event, kind):
            return event


def put(recorder, *lines):
    for line in lines:
        recorder.put(json.dumps(line).encode())


def stored(engine, run_id):
    with engine.connect() as connection:
        return list(
            connection.scalars(
                text("select step from curve_points where run_id = :id order by step"),
                {"id": run_id},
            )
        )


def test_lines_and_the_end_arrive_in_order(engine, claimed, recorder):
    recorder, mailbox = recorder
    put(recorder, START, *[points(step) for step in range(1, 501)], points(500))
    recorder.start()
    recorder.close(Close("finished"))
    wait_for(mailbox, Closed)
    assert stored(engine, claimed[0]) == list(range(1, 501))
    with engine.connect() as connection:
        run = runs.get(connection, claimed[0])
    assert (run.status, run.step, run.recipe, run.n_blocks) == ("finished", 500, "abc", 6)


def test_without_lines_it_is_a_heartbeat_that_hears_of_a_cancel(engine, claimed, recorder):
    recorder, mailbox = recorder
    recorder.start()
    assert not wait_for(mailbox, Recorded).stop_requested
    with engine.begin() as connection:
        recording.request_stop(connection, claimed[0])
    while not wait_for(mailbox, Recorded).stop_requested:
        pass
    recorder.close(Close("cancelled", "cancelled on request"))
    wait_for(mailbox, Closed)
    with engine.connect() as connection:
        assert runs.get(connection, claimed[0]).status == "cancelled"


def test_an_old_attempt_writes_nothing(engine, claimed, recorder):
    recorder, mailbox = recorder
    with engine.begin() as connection:
        assert recording.claim_run(connection, claimed[0], "elsewhere", lease_seconds=0) == 2
    put(recorder, points(1))
    recorder.close(Close("failed", "x", failed=True))
    recorder.start()
    wait_for(mailbox, LeaseLost)
    recorder.join(PATIENCE_SECONDS)
    assert stored(engine, claimed[0]) == []
    with engine.connect() as connection:
        assert runs.get(connection, claimed[0]).status == "running"


@pytest.mark.parametrize(
    "line",
    [
        {"event": "points", "points": [[1, 2]]},
        {"event": "points", "points": [[1, 2, "high", 4]]},
        {"event": "points", "points": [[2**70, 2, 3, 4]]},
        {"event": "checkpoint", "step": 1, "kind": "odd", "path": "x", "sha256": "y", "bytes": 1},
        {"event": "start"},
    ],
)
def test_what_cannot_be_stored_is_refused_and_the_end_is_stored(engine, claimed, recorder, line):
    recorder, mailbox = recorder
    put(recorder, line)
    recorder.start()
    refused = wait_for(mailbox, LinesRefused)
    assert refused.message.startswith("what the trainer printed cannot be stored: ")
    recorder.close(Close("failed", refused.message, failed=True))
    wait_for(mailbox, Closed)
    with engine.connect() as connection:
        run = runs.get(connection, claimed[0])
    assert (run.status, run.message) == ("failed", refused.message)


def test_a_run_to_be_tried_again_is_deferred_for_later(engine, claimed, recorder):
    recorder, mailbox = recorder
    with engine.connect() as connection:
        before = depth(connection).get(("train", "todo"), 0)
    recorder.close(Close("queued", "boom", failed=True, delay_seconds=3600))
    recorder.start()
    wait_for(mailbox, Closed)
    with engine.connect() as connection:
        run = runs.get(connection, claimed[0])
        assert (run.status, run.failures, run.message) == ("queued", 1, "boom")
        assert depth(connection)[("train", "todo")] == before + 1
        wait = connection.scalar(
            text(
                "select extract(epoch from scheduled_at - now()) from procrastinate_jobs"
                " order by id desc limit 1"
            )
        )
    assert 3500 < wait <= 3600


def test_a_checkpoint_forgives_failures(engine, claimed, recorder):
    recorder, mailbox = recorder
    with engine.begin() as connection:
        connection.execute(text("update runs set failures = 2 where id = :id"), {"id": claimed[0]})
    path = {"path": "/x", "sha256": "y", "bytes": 1}
    put(recorder, {"event": "checkpoint", "step": 7, "kind": "resume", **path})
    recorder.start()
    wait_for(mailbox, Recorded)
    with engine.connect() as connection:
        assert runs.get(connection, claimed[0]).failures == 0
