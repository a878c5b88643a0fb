"""Workers, trainers and the database are killed under runs; every curve comes out as if not.

The reference is the trainer's own output, undisturbed. On one CPU and one thread training is exact,
so the curves are compared bit for bit.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import stat
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.settings import Settings
from app.storage import embedded, migrate
from app.storage.engine import make_engine
from tests.workers import storm
from tests.workers.lab import (
    MARK,
    PATIENCE_SECONDS,
    STEPS,
    Lab,
    WorkerProcess,
    config,
    freeze,
    thaw,
)

pytestmark = pytest.mark.faults

MIDDLE = STEPS // 4
SEEDS = [int(seed) for seed in os.environ.get("SOAK_SEED", "1").split(",")]


def attempts_of(lab: Lab, run_id: int) -> dict[int, int]:
    """How many points each attempt stored."""
    statement = (
        "select attempt, count(*) from curve_points where run_id = :id group by 1 order by 1"
    )
    return {attempt: count for attempt, count in lab.rows(statement, id=run_id)}


def test_a_killed_worker_s_run_goes_on_elsewhere(lab, undisturbed):
    lab.hold(MIDDLE)
    run_id = lab.submit("worker killed", config(lab.corpus))
    with lab.worker("--concurrency", "1") as first, lab.worker("--concurrency", "1") as second:
        first.ready()
        second.ready()
        lab.wait(run_id, lambda run: run.step >= MIDDLE)
        victim, heir = (first, second) if first.trainers else (second, first)
        (trainer,) = victim.trainers
        victim.send(signal.SIGKILL)
        killed = time.monotonic()
        trainer.wait(PATIENCE_SECONDS)  # it dies with its worker
        lab.release()
        lab.wait(run_id, lambda run: run.attempt == 2)
        print(f"taken over after {time.monotonic() - killed:.1f} s")
        run = lab.wait_ended(run_id)
        (begun,) = [line for line in heir.log if line["event"] == "run started"]
    assert (run.status, run.attempt, run.step) == ("finished", 2, STEPS)
    assert begun["resume_step"] == MIDDLE - 50  # it did not begin again
    assert lab.curve(run_id) == undisturbed
    assert list(attempts_of(lab, run_id)) == [1, 2]


def test_a_killed_trainer_is_started_again(lab, undisturbed):
    lab.no_worker_dies()
    lab.hold(MIDDLE)
    run_id = lab.submit("trainer killed", config(lab.corpus))
    with lab.worker("--concurrency", "1", "--drain") as worker:
        lab.wait(run_id, lambda run: run.step >= MIDDLE)
        (trainer,) = worker.trainers
        trainer.kill()
        lab.release()
        assert worker.wait() == 0  # it drained, the wait before the retry included
        closed = [line for line in worker.log if line["event"] == "run closed"]
    assert [(line["status"], line["message"]) for line in closed] == [
        ("queued", "the trainer was killed by signal 9"),
        ("finished", ""),
    ]
    assert lab.run(run_id).status == "finished"
    assert lab.run(run_id).failures == 0  # its new checkpoints made up for it
    assert lab.curve(run_id) == undisturbed


def test_a_zombie_writes_nothing_and_ends_its_trainer(lab, undisturbed):
    lab.hold(MIDDLE)
    run_id = lab.submit("zombie", config(lab.corpus))
    with lab.worker("--concurrency", "1") as first:
        lab.wait(run_id, lambda run: run.step >= MIDDLE)
        (trainer,) = first.trainers
        freeze(first, trainer)
        lab.release()
        with lab.worker("--concurrency", "1", "--drain") as second:
            lab.wait(run_id, lambda run: run.attempt == 2)
            before = attempts_of(lab, run_id).get(1)
            thaw(first, trainer)
            trainer.wait(PATIENCE_SECONDS)
            assert second.wait() == 0
        assert attempts_of(lab, run_id)[1] == before
        assert lab.run(run_id).status == "finished"
        assert lab.run(run_id).attempt == 2
        first.wait_said(lambda line: line.get("outcome") == "left to others")
        # the worker itself is well and takes the next run
        next_id = lab.submit("after the zombie", config(lab.corpus, **NO_COOLDOWN))
        assert lab.wait_ended(next_id).status == "finished"
        assert first.alive
    assert lab.curve(run_id) == undisturbed


NO_COOLDOWN = {"schedule": {"kind": "constant", "steps": 20}}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A Postgres of these tests' own, to be killed: as durable as it comes."""
    folder = Path(tempfile.mkdtemp(prefix="scalewright-test-"))
    folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    data = folder / "postgres"
    try:
        url = embedded.start_server(data).url("postgres")
        migrate.upgrade(url)
        yield data, Settings(data_dir=tmp_path_factory.mktemp("own"), database_url=url)
    finally:
        embedded.stop_server(data, immediately=True)
        shutil.rmtree(folder)


LEASE_SECONDS = 6  # of which a worker is to be heard from once Postgres is back


