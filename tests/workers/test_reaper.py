"""What dead workers leave behind is taken back, and what only looks dead is left alone."""

import contextlib
import json
import queue as queues
import threading
import time

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from app.storage import projects, queue, reaping, recording, runs
from app.storage.engine import end_if_silent, make_engine
from app.storage.runs import NewRun
from tests.workers.lab import PATIENCE_SECONDS
from workers.lifecycle import ContactLost, LeaseLost
from workers.reaper import Reaper
from workers.recorder import Recorder


@pytest.fixture
def project(engine):
    with engine.begin() as connection:
        connection.execute(text("delete from procrastinate_jobs"))
        connection.execute(text("delete from procrastinate_workers"))
        connection.execute(text("delete from projects"))
        return projects.create(connection, "p").id


@pytest.fixture
def old_server(monkeypatch):
    """The server of the tests has just been started, which is a test of its own."""
    monkeypatch.setattr(reaping, "server_age_seconds", lambda connection: 1e9)


@pytest.fixture
def reaper(engine, settings, old_server):
    """Patient enough that a living worker stays one, however slow this machine is."""
    return Reaper(engine, settings.model_copy(update={"worker_timeout_seconds": 60.0}))


def run_of(engine, project, name="r", *, deferred=True, **columns):
    columns = {"status": "queued", **columns}
    with engine.begin() as connection:
        run_id = runs.create(connection, NewRun(project, name, **columns)).id
        if deferred and columns["status"] == "queued":
            queue.defer_train(connection, run_id)
    return run_id


def fetched(engine, heartbeat_seconds_ago):
    """The next delivery, taken by a worker that was last heard from so long ago."""
    with engine.begin() as connection:
        worker = connection.scalar(
            text(
                "insert into procrastinate_workers (last_heartbeat)"
                " values (now() - cast(:ago as float8) * interval '1 second') returning id"
            ),
            {"ago": heartbeat_seconds_ago},
        )
        return connection.scalar(
            text("select id from procrastinate_fetch_job_v2(array['train'], :worker)"),
            {"worker": worker},
        )


def deliveries(engine):
    with engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.execute(
                text(
                    "select cast(args ->> 'run_id' as bigint), status::text"
                    " from procrastinate_jobs order by id"
                )
            )
        ]


def claim(engine, run_id, heartbeat_seconds_ago):
    with engine.begin() as connection:
        attempt = recording.claim_run(connection, run_id, "w", lease_seconds=60)
        connection.execute(
            text(
                "update runs set heartbeat_at = now() - cast(:ago as float8) * interval '1 second'"
                " where id = :id"
            ),
            {"id": run_id, "ago": heartbeat_seconds_ago},
        )
    return attempt


def status(engine, run_id):
    with engine.connect() as connection:
        return runs.get(connection, run_id).status


def test_a_dead_worker_s_run_and_delivery_come_back_once(engine, project, reaper):
    run_id = run_of(engine, project)
    old = fetched(engine, 100)
    claim(engine, run_id, 100)
    done = reaper.tick()
    assert done.expired == (run_id,) and done.redelivered == 1
    assert status(engine, run_id) == "queued"
    assert set(deliveries(engine)) == {(run_id, "todo")}
    assert not reaper.tick()
    with engine.connect() as connection:  # the worker, should it wake up, finds its delivery gone
        gone = text("select count(*) from procrastinate_jobs where id = :id")
        assert connection.scalar(gone, {"id": old}) == 0


def test_a_living_worker_keeps_both(engine, project, reaper):
    run_id = run_of(engine, project)
    fetched(engine, 0)
    claim(engine, run_id, 0)
    assert not reaper.tick()
    assert status(engine, run_id) == "running"


def test_a_delivery_fetched_and_never_begun_comes_back(engine, project, reaper):
    run_id = run_of(engine, project)
    fetched(engine, 100)
    assert reaper.tick().redelivered == 1
    assert deliveries(engine) == [(run_id, "todo")]


def test_a_queued_run_without_a_delivery_gets_one(engine, project, reaper):
    run_id = run_of(engine, project, deferred=False)
    assert reaper.tick().orphans == (run_id,)
    assert deliveries(engine) == [(run_id, "todo")]
    assert not reaper.tick()


