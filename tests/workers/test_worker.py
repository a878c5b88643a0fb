"""A worker process at its work: sweeps, refusals, divergence, cancelling, stopping."""

import json
import signal
import sysconfig
from pathlib import Path

import pytest
from sqlalchemy import event, text

from app.services import corpora
from app.storage import checkpoints, reaping, recording
from tests.workers.lab import STEPS, Lab, config


@pytest.fixture(scope="module")
def drained(engine, settings, corpus, tmp_path_factory):
    """A trunk with two branches and a run that goes on to other text, a run that is forecast, and
    two that cannot succeed; drained."""
    lab = Lab(engine, settings, corpus, tmp_path_factory.mktemp("drained"))
    lab.no_worker_dies()

    def wsd(steps: int) -> dict:
        return {
            "schedule": {"kind": "wsd", "steps": steps, "warmup_steps": 10, "cooldown_steps": 20},
            "evaluate": {"at_steps": [steps], "tokens": 2048},
        }

    trunk = config(
        corpus,
        schedule={"kind": "constant", "steps": 90, "warmup_steps": 10},
        evaluate={"at_steps": [], "tokens": 2048},
        checkpoint={"every_steps": 50, "branch_at_steps": [40, 80], "keep": 2},
    )
    ids = {"trunk": lab.submit("trunk", trunk, kind="trunk", cooled=False)}
    for step in (40, 80):
        ids[f"branch {step}"] = lab.submit(
            f"branch {step}",
            config(corpus, **wsd(step + 20)),
            kind="branch",
            status="planned",
            parent_run_id=ids["trunk"],
            parent_step=step,
        )
    # the trunk's model goes on to other text, with a quarter of its own replayed
    email = corpora.build(
        "email",
        [Path(sysconfig.get_paths()["stdlib"], "email")],
        lab.folder / "corpora",
        validation_fraction=0.1,
    )
    there = {"name": "email", "path": email["path"]}
    here = {"name": "code", "path": str(corpus)}
    ids["onward"] = lab.submit(
        "onward",
        config(
            corpus,
            data={
                "train": [{**there, "weight": 0.75}, {**here, "weight": 0.25}],
                "validation": [here, there],
            },
            schedule={"kind": "cosine", "steps": 60, "warmup_steps": 5},
            evaluate={"at_steps": [0, 60], "tokens": 2048},
            init={"kind": "continual", "momentum": "carry"},
            seed=4,
        ),
        kind="continual",
        status="planned",
        parent_run_id=ids["trunk"],
        parent_step=90,
    )
    ids["alone"] = lab.submit("alone", config(corpus, **wsd(60)))
    wrong = config(corpus)
    ids["poisoned"] = lab.submit("poisoned", {**wrong, "model": {**wrong["model"], "d_model": 17}})
    hot = {"optimizer": {"name": "adamw", "lr": 1e2, "clip": 0.0}}
    ids["hot"] = lab.submit("hot", config(corpus, **hot))
    barren = config(corpus, schedule={"kind": "constant", "steps": 30})
    ids["barren"] = lab.submit("barren trunk", barren, kind="trunk", cooled=False)
    ids["hopeless"] = lab.submit(
        "hopeless",
        config(corpus),
        kind="branch",
        status="planned",
        parent_run_id=ids["barren"],
        parent_step=40,
    )
    with engine.begin() as connection:
        forecast(connection, lab.project_id, ids["alone"])
    with lab.worker("--concurrency", "2", "--drain") as worker:
        assert worker.wait() == 0
        said = worker.said
        log = worker.log
    return lab, ids, log, said


def forecast(connection, project_id: int, run_id: int) -> None:
    fit_id = connection.scalar(
        text(
            "insert into fits (law, status, digest, request, document)"
            " values ('chinchilla', 'converged', '-', '{}', '{}') returning id"
        )
    )
    connection.execute(
        text(
            "insert into forecasts (project_id, fit_id, run_id, validation_set, inputs, level,"
            " loss, lower, upper, reach)"
            " values (:project_id, :fit_id, :run_id, 'code', '{}', .9, 2, 1, 3, '{}')"
        ),
        {"project_id": project_id, "fit_id": fit_id, "run_id": run_id},
    )


