"""Projects, runs, sweeps, jobs, fits, forecasts, keys: what each function promises."""

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, text

from app.storage import (
    checkpoints,
    evaluations,
    fits,
    fitted,
    forecasts,
    idempotency,
    imports,
    jobs,
    keys,
    predictions,
    projects,
    recording,
    runs,
    sweeps,
)
from app.storage.errors import Conflict, NotFound
from app.storage.recording import Batch, CheckpointLine, EvaluationLine
from tests.storage.conftest import make_run


def test_a_project_is_named_once(connection: Connection) -> None:
    made = projects.create(connection, "alpha", "first")
    assert projects.get(connection, made.id) == made == projects.ensure(connection, "alpha")
    assert projects.ensure(connection, "beta").id != made.id
    with pytest.raises(Conflict, match="'alpha'"):
        projects.create(connection, "alpha")
    assert projects.find_by_name(connection, "gamma") is None
    with pytest.raises(NotFound, match="gamma"):
        projects.get_by_name(connection, "gamma")


def test_pages_hold_every_row_once_while_rows_are_added(connection: Connection) -> None:
    project = projects.create(connection, "paged")
    for number in range(7):
        make_run(connection, project_id=project.id, name=f"r{number}")
    seen: list[str] = []
    after = None
    while True:
        page = runs.page(connection, project_id=project.id, after=after, limit=3)
        seen += [run.name for run in page.items]
        make_run(connection, project_id=project.id)
        after = page.next
        if after is None:
            break
    assert seen == [f"r{number}" for number in reversed(range(7))]
    assert runs.page(connection, project_id=project.id, status="failed").items == []


def test_runs_are_made_all_or_none(connection: Connection) -> None:
    project = projects.create(connection, "many")
    rows = [runs.NewRun(project.id, f"r{number}", n_total=1e9 * number) for number in range(5)]
    ids = runs.create_many(connection, rows)
    assert [runs.get(connection, run_id).name for run_id in ids] == [row.name for row in rows]
    for clash in ([runs.NewRun(project.id, "new"), rows[2]], [runs.NewRun(project.id, "new")] * 2):
        with pytest.raises(Conflict, match="name"), connection.begin_nested():
            runs.create_many(connection, clash)
    assert {runs.get(connection, run_id).status for run_id in ids} == {"planned"}
    assert runs.queue_planned(connection, ids[:2]) == ids[:2]
    assert runs.queue_planned(connection, ids[:2]) == []
    with pytest.raises(Conflict, match="is queued"):
        runs.queue_again(connection, ids[0])


def test_a_running_run_is_not_removed(connection: Connection) -> None:
    run = make_run(connection)
    recording.claim_run(connection, run.id, "one")
    with pytest.raises(Conflict, match="running"):
        runs.remove(connection, run.id)
    recording.finish_run(connection, run.id, 1)
    runs.remove(connection, run.id)
    with pytest.raises(NotFound):
        runs.remove(connection, run.id)


def test_a_sweep_knows_how_far_it_is(connection: Connection) -> None:
    project = projects.create(connection, "swept")
    sweep = sweeps.create(connection, project.id, "first", {"sizes": []})
    with pytest.raises(Conflict):
        sweeps.create(connection, project.id, "first", {})
    common = {"project_id": project.id, "sweep_id": sweep.id, "steps": 100}
    trunk = make_run(connection, kind="trunk", flops_exact=100.0, **common)
    make_run(
        connection, kind="branch", status="planned", flops_exact=100.0,
        parent_run_id=trunk.id, parent_step=80, **common,
    )  # fmt: skip
    make_run(connection, status="failed", step=10, flops_6nd=100.0, **common)
    recording.claim_run(connection, trunk.id, "one")
    recording.record(connection, trunk.id, 1, Batch(points=[(50, None, 2.0, None)]))
    # trunk half way: 50; the branch's own part is a fifth: 20; the failed one stays at its 10
    progress = sweeps.progress(connection, sweep.id)
    assert progress.runs == {"running": 1, "planned": 1, "failed": 1}
    assert progress.flops_done == pytest.approx(60.0)
    assert progress.flops_planned == pytest.approx(130.0)
    assert [run.kind for run in runs.of_sweep(connection, sweep.id)][:2] == ["trunk", "branch"]
    assert sweeps.page(connection, project_id=project.id).items == [sweep]