def test_a_run_that_kills_its_workers_does_not_do_so_for_ever(engine, project, reaper, settings):
    run_id = run_of(engine, project)
    for _ in range(settings.worker_max_failures):
        claim(engine, run_id, 100)
        assert reaper.tick().expired == (run_id,)
    claim(engine, run_id, 100)
    assert reaper.tick().given_up == (run_id,)
    assert status(engine, run_id) == "failed"


def test_branches_follow_their_trunk(engine, project, reaper):
    trunk = run_of(engine, project, "trunk", kind="trunk", status="finished")
    branch = {"kind": "branch", "status": "planned", "parent_run_id": trunk}
    ready = run_of(engine, project, "ready", parent_step=10, **branch)
    hopeless = run_of(engine, project, "hopeless", parent_step=20, **branch)
    going = run_of(engine, project, "going", kind="trunk", status="planned")
    waiting = run_of(
        engine,
        project,
        "waiting",
        kind="branch",
        status="planned",
        parent_run_id=going,
        parent_step=10,
    )
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into checkpoints (run_id, step, kind, path, sha256, bytes)"
                " values (:id, 10, 'branch', '/x', 'y', 1)"
            ),
            {"id": trunk},
        )
    done = reaper.tick()
    assert (done.branches, done.hopeless) == ((ready,), (hopeless,))
    assert deliveries(engine) == [(ready, "todo")]
    assert status(engine, waiting) == "planned"
    assert not reaper.tick()
    with engine.begin() as connection:  # the trunk is tried again, so its branch has hope
        connection.execute(
            text("update runs set status = 'running', heartbeat_at = now() where id = :id"),
            {"id": trunk},
        )
    assert reaper.tick().revived == (hopeless,)
    assert status(engine, hopeless) == "planned"


def test_only_one_reaps_at_a_time(engine, project, reaper):
    run_of(engine, project, deferred=False)
    with engine.begin() as connection:
        assert reaping.alone(connection)
        assert not reaper.tick()
    assert reaper.tick()


def test_nobody_is_dead_when_the_server_has_just_been_started(engine, project, settings):
    run_id = run_of(engine, project)
    claim(engine, run_id, 1e9)
    young = settings.model_copy(update={"worker_timeout_seconds": 5e8})
    assert not Reaper(engine, young).tick().expired
    assert status(engine, run_id) == "running"


@pytest.fixture
def clock(monkeypatch):
    """The reaper's clock, which moves when it is told to."""
    times = [1000.0]
    monkeypatch.setattr("workers.reaper.monotonic", lambda: times[-1])
    return times


def test_nobody_is_dead_just_after_an_outage(engine, project, reaper, monkeypatch, clock):
    run_id = run_of(engine, project)
    claim(engine, run_id, 100)
    with monkeypatch.context() as away:
        away.setattr(reaping, "alone", no_contact)
        assert not reaper.tick()
    clock.append(clock[-1] + 20)
    assert not reaper.tick().expired
    clock.append(clock[-1] + 20)
    assert not reaper.tick().expired
    assert status(engine, run_id) == "running"
    clock.append(clock[-1] + 20)
    assert reaper.tick().expired == (run_id,)


def no_contact(connection):
    raise DBAPIError("select", None, Exception("away"))


def test_nobody_is_dead_just_after_this_machine_slept(engine, project, reaper, clock):
    """Nor if it slept in the middle of the wait for the next pass, and not for long."""
    run_id = run_of(engine, project)
    claim(engine, run_id, 100)
    reaper.awake()
    clock.append(clock[-1] + 31)
    reaper.awake()
    assert not reaper.tick().expired
    for _ in range(2):
        clock.append(clock[-1] + 29)
        reaper.awake()
    assert not reaper.tick().expired
    clock.append(clock[-1] + 2)
    assert reaper.tick().expired == (run_id,)


def test_nobody_is_dead_when_the_database_was_slow_to_answer(
    engine, project, reaper, monkeypatch, clock
):
    run_id = run_of(engine, project)
    claim(engine, run_id, 100)

    def slow(connection):
        clock.append(clock[-1] + 31)
        return 1e9

    with monkeypatch.context() as away:
        away.setattr(reaping, "server_age_seconds", slow)
        assert not reaper.tick().expired
    assert status(engine, run_id) == "running"