def test_a_run_finishes_with_everything_stored(drained):
    lab, ids, _, _ = drained
    run = lab.run(ids["alone"])
    assert (run.status, run.step, run.attempt, run.message) == ("finished", 60, 1, "")
    assert run.tokens == 60 * 256
    # 2 x 256 x 16 embedding and head, one block of width 16, and norms
    assert 2 * 256 * 16 < run.n_total < 20_000
    assert run.n_blocks_and_head == run.n_blocks + 256 * 16
    assert run.flops_exact > 0 and run.recipe and run.fingerprint["device"] == "cpu"
    assert [point[0] for point in lab.curve(run.id)] == list(range(1, 61))
    assert [point[1] for point in lab.curve(run.id)] == [256.0 * step for step in range(1, 61)]
    (evaluation,) = lab.rows("select * from evaluations where run_id = :id", id=run.id)
    assert (evaluation.step, evaluation.validation_set) == (60, "code")
    assert 1 < evaluation.loss < 5.545  # better than a uniform guess over 256 bytes, ln 256
    rolled = lab.rows("select count(*) from curve_rollups where run_id = :id", id=run.id)
    assert rolled[0][0] == 60
    names = {row[0] for row in lab.rows("select name from metrics where run_id = :id", id=run.id)}
    assert "grad_norm" in names


def test_its_forecast_is_scored(drained):
    lab, ids, _, _ = drained
    (row,) = lab.rows("select * from forecasts where run_id = :id", id=ids["alone"])
    (evaluation,) = lab.rows("select loss from evaluations where run_id = :id", id=ids["alone"])
    assert row.actual == evaluation.loss and row.scored_at is not None


def test_branches_go_on_from_their_trunk(drained):
    lab, ids, _, _ = drained
    assert lab.run(ids["trunk"]).status == "finished"
    trunk = dict((point[0], point) for point in lab.curve(ids["trunk"]))
    assert list(trunk) == list(range(1, 91))
    for step in (40, 80):
        run = lab.run(ids[f"branch {step}"])
        assert (run.status, run.step) == ("finished", step + 20)
        curve = lab.curve(run.id)
        assert [point[0] for point in curve] == list(range(step + 1, step + 21))
        # the same text and weights: at its first step the branch sees what the trunk saw
        assert curve[0][2] == trunk[step + 1][2]
        assert curve[-1][3] < 0.1 * trunk[step][3]  # and it cools down


def test_a_continual_run_takes_its_parent_s_model_to_other_text(drained):
    lab, ids, _, _ = drained
    run = lab.run(ids["onward"])
    assert (run.status, run.step, run.attempt) == ("finished", 60, 1), run.message
    statement = "select validation_set, step, loss from evaluations where run_id = :id"
    losses = {(row[0], row[1]): row[2] for row in lab.rows(statement, id=run.id)}
    trunk = {(row[0], row[1]): row[2] for row in lab.rows(statement, id=ids["trunk"])}
    assert losses["code", 0] == trunk["code", 90]  # it starts where its parent ended
    assert losses["email", 60] < losses["email", 0] - 0.1  # and learns what is new to it
    assert [point[0] for point in lab.curve(run.id)] == list(range(1, 61))
    assert run.recipe != lab.run(ids["trunk"]).recipe  # the two are never fitted together


def test_branches_start_before_their_trunk_has_ended(drained):
    lab, ids, log, _ = drained
    begun = {line["run_id"]: i for i, line in enumerate(log) if line["event"] == "run started"}
    ended = {line["run_id"]: i for i, line in enumerate(log) if line["event"] == "run closed"}
    queued = lab.rows(
        "select r.created_at, c.created_at as landed from runs r join checkpoints c"
        " on c.run_id = r.parent_run_id and c.step = r.parent_step and c.kind = 'branch'"
        " where r.id = :id",
        id=ids["branch 40"],
    )
    assert queued and begun[ids["branch 40"]] < ended[ids["branch 40"]]


