"""What dead workers leave behind is taken back, and what only looks dead is left alone."""

import time

import pytest
from sqlalchemy import text

from app.storage import projects, queue, reaping, recording, runs
from app.storage.runs import NewRun
from workers.reaper import Reaper

# The test server may be younger than the default timeout of 6 s.
TIMEOUT = {"worker_timeout_seconds": 1.0, "worker_heartbeat_seconds": 0.5, "reaper_seconds": 0.2}


@pytest.fixture
def project(engine):
    with engine.begin() as connection:
        connection.execute(text("delete from procrastinate_jobs"))
        connection.execute(text("delete from procrastinate_workers"))
        connection.execute(text("delete from projects"))
        while reaping.server_age_seconds(connection) < 1.2:
            time.sleep(0.1)
        return projects.create(connection, "p").id


@pytest.fixture
def reaper(engine, settings):
    return Reaper(engine, settings.model_copy(update=TIMEOUT))


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


def test_nobody_is_dead_just_after_an_outage(engine, project, reaper, settings, monkeypatch):
    run_id = run_of(engine, project)
    claim(engine, run_id, 100)
    young = settings.model_copy(update={"worker_timeout_seconds": 1e6})
    assert not Reaper(engine, young).tick().expired  # the server is younger than the timeout
    now = time.monotonic()
    monkeypatch.setattr("workers.reaper.time.monotonic", lambda: now)
    reaper._patient_until = now + 0.5  # as after an attempt that found no database
    assert not reaper.tick().expired
    assert status(engine, run_id) == "running"
    monkeypatch.setattr("workers.reaper.time.monotonic", lambda: now + 0.5)
    assert reaper.tick().expired == (run_id,)


def test_nobody_is_dead_just_after_this_machine_slept(engine, project, reaper, monkeypatch):
    reaper.tick()
    run_id = run_of(engine, project)
    claim(engine, run_id, 100)
    now = time.monotonic() + 60
    monkeypatch.setattr("workers.reaper.time.monotonic", lambda: now)
    assert not reaper.tick().expired
    monkeypatch.setattr("workers.reaper.time.monotonic", lambda: now + 1.1)
    assert reaper.tick().expired == (run_id,)