# --- a worker that froze inside a transaction, and with it its locks ------------------------------


@pytest.fixture
def hasty(engine, settings, old_server):
    hasty = {"worker_timeout_seconds": 0.4, "worker_heartbeat_seconds": 0.2}
    return Reaper(engine, settings.model_copy(update=hasty))


@pytest.fixture
def frozen(settings):
    """A worker's connection, in whose transaction something was done."""
    engine = make_engine(settings)
    with engine.connect() as connection:
        yield connection
        with pytest.raises(DBAPIError) as gone:
            connection.execute(text("select 1"))
        assert gone.value.connection_invalidated  # the worker hears that it has lost contact
    engine.dispose()


def until(tick):
    """What the reaper did, once that was something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (done := tick()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return done


@pytest.mark.parametrize("where", ["between statements", "in a copy"])
def test_a_run_does_not_wait_for_the_transaction_of_a_frozen_worker(
    engine, project, hasty, frozen, where
):
    run_id = run_of(engine, project)
    attempt = claim(engine, run_id, 100)
    recording.record(frozen, run_id, attempt, recording.Batch(points=[(1, 1.0, 2.0, 0.1)]))
    with contextlib.ExitStack() as stack:
        if where == "in a copy":
            stack.enter_context(pytest.raises(psycopg.OperationalError))  # when it wakes
            stack.enter_context(frozen.connection.cursor().copy("copy metrics from stdin"))
        assert until(hasty.tick).expired == (run_id,)
    with engine.connect() as connection:  # what it had not committed is not there
        assert connection.scalar(text("select count(*) from curve_points")) == 0


def test_nobody_waits_for_a_worker_that_froze_while_it_claimed(engine, project, frozen):
    run_id = run_of(engine, project)
    with frozen.begin_nested():
        assert recording.claim_run(frozen, run_id, "frozen") == 1
    end_if_silent(frozen, 0.4)  # last, for between two statements we may be silent for longer
    assert claim(engine, run_id, 0) == 1  # it waits for the lock, and gets it


def test_nobody_waits_for_a_reaper_that_froze(engine, project, hasty, frozen):
    run_id = run_of(engine, project, deferred=False)
    assert reaping.alone(frozen)
    assert until(hasty.tick).orphans == (run_id,)


def test_a_long_transaction_that_nobody_waits_for_is_left_alone(engine, project, hasty):
    """A fit computes for minutes inside its transaction."""
    run_id = run_of(engine, project)
    claim(engine, run_id, 0)
    with engine.begin() as fitting:
        fitting.execute(text("select 1"))
        time.sleep(1)
        assert until(hasty.tick).expired == (run_id,)
        assert not hasty.tick()
        assert fitting.scalar(text("select 1")) == 1


def test_a_recorder_that_freezes_before_its_commit_writes_nothing_when_it_wakes(
    engine, project, hasty, settings
):
    run_id = run_of(engine, project)
    attempt = claim(engine, run_id, 100)
    own, mailbox = make_engine(settings), queues.SimpleQueue()
    frozen, thawed = threading.Event(), threading.Event()

    @event.listens_for(own, "commit")
    def freeze(connection):
        frozen.set()
        assert thawed.wait(PATIENCE_SECONDS)

    recorder = Recorder(own, run_id, attempt, {}, mailbox.put, flush_seconds=0.05)
    recorder.put(json.dumps({"event": "points", "points": [[1, 256, 2.5, 0.1]]}).encode())
    recorder.start()
    assert frozen.wait(PATIENCE_SECONDS)
    try:
        assert until(hasty.tick).expired == (run_id,)
        assert claim(engine, run_id, 0) == attempt + 1
    finally:
        thawed.set()
    assert isinstance(mailbox.get(timeout=PATIENCE_SECONDS), ContactLost)
    assert isinstance(mailbox.get(timeout=PATIENCE_SECONDS), LeaseLost)
    recorder.join(PATIENCE_SECONDS)
    own.dispose()
    with engine.connect() as connection:
        assert connection.scalar(text("select count(*) from curve_points")) == 0
        assert runs.get(connection, run_id).attempt == attempt + 1