def test_a_poisoned_configuration_fails_once_and_says_why(drained):
    lab, ids, log, _ = drained
    run = lab.run(ids["poisoned"])
    assert (run.status, run.attempt, run.failures) == ("failed", 1, 1)
    assert run.message.startswith("the trainer failed with exit code 2: error: ")
    assert "d_model 17" in run.message
    assert sum(line.get("run_id") == run.id and line["event"] == "run started" for line in log) == 1


def test_a_run_that_diverges_is_said_to_have_diverged(drained):
    lab, ids, _, _ = drained
    run = lab.run(ids["hot"])
    assert (run.status, run.attempt) == ("diverged", 1)
    assert run.message
    assert run.step < STEPS


def test_a_branch_whose_trunk_ended_without_its_checkpoint_does_not_wait_for_ever(drained):
    lab, ids, _, _ = drained
    run = lab.run(ids["hopeless"])
    assert run.status == "cancelled" and not run.stop_requested
    assert run.message == f"its trunk, run {ids['barren']}, finished before step 40"


def test_resume_checkpoints_of_finished_runs_are_cleared_away(drained):
    lab, ids, _, _ = drained
    folder = Path(lab.settings.checkpoint_dir) / f"run-{ids['trunk']}" / "attempt-1"
    left = sorted(path.name.split(".", 1)[1] for path in folder.glob("step-*"))
    assert left == ["branch.safetensors"] * 2 + ["final.safetensors"]


def test_the_log_is_json_and_holds_no_address(drained):
    lab, _, log, said = drained
    assert len(log) == len([line for line in said.splitlines() if line.strip()])
    assert "postgresql" not in said
    config_file = next(Path(lab.settings.checkpoint_dir).glob("run-*/attempt-1/config.json"))
    assert "postgresql" not in config_file.read_text()


def test_no_delivery_is_left(drained):
    lab, _, _, _ = drained
    assert lab.rows("select * from procrastinate_jobs") == []


def seconds_until_cancelled(lab: Lab, name: str) -> float:
    run_id = lab.submit(name, config(lab.corpus, steps=100_000))
    lab.wait(run_id, lambda run: run.step >= 50)
    with lab.engine.begin() as connection:
        recording.request_stop(connection, run_id)
        asked = connection.scalar(text("select clock_timestamp()"))
    run = lab.wait_ended(run_id)
    assert run.status == "cancelled"
    return (run.finished_at - asked).total_seconds()


def test_cancel_is_quick_and_a_stopping_worker_gives_its_run_back(lab, undisturbed):
    lab.no_worker_dies()
    with lab.worker("--concurrency", "1") as worker:
        # a machine that does something else for seconds is given another chance
        seconds = [seconds_until_cancelled(lab, "to be cancelled")]
        while min(seconds) >= 3 and len(seconds) < 4:
            seconds.append(seconds_until_cancelled(lab, f"to be cancelled {len(seconds)}"))
        print("cancelled after", *(f"{each:.1f} s" for each in seconds))
        assert min(seconds) < 3
        lab.hold(100)
        stopped = lab.submit("to be stopped", config(lab.corpus))
        lab.wait(stopped, lambda run: run.step >= 100)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    lab.release()
    run = lab.run(stopped)
    with lab.engine.connect() as connection:
        kept = checkpoints.latest(connection, stopped)
        points = len(lab.curve(stopped))
    assert (run.status, run.failures, run.message) == ("queued", 0, "stopped with its worker")
    assert kept is not None and kept.step == run.step == points  # nothing to be trained again
    with lab.worker("--drain") as worker:
        assert worker.wait() == 0
        (begun,) = [line for line in worker.log if line["event"] == "run started"]
    assert begun["resume_step"] == kept.step
    assert lab.run(stopped).status == "finished"
    assert lab.curve(stopped) == undisturbed


def test_a_draining_worker_waits_for_the_lease_of_a_dead_one(lab):
    schedule = {"kind": "constant", "steps": 20}
    run_id = lab.submit("orphan", config(lab.corpus, schedule=schedule))
    with lab.engine.begin() as connection:  # claimed by a worker that died before its delivery did
        assert recording.claim_run(connection, run_id, "dead", lease_seconds=60) == 1
        connection.execute(text("delete from procrastinate_jobs"))
    with lab.worker("--drain") as worker:
        assert worker.wait() == 0
    assert (lab.run(run_id).status, lab.run(run_id).attempt) == ("finished", 2)


