"""What nobody was prepared for ends a worker in good order, and with a status that says so.

Whoever restarts workers (Slurm, Kubernetes, systemd) goes by that status.
"""

import signal

import pytest

from app.storage import checkpoints
from tests.workers.lab import Lab, config

pytestmark = pytest.mark.faults

# A part of the worker that raises once the file LAB_BREAK is there.
BROKEN = """
import os
from {module} import {owner}
sound = {owner}.{name}
def broken(*arguments, **named):
    if os.path.exists(os.environ["LAB_BREAK"]):
        raise RuntimeError("something unheard of")
    return sound(*arguments, **named)
{owner}.{name} = broken
"""
QUEUE = "procrastinate.manager"
FETCH = BROKEN.format(module=QUEUE, owner="JobManager", name="fetch_job")
HEARTBEAT = BROKEN.format(module=QUEUE, owner="JobManager", name="update_heartbeat")
REAPER = BROKEN.format(module="workers.reaper", owner="Reaper", name="tick")


def assert_it_left_saying_why(worker) -> None:
    assert worker.wait() == 1
    why, *_ = [line for line in worker.log if line["event"] == "something failed that must not"]
    assert why["exception"].endswith("RuntimeError: something unheard of")
    last = worker.log[-1]
    assert (last["event"], last["level"]) == ("worker failed", "error")
    assert "something unheard of" in last["why"]


def test_a_worker_that_can_fetch_nothing_gives_its_run_back_and_fails(lab: Lab) -> None:
    lab.no_worker_dies()
    lab.env["LAB_BREAK"] = str(lab.folder / "break")
    lab.hold(60)
    run_id = lab.submit("given back", config(lab.corpus))
    with lab.worker("--concurrency", "2", first=FETCH) as worker:
        lab.wait(run_id, lambda run: run.step >= 60)
        (lab.folder / "break").touch()
        assert_it_left_saying_why(worker)
    run = lab.run(run_id)
    assert (run.status, run.failures, run.message) == ("queued", 0, "stopped with its worker")
    with lab.engine.connect() as connection:
        kept = checkpoints.latest(connection, run_id)
    assert kept is not None and kept.step == run.step


@pytest.mark.parametrize("broken", [HEARTBEAT, REAPER], ids=["heartbeat", "reaper"])
def test_half_a_worker_does_not_stay(lab: Lab, broken: str) -> None:
    lab.env["LAB_BREAK"] = str(lab.folder / "break")
    with lab.worker(first=broken) as worker:
        worker.ready()
        (lab.folder / "break").touch()
        assert_it_left_saying_why(worker)


# At its first attempt to begin there is no database, and it waits for seconds.
AWAY = """
import psycopg, workers.service
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager
workers.service.RETRY_SECONDS = 5
sound, refused = JobManager.prune_stalled_workers, []
async def away(*arguments):
    if len(refused) < 2:
        refused.append(True)
        raise ConnectorException from psycopg.OperationalError()
    return await sound(*arguments)
JobManager.prune_stalled_workers = away
"""


def test_an_order_to_end_is_heard_before_the_beginning(lab: Lab) -> None:
    """The queue's worker forgets an order that came before it began anew."""
    with lab.worker(first=AWAY) as worker:
        worker.wait_said(lambda line: line["event"] == "no contact with the database")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