# longer than the lease; and away until the run has been trained to its end
@pytest.mark.parametrize("seconds", [LEASE_SECONDS + 1, pytest.param(60, marks=pytest.mark.soak)])
def test_postgres_is_killed_and_nothing_acknowledged_is_lost(
    own_server, corpus, tmp_path, undisturbed, seconds
):
    data, settings = own_server
    engine = make_engine(settings)
    lab = Lab(engine, settings, corpus, tmp_path)
    lab.hold(MIDDLE)
    lab.env["SCALEWRIGHT_WORKER_TIMEOUT_SECONDS"] = str(LEASE_SECONDS)
    run_id = lab.submit("postgres killed", config(corpus))
    with lab.worker("--concurrency", "1"):
        lab.wait(run_id, lambda run: run.step >= MIDDLE)
        acknowledged = lab.curve(run_id)
        server = embedded.running_server(data)
        assert server is not None
        os.kill(server.pid, signal.SIGKILL)
        killed = time.monotonic()
        lab.release()
        final = f"run-{run_id}/attempt-1/*.final.safetensors"
        while not list(settings.checkpoint_dir.glob(final)):  # it trains to its end meanwhile
            assert time.monotonic() < killed + PATIENCE_SECONDS
            time.sleep(0.05)
        time.sleep(max(0.0, killed + seconds - time.monotonic()))
        embedded.start_server(data)
        back = time.monotonic()
        assert lab.curve(run_id)[: len(acknowledged)] == acknowledged
        lab.wait_ended(run_id)
        print(f"finished {time.monotonic() - back:.1f} s after Postgres was back")
        # the worker hears of new work again
        next_id = lab.submit("after Postgres", config(corpus, **NO_COOLDOWN))
        assert lab.wait_ended(next_id).status == "finished"
    run = lab.run(run_id)
    assert (run.status, run.attempt) == ("finished", 1)  # training went on
    assert lab.curve(run_id) == undisturbed
    engine.dispose()


def sweep_of(**changes: Any) -> dict[str, Any]:
    """A trunk and two branches of 692 steps in all, a few milliseconds each."""
    return {
        "project": "lab",
        "name": "stormy",
        "corpora": {"train": [{"name": "code"}], "validation": ["code"]},
        "model": {"seq_len": 64, "vocab_size": 256, "head_dim": 8},
        "sizes": [{"d_model": 16, "n_layers": 1}],
        "budgets_flops": [4e9, 8e9],
        "schedule": {"kind": "wsd", "warmup_steps": 20, "cooldown_fraction": 0.25},
        "batch_tokens": 256,
        "min_steps": 100,
        "checkpoint_every_steps": 50,
        "evaluate": {"tokens": 2048},
        **changes,
    }


def test_a_sweep_survives_five_kills_of_every_kind(own_server, corpus, tmp_path):
    data, settings = own_server
    lab = Lab(make_engine(settings), settings, corpus, tmp_path)
    chance = random.Random(1)
    storm.survive(lab, data, sweep_of(), storm.each_once(chance, 5), chance)
    lab.engine.dispose()


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sweep_survives_fifty_kills_in_every_order(own_server, corpus, tmp_path, seed):
    """Two trunks and six branches; SOAK_SEED=7 repeats the seventh, or tries another."""
    data, settings = own_server
    lab = Lab(make_engine(settings), settings, corpus, tmp_path)
    chance = random.Random(seed)
    sweep = sweep_of(name=f"stormy {seed}", lrs=[3e-3, 6e-3], budgets_flops=[4e9, 8e9, 1.6e10])
    victims = storm.in_every_order(chance, 50)
    assert set(itertools.pairwise(victims)) == set(itertools.product(storm.VICTIMS, repeat=2))
    storm.survive(lab, data, sweep, victims, chance)
    lab.engine.dispose()


# A trainer that does nothing, in about a millisecond: what is left is the claiming.
NOTHING = """#!/bin/sh
echo '{"event": "end", "step": 0, "status": "finished", "message": ""}'
"""


def claim_all(lab: Lab, n_workers: int, n_runs: int) -> None:
    """No run is claimed twice, none is left, however many workers want them."""
    lab.no_worker_dies()
    trainer = lab.folder / "nothing.sh"
    trainer.write_text(NOTHING)
    trainer.chmod(0o755)
    arguments = ("--concurrency", "4", "--trainer", str(trainer))
    workers = [WorkerProcess(lab, *arguments) for _ in range(n_workers)]
    try:
        for worker in workers:  # else the first to be up might do it all
            worker.ready()
        ids = [
            lab.submit(f"claim {n_workers}.{i}", config(lab.corpus, **NO_COOLDOWN))
            for i in range(n_runs)
        ]
        for run_id in ids:
            lab.wait_ended(run_id)
        for worker in workers:
            worker.send(signal.SIGTERM)
        for worker in workers:
            assert worker.wait() == 0, worker.said[-3000:]
        logs = [worker.log for worker in workers]
    finally:
        for worker in workers:
            worker.end()
    begun = Counter(
        line["run_id"] for line in itertools.chain(*logs) if line["event"] == "run started"
    )
    assert begun == Counter(ids)
    shares = [sum(line["event"] == "run started" for line in log) for log in logs]
    print(f"claims per worker: {shares}")
    assert sum(share > 0 for share in shares) > 1  # there was a race to lose
    ended = lab.rows(
        "select status, attempt, count(*) from runs where id = any(:ids) group by 1, 2", ids=ids
    )
    assert [tuple(row) for row in ended] == [("finished", 1, n_runs)]


def test_no_run_is_claimed_twice(lab):
    claim_all(lab, n_workers=4, n_runs=200)


@pytest.mark.soak
def test_no_run_of_two_thousand_is_claimed_twice(lab):
    claim_all(lab, n_workers=16, n_runs=2000)


def test_nothing_is_left_running():
    """Of all that was killed above, no trainer survived, nor anything else."""

    def left() -> list[list[str]]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(os.getpid()):
                    found.append(process.cmdline())
        return found

    deadline = time.monotonic() + PATIENCE_SECONDS
    while left():  # what was killed last takes a moment to die
        assert time.monotonic() < deadline, left()
        time.sleep(0.1)