NOTHING = """#!/bin/sh
echo '{"event": "end", "step": 0, "status": "finished", "message": ""}'
"""


def test_a_draining_worker_leaves_no_run_that_waits_for_nothing(lab):
    """Its trunk was the last to end, and the reaper's next regular look is an hour away."""
    lab.env["SCALEWRIGHT_REAPER_SECONDS"] = "3600"
    trainer = lab.folder / "nothing.sh"
    trainer.write_text(NOTHING)
    trainer.chmod(0o755)
    trunk = lab.submit("a trunk without checkpoints", config(lab.corpus), kind="trunk")
    waits = {"kind": "branch", "status": "planned", "parent_run_id": trunk, "parent_step": 40}
    branch = lab.submit("waits in vain", config(lab.corpus), **waits)
    with lab.worker("--drain", "--trainer", str(trainer)) as worker:
        assert worker.wait() == 0
    assert (lab.run(trunk).status, lab.run(branch).status) == ("finished", "cancelled")


def test_what_is_left_to_do_is_counted_in_one_look(lab):
    """A run that its dead worker still holds, and then its new delivery: never neither."""
    run_id = lab.submit("seen", config(lab.corpus))

    def left(*besides: int, queues=("train", "jobs")) -> int:
        with lab.engine.connect() as connection:
            return reaping.left_to_do(connection, queues, besides)

    assert (left(), left(run_id), left(queues=["jobs"])) == (1, 0, 0)
    with lab.engine.begin() as connection:
        assert recording.claim_run(connection, run_id, "dead") == 1
        connection.execute(text("delete from procrastinate_jobs"))
    assert (left(), left(run_id), left(queues=["jobs"])) == (1, 0, 0)
    with lab.engine.connect() as looking, looking.begin():
        statements: list[str] = []

        @event.listens_for(looking, "before_cursor_execute")
        def count(connection, cursor, statement, *rest):
            statements.append(statement)

        assert reaping.left_to_do(looking, ["train"]) == 1
        assert len(statements) == 1
    with lab.engine.begin() as connection:
        recording.request_stop(connection, run_id)
        assert [each.status for each in recording.expire(connection, 0.0)] == ["cancelled"]
    assert left() == 0


def test_a_job_is_done(lab):
    """A fit of made-up runs, as a job of the queue."""
    from app.services import jobs
    from app.services.fits import FitRequest

    N = [1e6, 1e6, 1e6, 1e7, 1e7, 1e7, 1e8, 1e8, 1e8]
    D = [1e8, 1e9, 1e10] * 3
    loss = [1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28 for n, d in zip(N, D, strict=True)]
    request = FitRequest(law="chinchilla", inputs={"N": N, "D": D}, loss=loss, draws=20)
    with lab.engine.begin() as connection:
        job = jobs.submit_fit(connection, request)
    with lab.worker("--queues", "jobs", "--drain") as worker:
        assert worker.wait() == 0
    (row,) = lab.rows("select * from jobs where id = :id", id=job.id)
    assert row.status == "finished", row.message
    (fit,) = lab.rows("select document from fits where id = :id", id=row.result["fit_id"])
    assert fit.document["params"]["alpha"] == pytest.approx(0.34, abs=1e-4)


@pytest.mark.parametrize(
    "arguments", [["--concurrency", "0"], ["--queues", "tran"], ["--queues", ","]]
)
def test_wrong_usage_is_refused(arguments, capsys):
    from workers.__main__ import parse

    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_passwords_are_cut_out_of_logs():
    from workers.logs import without_secrets

    event = {"a": "postgresql+psycopg://me:hunter2@db/x", "b": "password=hunter2 host=x", "n": 1}
    assert "hunter2" not in json.dumps(dict(without_secrets(None, "info", event)))
    assert event["a"] == "postgresql+psycopg://me:***@db/x"