def test_a_job_is_fenced_like_a_run(connection: Connection) -> None:
    job = jobs.create(connection, "fit", {"law": "chinchilla"})
    assert jobs.claim(connection, job.id) == 1
    assert jobs.claim(connection, job.id) == 2
    assert jobs.report(connection, job.id, 1, 0.5) == jobs.Held(False, False)
    assert not jobs.end(connection, job.id, 1, "finished")
    assert jobs.report(connection, job.id, 2, 0.5, "half") == jobs.Held(True, False)
    assert jobs.request_stop(connection, job.id) == "running"
    assert jobs.report(connection, job.id, 2, 0.6).stop_requested
    assert jobs.end(connection, job.id, 2, "finished", result={"fit_id": 1})
    ended = jobs.get(connection, job.id)
    assert (ended.status, ended.progress, ended.result) == ("finished", 1.0, {"fit_id": 1})
    assert jobs.claim(connection, job.id) is None
    with pytest.raises(Conflict, match="finished already"):
        jobs.request_stop(connection, job.id)
    waiting = jobs.create(connection, "fit", {})
    assert jobs.request_stop(connection, waiting.id) == "cancelled"
    assert jobs.page(connection, status="cancelled").items[0].id == waiting.id


def evaluated(connection: Connection, loss: float | None, step: int = 100, **given: object) -> int:
    """A finished run of 100 steps with one evaluation."""
    defaults = {
        "status": "finished", "steps": 100, "n_total": 1e6, "tokens": 2e7, "recipe": "a",
    }  # fmt: skip
    run = make_run(connection, **{**defaults, **given})
    if loss is not None:
        evaluations.add(connection, [(run.id, EvaluationLine(step, "code", loss))])
    return run.id


def test_points_for_a_fit_are_the_last_losses_of_finished_cooled_runs(
    connection: Connection,
) -> None:
    project = projects.create(connection, "fitted").id
    good = evaluated(connection, 2.5, project_id=project, n_blocks=5e5, flops_exact=1.3e14)
    evaluations.add(connection, [(good, EvaluationLine(50, "code", 9.0))])
    evaluations.add(connection, [(good, EvaluationLine(100, "english", 8.0))])
    uncooled = evaluated(connection, 2.9, project_id=project, cooled=False)
    other = evaluated(connection, 2.4, project_id=project, recipe="b", steps=None)
    early = evaluated(connection, 2.6, step=90, project_id=project)
    blind = evaluated(connection, None, project_id=project)
    evaluated(connection, 2.6, project_id=project, status="running")
    evaluated(connection, 2.6)  # another project

    selection = fits.select_points(connection, project, "code")
    assert selection.points.run_id.tolist() == [good, other]
    point = selection.points
    assert (point.N[0], point.D[0], point.loss[0], point.flops_exact[0]) == (1e6, 2e7, 2.5, 1.3e14)
    assert np.isnan(point.flops_exact[1]) and point.recipe == ("a", "b")
    assert {left.run_id: left.reason for left in selection.left_out} == {
        early: "its last evaluation is at step 90 of 100",
        blind: "it was not evaluated on 'code'",
    }

    def chosen(**select: object) -> list[int]:
        found = fits.select_points(connection, project, "code", select)
        return list(found.points.run_id)

    assert chosen(recipe="b") == [other]
    assert chosen(cooled=False) == [uncooled]
    assert chosen(cooled=None) == [good, uncooled, other]
    assert chosen(min_steps=101) == [other]
    assert chosen(run_ids=[good, blind]) == [good]

    blocks = fits.select_points(connection, project, "code", n_convention="blocks")
    assert blocks.points.N.tolist() == [5e5]
    assert "'blocks'" in blocks.left_out[0].reason
    with pytest.raises(ValueError, match="colour"):
        fits.select_points(connection, project, "code", {"colour": "red"})
    with pytest.raises(ValueError, match="n_convention"):
        fits.select_points(connection, project, "code", n_convention="N")


def make_fit(connection: Connection, project_id: int | None = None) -> fits.StoredFit:
    return fits.create(
        connection, law="chinchilla", status="converged", digest="d", request={"law": "chinchilla"},
        document={"params": {"E": 1.69}}, project_id=project_id, run_ids=[1, 2],
    )  # fmt: skip


def test_fits_and_predictions_are_kept(connection: Connection) -> None:
    fit = make_fit(connection)
    assert fits.get(connection, fit.id) == fit and fit.run_ids == [1, 2]
    assert fits.page(connection, law="kaplan").items == []
    made = predictions.create(connection, fit.id, {"N": 1e9}, {"loss": 2.0})
    assert predictions.get(connection, made.id) == made
    assert predictions.page(connection, fit_id=fit.id).items == [made]


def make_forecast(connection: Connection, project: int, run: int | None) -> forecasts.Forecast:
    return forecasts.create(
        connection, project_id=project, fit_id=make_fit(connection, project).id,
        validation_set="code", loss_unit="nats/token", inputs={"N": 1e6, "D": 2e7}, level=0.9,
        loss=2.5, lower=2.4, upper=2.6, reach={"N": 1.0}, compute_ratio=3.2, run_id=run,
    )  # fmt: skip


