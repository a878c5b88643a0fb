"""Several GPUs for a run, several runs on a GPU, and a run in several processes under a worker.

Here are no GPUs: which of them a trainer sees is told by one that prints it, and the run in several
processes is trained on CPUs, over gloo.
"""

import os
import signal

import psutil
import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from tests.workers.lab import PATIENCE_SECONDS, STEPS, config
from workers.__main__ import TooFewGPUs, slots_of
from workers.attempt import Unstartable, count
from workers.proxy.launch import first_cause

FOUR = ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("arguments", "slots"),
    [
        (dict(gpus=FOUR), FOUR),
        (dict(gpus=FOUR, concurrency=6), [*FOUR, "0", "1"]),
        (dict(gpus=FOUR, gpus_per_run=4), ["0,1,2,3"]),
        (dict(gpus=FOUR, gpus_per_run=2), ["0,1", "2,3"]),
        (dict(gpus=FOUR, gpus_per_run=3), ["0,1,2"]),
        (dict(gpus=FOUR, gpus_per_run=2, concurrency=1), ["0,1"]),
        (dict(gpus=["0", "1"], runs_per_gpu=3), ["0", "1", "0", "1", "0", "1"]),
        (dict(gpus=["0", "1"], runs_per_gpu=3, concurrency=2), ["0", "1"]),
        (dict(gpus=[], concurrency=2), []),
    ],
)
def test_each_slot_has_its_gpus(arguments, slots):
    assert slots_of(**arguments) == slots


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(gpus=["0"], gpus_per_run=2), "--gpus-per-run is 2 and this worker has 1"),
        (dict(gpus=[], gpus_per_run=2), "--gpus-per-run is 2 and this worker has 0"),
        (dict(gpus=[], runs_per_gpu=2), "--runs-per-gpu is 2 and this worker has 0"),
        (dict(gpus=FOUR, gpus_per_run=2, concurrency=3), "--concurrency is 3"),
        (dict(gpus=FOUR, runs_per_gpu=2, concurrency=9), "--concurrency is 9"),
    ],
)
def test_more_gpus_than_there_are_cannot_be_given_away(arguments, said):
    with pytest.raises(TooFewGPUs, match=said):
        slots_of(**arguments)


@pytest.mark.parametrize("value", [0, -1, "2", 1.5, None])
def test_a_number_of_processes_that_is_none_is_refused_for_good(value):
    with pytest.raises(Unstartable, match="processes is"):
        count({"processes": value}, "processes")
    assert count({}, "processes") == 1


# Ends when as many as `start` files are wanted have begun: so they were there at the same time.
SHOWS = """#!/bin/sh
: > {folder}/begun-$$
while [ "$(ls {folder} | grep -c begun)" -lt {wanted} ]; do sleep 0.05; done
echo '{{"event": "end", "step": 0, "status": "finished", "message": "'$CUDA_VISIBLE_DEVICES'"}}'
"""


def trained_on(lab, arguments, runs, wanted):
    """The GPUs that each run saw, and what is said of the others, when a worker has drained."""
    folder = lab.folder / "begun"
    folder.mkdir()
    trainer = lab.folder / "shows.sh"
    trainer.write_text(SHOWS.format(folder=folder, wanted=wanted))
    trainer.chmod(0o755)
    ids = [lab.submit(f"{lab.folder.name} {i}", run) for i, run in enumerate(runs)]
    lab.env["CUDA_VISIBLE_DEVICES"] = "0,1"
    with lab.worker("--drain", "--trainer", str(trainer), *arguments) as worker:
        assert worker.wait() == 0
    return [(run.status, run.message) for run in map(lab.run, ids)]


def test_small_runs_share_each_gpu(lab):
    small = config(lab.corpus, device="cuda")
    seen = trained_on(lab, ["--runs-per-gpu", "2"], [small] * 4, wanted=4)
    assert sorted(seen) == [("finished", "0")] * 2 + [("finished", "1")] * 2


def test_a_large_run_has_several_gpus_and_too_large_a_one_is_left_to_others(lab):
    runs = [config(lab.corpus, device="cuda", processes=processes) for processes in (1, 2, 4)]
    seen = trained_on(lab, ["--gpus-per-run", "2"], runs, wanted=1)
    waits = "waits for a worker with 4 GPUs a run (--gpus-per-run 4)"
    assert seen == [("finished", "0"), ("finished", "0,1"), ("queued", waits)]
    (run,) = lab.rows("select attempt from runs where message = :waits", waits=waits)
    assert run.attempt == 0  # nobody has tried it
    assert lab.rows("select status::text from procrastinate_jobs") == [("todo",)]


def test_of_processes_that_failed_together_the_killed_one_is_named():
    """torchrun knows when a process failed to a second only."""
    failed = {rank: ProcessFailure(rank, 1, code, "") for rank, code in enumerate((1, -9, -15))}
    for failure in failed.values():
        failure.timestamp = 1000
    assert first_cause(ChildFailedError("train", failed))[0] == 1
    del failed[1]
    failed[2].timestamp = 1001
    assert first_cause(ChildFailedError("train", failed))[0] == 0


@pytest.mark.faults
def test_one_of_two_processes_is_killed_and_the_run_goes_on(lab, undisturbed):
    lab.no_worker_dies()
    steps = 300  # until `undisturbed` cools down
    together = config(
        lab.corpus,
        schedule={"kind": "constant", "steps": steps, "warmup_steps": 20},
        evaluate={"at_steps": [], "tokens": 2048},
        checkpoint={"every_steps": 25, "keep": 2},
        processes=2,
    )
    lab.hold(50)
    run_id = lab.submit("two processes", together)
    with lab.worker("--concurrency", "1", "--drain") as worker:
        lab.wait(run_id, lambda run: run.step >= 50)
        ranks = {each.environ().get("RANK"): each for each in worker.trainers}
        assert set(ranks) == {None, "0", "1"}  # the launcher, and what it has launched
        ranks["1"].kill()
        ranks["1"].wait(
            PATIENCE_SECONDS
        )  # torchrun has heard of it before the other process finds out
        lab.release()
        _, alive = psutil.wait_procs(ranks.values(), timeout=PATIENCE_SECONDS)
        assert not alive
        assert worker.wait() == 0
        closed = [line["message"] for line in worker.log if line["event"] == "run closed"]
    why = "the trainer failed with exit code 1: process 1 of 2 was killed by signal 9"
    assert closed == [why, ""]
    run = lab.run(run_id)
    assert (run.status, run.attempt, run.step) == ("finished", 2, steps)
    curve = lab.curve(run_id)
    assert [point[0] for point in curve] == list(range(1, steps + 1))
    # the same batches as one process, and its losses to rounding: 1e-5 nats a token
    for (step, tokens, loss, lr), alone in zip(curve, undisturbed, strict=False):
        assert (step, tokens, lr) == (alone[0], alone[1], alone[3])
        assert loss == pytest.approx(alone[2], abs=1e-5)
    (fingerprint,) = lab.rows("select fingerprint from runs where id = :id", id=run_id)[0]
    assert fingerprint["processes"] == 2


@pytest.mark.soak
@pytest.mark.faults
def test_processes_die_with_their_worker(lab):
    run_id = lab.submit("orphans", config(lab.corpus, steps=100_000, processes=2))
    with lab.worker("--concurrency", "1") as worker:
        lab.wait(run_id, lambda run: run.step >= 1)
        processes = worker.trainers
        assert len(processes) == 3
        os.kill(worker.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
        assert not alive
    assert 1 <= lab.run(run_id).step < STEPS * 100
