"""Sweeps: planned exactly, stored as runs, branches released by their trunk's checkpoint."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from app.api.schemas.sweeps import SweepIn
from app.errors import ServiceError
from app.services import forecasts, projects, runs, scheduling, sweeps
from app.services.estimates import REFERENCE_THROUGHPUT, Throughput, estimate
from app.services.run_config import flops_per_token, model_shape, parameter_counts
from app.services.sweep_plan import plan_run, plan_sweep
from app.settings import Settings
from app.storage import curves, recording
from app.storage.recording import Batch, CheckpointLine, EvaluationLine
from tests.services.conftest import SPEC
from workers.proxy.config import parse_config

PATHS = {"code": "/corpora/code", "english": "/corpora/english"}


def test_one_layer_counted_by_hand() -> None:
    """d = 32, 2 layers, f = 96, V = 256, T = 256, two heads of 16: by pencil.

    attention 4 d^2 = 4,096 and SwiGLU 3 d f = 9,216 a layer, gains 2 * 16 a layer; head and
    embedding V d = 8,192 each. Forward: 2 (2 * 13,312 + 8,192) + 2 layers * 2 d (T + 1) = 102,528.
    """
    shape = model_shape({"d_model": 32, "n_layers": 2, "head_dim": 16})
    assert shape["d_ff"] == 96
    assert parameter_counts(shape) == {
        "total": 2 * 13_344 + 2 * 8_192,
        "non_embedding": 2 * 13_344 + 8_192,
        "blocks": 2 * 13_344,
        "blocks_and_head": 2 * 13_344 + 8_192,
    }
    assert flops_per_token(shape)["exact"] == 3 * (2 * (2 * 13_312 + 8_192) + 2 * 2 * 32 * 257)


def test_trunks_branches_and_their_steps() -> None:
    plan = plan_sweep("ladder", SPEC, paths=PATHS)
    trunks = [run for run in plan.runs if run.kind == "trunk"]
    assert [run.name for run in trunks] == ["ladder/d32-L2-trunk", "ladder/d48-L2-trunk"]
    for run in plan.finals:
        # achieved FLOPs are within half a step of the budget
        per_step = run.flops["exact"] / run.steps
        assert run.budget_flops is not None
        assert abs(run.flops["exact"] - run.budget_flops) <= per_step / 2
        assert run.tokens == run.steps * 1024
        schedule = run.config["schedule"]
        assert schedule["cooldown_steps"] == round(0.2 * run.steps)
        assert run.parent_step == run.steps - schedule["cooldown_steps"]
        assert run.config["evaluate"]["at_steps"] == [run.steps]
    for trunk in trunks:
        children = [run for run in plan.finals if run.parent == trunk.name]
        starts = [run.parent_step for run in children]
        assert trunk.config["checkpoint"]["branch_at_steps"] == sorted(starts)
        assert trunk.steps == max(s for s in starts if s is not None)
        assert trunk.config["schedule"]["kind"] == "constant" and not trunk.cooled


def test_a_trunk_saves_what_its_branches_share() -> None:
    """Budgets x3.16 apart with 20% cool-down: 3.44 units instead of 4.58, 25% less."""
    budgets = [1e12, 10**12.5, 1e13]
    spec = {**SPEC, "sizes": [{"d_model": 32, "n_layers": 2}], "budgets_flops": budgets}
    plan = plan_sweep("s", spec, paths=PATHS)
    apart = sum(run.flops["exact"] for run in plan.finals)
    assert plan.total_flops / apart == pytest.approx(0.8 * 1e13 / sum(budgets) + 0.2, rel=1e-3)


def test_cells_that_are_too_short_are_skipped_with_the_reason() -> None:
    plan = plan_sweep("s", {**SPEC, "min_steps": 2000}, paths=PATHS)
    assert plan.skipped and all("fewer than 2000" in cell["reason"] for cell in plan.skipped)
    with pytest.raises(ServiceError, match="fewer than 100000000"):
        plan_sweep("s", {**SPEC, "min_steps": 100_000_000}, paths=PATHS)
    plan = plan_sweep("s", {**SPEC, "max_steps": 3000}, paths=PATHS)
    assert any(cell["reason"] == "more than 3000 steps" for cell in plan.skipped)
    assert max(run.steps for run in plan.runs) <= 3000


def test_the_demonstration_asks_for_enough_and_no_more() -> None:
    """12 points or more over 4 sizes and 3 budgets, and a target of 3 times the largest of them,
    of a size and (per run) a length that the points reach or nearly reach."""
    demo = json.loads((Path(__file__).parents[2] / "app" / "demo_sweep.json").read_text("utf-8"))
    plan = plan_sweep("demo", demo["sweep"], paths=PATHS)
    assert len(plan.finals) >= 12
    assert len({run.n["total"] for run in plan.finals}) >= 4
    assert len({run.budget_flops for run in plan.finals}) >= 3
    target = plan_run("target", demo["sweep"], demo["target"]["size"], paths=PATHS,
                      budget_flops=demo["target"]["budget_flops"])  # fmt: skip
    assert target.flops["exact"] >= 3 * max(run.flops["exact"] for run in plan.finals)
    assert target.n["total"] <= max(run.n["total"] for run in plan.finals)


def test_a_cosine_depends_on_its_length_so_each_cell_is_a_run_alone() -> None:
    spec = {**SPEC, "schedule": {"kind": "cosine", "warmup_steps": 50}}
    plan = plan_sweep("s", spec, paths=PATHS)
    assert {run.kind for run in plan.runs} == {"single"}
    assert all(run.cooled and run.parent is None for run in plan.runs)


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear", "step", "wsd-s"])
def test_what_the_api_takes_the_trainer_takes(kind: str) -> None:
    """Every planned run of a request with all that can be said of an optimizer is a configuration
    of the training process, with the same values."""
    optimizer = {"name": "adamw", "lr": 2e-3, "betas": [0.9, 0.99], "eps": 1e-9, "clip": 0.5,
                 "mup_base_d_model": 48, "base_n_layers": 2, "z_loss": 1e-4,
                 "weight_decay": 0.2, "momentum": 0.9}  # fmt: skip
    schedule = {"kind": kind, "warmup_steps": 20}
    request = {**SPEC, "optimizer": optimizer, "schedule": schedule, "deterministic": True}
    asked = SweepIn.model_validate({**request, "project": "demo", "name": "all"})
    plan = plan_sweep("all", asked.spec(), paths=PATHS)
    assert plan.runs
    for run in plan.runs:
        config = parse_config(run.config)
        assert asdict(config.optimizer) == {**optimizer, "betas": (0.9, 0.99)}
        assert config.deterministic and config.schedule.steps == run.steps


def test_more_than_one_epoch_is_said() -> None:
    plan = plan_sweep("s", SPEC, paths=PATHS, unique_tokens={"code": 1e6})
    assert "more_than_one_epoch" in {warning["code"] for warning in plan.warnings}


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"sizes": []}, "sizes"),
        ({"sizes": [{"d_model": 33, "n_layers": 2}]}, "head_dim"),
        ({"sizes": [{"d_model": 32, "n_layers": 0}]}, "n_layers"),
        ({"sizes": [{"d_model": 32, "n_layers": 2}] * 2}, "sizes"),
        ({"budgets_flops": []}, "budgets_flops"),
        ({"budgets_flops": [-1.0]}, "budgets_flops"),
        ({"budgets_flops": [float("inf")]}, "budgets_flops"),
        ({"budgets_flops": [1e12, 1.0001e12]}, "budgets_flops"),
        ({"budgets_flops": [1e40]}, "budgets_flops"),
        ({"schedule": {"kind": "wavy"}}, "schedule.kind"),
        ({"corpora": {"train": [], "validation": ["code"]}}, "corpora"),
        ({"evaluate": {"tokens": 4096, "at_steps": [10, 10**6]}}, "evaluate.at_steps"),
    ],
)
def test_a_spec_that_cannot_be_trained_names_the_field(
    change: dict[str, Any], column: str, with_corpora: Path, connection: Connection,
    settings: Settings,
) -> None:  # fmt: skip
    with pytest.raises(ServiceError) as refused:
        sweeps.plan(connection, settings, "s", {**SPEC, **change})
    assert refused.value.column == column


def test_time_is_shared_by_processes_and_bounded_by_the_longest_chain() -> None:
    plan = plan_sweep("s", SPEC, paths=PATHS)
    one, two, many = (estimate(plan, REFERENCE_THROUGHPUT, n) for n in (1, 2, 100))
    assert one.seconds == pytest.approx(one.run_seconds)
    assert one.run_seconds / 2 <= two.seconds <= one.seconds
    assert many.seconds <= two.seconds
    flat = estimate(plan, Throughput(((1e5, 1e9),), "measured"), 1)
    assert flat.run_seconds == pytest.approx(plan.total_flops / 1e9 + 4.0 * len(plan.runs))


def test_a_sweep_is_stored_queued_and_released_step_by_step(
    connection: Connection, settings: Settings, with_corpora: Path
) -> None:
    project = projects.create(connection, "released")
    sweep = sweeps.create(connection, settings, "released", "first", SPEC)
    stored = sweeps.runs_of(connection, sweep.id)
    assert sweep.progress.statuses == {"queued": 2, "planned": 6} and sweep.progress.finals == 6
    assert queued(connection) == {run.id for run in stored if run.kind == "trunk"}

    trunk = next(run for run in stored if run.kind == "trunk")
    branches = sorted(
        (run for run in stored if run.parent_run_id == trunk.id), key=lambda run: run.steps or 0
    )
    attempt = recording.claim_run(connection, trunk.id, "worker")
    assert attempt == 1
    first = branches[0]
    assert first.parent_step is not None
    line = CheckpointLine(first.parent_step, "branch", "/checkpoint", "00", 1)
    recording.record(connection, trunk.id, attempt, Batch(checkpoints=[line]))
    assert scheduling.checkpoint_landed(connection, trunk.id) == [first.id]
    assert scheduling.checkpoint_landed(connection, trunk.id) == []
    assert runs.get(connection, first.id).status == "queued"
    assert first.id in queued(connection)

    assert sweeps.get(connection, sweep.id).project_id == project.id
    ended = sweeps.cancel(connection, sweep.id)
    assert ended.progress.statuses == {"running": 1, "cancelled": 7}


def test_a_name_is_used_once(
    connection: Connection, settings: Settings, with_corpora: Path
) -> None:
    projects.create(connection, "once")
    sweeps.create(connection, settings, "once", "ladder", SPEC)
    with pytest.raises(ServiceError) as refused:
        sweeps.create(connection, settings, "once", "ladder", SPEC)
    assert refused.value.kind == "conflict"


def test_an_unknown_corpus_is_refused_with_what_there_is(
    connection: Connection, settings: Settings, with_corpora: Path
) -> None:
    spec = {**SPEC, "corpora": {"train": [{"name": "latin"}], "validation": ["code"]}}
    with pytest.raises(ServiceError, match="code, english"):
        sweeps.plan(connection, settings, "s", spec)


def test_one_run_takes_its_recipe_from_a_sweep_and_is_forecast_before_it_trains(
    connection: Connection, settings: Settings, with_corpora: Path
) -> None:
    from tests.services.test_forecasts import fit_of

    projects.create(connection, "target")
    sweep = sweeps.create(connection, settings, "target", "ladder", SPEC)
    run = runs.submit(
        connection, settings, "target", "large",
        {"sweep": sweep.id, "size": {"d_model": 64, "n_layers": 2}, "budget_flops": 1e13},
    )  # fmt: skip
    assert run.status == "queued" and run.kind == "single" and run.cooled
    assert run.config["optimizer"] == SPEC["optimizer"]
    assert run.flops_exact == pytest.approx(1e13, rel=1e-3)
    fit = fit_of(connection, "of target")
    made = forecasts.create(connection, fit.id, run_id=run.id, validation_set="code")
    assert made.made == "before_training" and made.inputs["D"] == run.tokens
    assert made.inputs["N"] == run.n_total

    attempt = recording.claim_run(connection, run.id, "worker")
    assert attempt is not None and run.steps is not None
    recording.record(
        connection, run.id, attempt,
        Batch(evaluations=[EvaluationLine(run.steps, "code", made.loss * 1.01)]),
    )  # fmt: skip
    recording.finish_run(connection, run.id, attempt)
    scheduling.ended(connection, run.id)
    scored = forecasts.get(connection, made.id)
    assert scored.actual == pytest.approx(made.loss * 1.01)
    assert scored.error == pytest.approx(1 / 1.01 - 1)
    scheduling.ended(connection, run.id)
    assert forecasts.get(connection, made.id) == scored


def queued(connection: Connection) -> set[int]:
    rows = connection.execute(
        text("select args ->> 'run_id' from procrastinate_jobs where task_name = 'train_run'")
    )
    return {int(run_id) for (run_id,) in rows}


def test_a_sweep_of_rates_and_repeats() -> None:
    spec = {**SPEC, "lrs": [3e-3, 6e-3], "repeat_seeds": [1, 2]}
    plan, alone = plan_sweep("s", spec, paths=PATHS), plan_sweep("s", SPEC, paths=PATHS)
    assert {run.config["optimizer"]["lr"] for run in plan.runs} == {3e-3, 6e-3}
    repeats = [run for run in plan.runs if run.config["seed"]]
    assert len(plan.runs) == 2 * len(alone.runs) + len(repeats)
    assert len(repeats) == 2 * 2 * 2  # sizes, rates, seeds
    for repeat in repeats:
        of_size = [run for run in plan.finals if run.n == repeat.n]
        assert repeat.steps == min(run.steps for run in of_size)
        (twin,) = [
            run
            for run in of_size
            if run.kind == "branch"
            and run.steps == repeat.steps
            and run.config["optimizer"] == repeat.config["optimizer"]
        ]
        assert repeat.config["schedule"] == twin.config["schedule"]
    with pytest.raises(ServiceError, match="own seed, 0"):
        plan_sweep("s", {**SPEC, "repeat_seeds": [0]}, paths=PATHS)


def test_seed_noise_is_the_pooled_deviation_of_repeats(
    connection: Connection, settings: Settings, with_corpora: Path
) -> None:
    projects.create(connection, "noise")
    spec = {**SPEC, "repeat_seeds": [1, 2]}
    sweep = sweeps.create(connection, settings, "noise", "s", spec)
    assert sweeps.seed_noise(connection, sweep.id) == []
    losses = {0: 2.00, 1: 2.02, 2: 2.07}  # of the narrow model; the wide one is 1 lower
    for run in sweeps.runs_of(connection, sweep.id):
        if run.cooled:
            loss = losses[run.seed or 0] - (run.config["model"]["d_model"] == 48)
            connection.execute(
                text("update runs set status = 'finished', recipe = 'r' where id = :id"),
                {"id": run.id},
            )
            connection.execute(
                text(
                    "insert into evaluations (run_id, validation_set, step, loss)"
                    " values (:id, 'code', :step, :loss)"
                ),
                {"id": run.id, "step": run.steps, "loss": loss},
            )
    (noise,) = sweeps.seed_noise(connection, sweep.id)
    # both groups have the variance of (0, .02, .07): .0013
    assert noise.sd == pytest.approx(0.0013**0.5)
    assert (noise.degrees_of_freedom, noise.runs, noise.groups) == (4, 6, 2)
    # chi squared of 4 at 5% and 95%, from a table: 0.711 and 9.488
    assert noise.lower == pytest.approx(noise.sd * (4 / 9.488) ** 0.5, rel=1e-3)
    assert noise.upper == pytest.approx(noise.sd * (4 / 0.711) ** 0.5, rel=1e-3)


def test_rate_sensitivity_is_that_of_the_124m_runs(
    connection: Connection, settings: Settings, with_corpora: Path
) -> None:
    """Five real rates (124M, 50k steps): .0267; a sixth, whose trunk diverged, counts ln 256."""
    projects.create(connection, "rates")
    finals = {1e-4: 3.0646, 5e-4: 2.9714, 1e-3: 2.9677, 2e-3: 2.9742, 3e-3: 2.9941}
    one_size = {**SPEC, "sizes": SPEC["sizes"][:1]}
    spec = {**one_size, "lrs": [*finals, 5e-3]}
    sweep = sweeps.create(connection, settings, "rates", "s", spec)
    assert sweeps.rate_sensitivity(connection, sweep.id) == []

    def end(run_id: int, status: str) -> None:
        connection.execute(
            text("update runs set status = :status where id = :id"),
            {"id": run_id, "status": status},
        )

    for run in sweeps.runs_of(connection, sweep.id):
        lr = run.config["optimizer"]["lr"]
        if run.kind == "trunk":
            connection.execute(
                text("insert into curve_points (run_id, step, loss) values (:id, 1, :loss)"),
                {"id": run.id, "loss": math.log(256)},
            )
            end(run.id, "finished" if lr in finals else "diverged")
        elif lr in finals:
            connection.execute(
                text(
                    "insert into evaluations (run_id, validation_set, step, loss)"
                    " values (:id, 'code', :step, :loss)"
                ),
                {"id": run.id, "step": run.steps, "loss": finals[lr]},
            )
            end(run.id, "finished")
        curves.roll_up(connection, run.id)
    connection.execute(  # as a large database may let go of the points of finished runs
        text("delete from curve_points where run_id in (select id from runs where kind = 'trunk')")
    )
    found = sweeps.rate_sensitivity(connection, sweep.id)
    assert found  # of each length
    for each in found:
        assert (each.best_lr, each.n_rates, each.diverged, each.edge) == (1e-3, 6, 1, False)
        lost = (5 * 0.0267 + math.log(256) - 2.9677) / 6
        assert each.value == pytest.approx(lost, abs=1e-4)