def test_a_forecast_is_scored_once_when_its_run_lands(connection: Connection) -> None:
    run = make_run(connection, steps=100)
    forecast = make_forecast(connection, run.project_id, run.id)
    assert forecast.inside is None and forecasts.score_run(connection, run.id) == []
    recording.claim_run(connection, run.id, "one")
    lines = [EvaluationLine(50, "code", 3.0), EvaluationLine(100, "code", 2.45)]
    recording.record(connection, run.id, 1, Batch(evaluations=lines))
    assert forecasts.score_run(connection, run.id) == []
    recording.finish_run(connection, run.id, 1)
    (scored,) = forecasts.score_run(connection, run.id)
    assert (scored.id, scored.actual, scored.inside) == (forecast.id, 2.45, True)
    assert scored.error == pytest.approx(0.05 / 2.45)  # 2.5 forecast, 2.45 reached: too high
    assert forecasts.score_run(connection, run.id) == []
    assert forecasts.get(connection, forecast.id) == scored
    with pytest.raises(Conflict, match="known already"):
        make_forecast(connection, run.project_id, run.id)
    projects.remove(connection, run.project_id)  # fits and forecasts go together


def test_an_import_is_known_by_its_bytes_and_can_be_undone(connection: Connection) -> None:
    project = projects.create(connection, "imported").id
    made = imports.create(connection, project, format="csv", digest="ab", n_runs=1, n_points=5)
    assert imports.find_by_digest(connection, project, "ab") == made
    assert imports.find_by_digest(connection, project, "cd") is None
    run = make_run(connection, project_id=project, import_id=made.id, kind="imported")
    imports.remove(connection, made.id)
    with pytest.raises(NotFound):
        runs.get(connection, run.id)


def test_checkpoints_say_where_to_go_on(connection: Connection) -> None:
    run = make_run(connection)
    assert checkpoints.latest(connection, run.id) is None
    recording.claim_run(connection, run.id, "one")
    lines = [CheckpointLine(s, k, f"/{s}", "aa", 1) for s, k in ((90, "resume"), (80, "branch"))]
    recording.record(connection, run.id, 1, Batch(checkpoints=lines))
    latest = checkpoints.latest(connection, run.id)
    assert latest is not None and (latest.step, latest.path) == (90, "/90")
    assert checkpoints.start_at(connection, run.id, 90) is None
    branch = checkpoints.start_at(connection, run.id, 80)
    assert branch is not None and branch.path == "/80"
    assert checkpoints.forget(connection, run.id, 90, "resume")
    assert not checkpoints.forget(connection, run.id, 90, "resume")


def test_evaluations_are_listed_by_set(connection: Connection) -> None:
    run = make_run(connection)
    lines = [EvaluationLine(s, v, 2.0 + s, bytes=5.0) for v in ("b", "a") for s in (2, 1)]
    assert evaluations.add(connection, [(run.id, line) for line in lines]) == 4
    assert evaluations.add(connection, [(run.id, line) for line in lines]) == 0
    listed = evaluations.of_run(connection, run.id)
    assert [(e.validation_set, e.step) for e in listed] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert [e.loss for e in evaluations.last_of_runs(connection, [run.id])] == [4.0, 4.0]
    assert evaluations.validation_sets(connection, run.project_id) == ["a", "b"]


def test_a_revoked_key_opens_nothing(connection: Connection) -> None:
    key = keys.create(connection, "laptop", "sw_abc", "digest", ["read"])
    assert keys.find_active(connection, "digest") == key
    assert keys.find_active(connection, "other") is None
    keys.revoke(connection, key.id)
    keys.revoke(connection, key.id)
    assert keys.find_active(connection, "digest") is None
    assert keys.page(connection).items[0].revoked_at is not None
    with pytest.raises(NotFound):
        keys.revoke(connection, 10**9)
    stored = connection.execute(text("select * from api_keys")).all()
    assert len(stored) == 1


def test_an_idempotency_key_is_claimed_once(engine: Engine) -> None:
    with engine.begin() as connection:
        assert idempotency.claim(connection, "k", "POST /v1/runs", "d1") is None
        idempotency.keep(connection, "k", "POST /v1/runs", 201, {"id": 5})
    with engine.begin() as connection:
        before = idempotency.claim(connection, "k", "POST /v1/runs", "d2")
        assert before == {"request_digest": "d1", "status_code": 201, "response": {"id": 5}}
        assert idempotency.claim(connection, "k", "POST /v1/fits", "d1") is None
        assert idempotency.forget(connection, timedelta(days=1)) == 0


def test_fits_of_other_kinds_are_kept_apart(connection: Connection) -> None:
    project = projects.create(connection, "linked")
    made = {
        resource: fitted.create(
            connection,
            resource,
            kind="joint",
            status="converged",
            digest="ab",
            request={"of": resource},
            document={"kappa": 1.1},
            project_id=project.id,
        )
        for resource in fitted.TABLES
    }
    for resource, stored in made.items():
        assert fitted.get(connection, resource, stored.id) == stored
        page = fitted.page(connection, resource, project_id=project.id)
        assert page.items == [stored] and page.next is None
        assert stored.request == {"of": resource}
    with pytest.raises(NotFound):
        fitted.get(connection, "link", made["link"].id + 1)
