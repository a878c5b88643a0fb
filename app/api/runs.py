"""/v1/runs"""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, IdQuery, Limit, SettingsDep
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.runs import (
    CurveOut,
    EvaluationOut,
    EvaluationsOut,
    Kind,
    MetricNames,
    MetricOut,
    RunDetail,
    RunIn,
    RunOut,
    Status,
)
from app.services import curves, paging, runs

router = APIRouter(
    prefix="/v1/runs", tags=["runs"], route_class=IdempotentRoute, dependencies=[READ]
)
Rows = Annotated[int, Query(ge=2, le=curves.MAX_ROWS, description="About how many rows at most.")]


@router.post("", status_code=201, dependencies=[SUBMIT])
def submit_run(
    body: RunIn, database: DatabaseDep, settings: SettingsDep, response: Response
) -> RunDetail:
    """Queue one run: a worker trains it. With `hold` it waits for `start`: forecast it first."""
    spec = body.model_dump(exclude={"project", "name", "hold"}, exclude_none=True)
    with database.begin() as connection:
        run = runs.submit(connection, settings, body.project, body.name, spec, hold=body.hold)
        shown = runs.shown(connection, run)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return RunDetail.of(shown)


@router.get("")
def list_runs(
    database: DatabaseDep,
    project: str | None = None,
    sweep_id: IdQuery = None,
    import_id: IdQuery = None,
    status: Status | None = None,
    kind: Kind | None = None,
    recipe: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[RunOut]:
    """Runs, newest first; every condition that is given holds."""
    with database.begin() as connection:
        page = runs.page(
            connection,
            project=project,
            sweep_id=sweep_id,
            import_id=import_id,
            status=status,
            kind=kind,
            recipe=recipe,
            cursor=cursor,
            limit=limit,
        )
    return PageOf[RunOut](items=list(map(RunOut.of, page.items)), next_cursor=page.next_cursor)


@router.get("/{run_id}")
def get_run(run_id: Id, database: DatabaseDep) -> RunDetail:
    """One run: what was asked for, what it is, how far it has come."""
    with database.begin() as connection:
        return RunDetail.of(runs.shown(connection, runs.get(connection, run_id)))


@router.get("/{run_id}/curve")
def get_curve(
    run_id: Id,
    database: DatabaseDep,
    max_rows: Rows = 1000,
    after_step: Annotated[
        int | None,
        Query(ge=-1, le=2**62, description="The points themselves, from the next step on."),
    ] = None,
) -> CurveOut:
    """The loss curve, reduced to about `max_rows` rows evenly spaced in log(step)."""
    with database.begin() as connection:
        if after_step is not None:
            curve = curves.read_points(connection, run_id, after_step=after_step, limit=max_rows)
        else:
            curve = curves.read(connection, run_id, max_rows=max_rows)
    return CurveOut.of(curve)


@router.get("/{run_id}/evaluations")
def get_evaluations(run_id: Id, database: DatabaseDep) -> EvaluationsOut:
    """Every loss on a validation set, in its own unit and, where known, in bits a byte."""
    with database.begin() as connection:
        found = runs.evaluations(connection, run_id)
    return EvaluationsOut(run_id=run_id, evaluations=list(map(EvaluationOut.of, found)))


@router.get("/{run_id}/metrics")
def list_metrics(run_id: Id, database: DatabaseDep) -> MetricNames:
    """The names of what was measured along the run."""
    with database.begin() as connection:
        return MetricNames(run_id=run_id, names=curves.metric_names(connection, run_id))


@router.get("/{run_id}/metrics/{name}")
def get_metric(
    run_id: Id,
    name: Annotated[str, Path(max_length=200)],
    database: DatabaseDep,
    max_rows: Rows = 1000,
) -> MetricOut:
    """One number along the run: gradient norm, step time, ..."""
    with database.begin() as connection:
        return MetricOut.of(run_id, curves.metric(connection, run_id, name, max_rows=max_rows))


@router.post("/{run_id}/start", dependencies=[SUBMIT])
def start_run(run_id: Id, database: DatabaseDep) -> RunOut:
    """Queue a run that was submitted with `hold`."""
    with database.begin() as connection:
        return RunOut.of(runs.shown(connection, runs.start(connection, run_id)))


@router.post("/{run_id}/cancel", dependencies=[SUBMIT])
def cancel_run(run_id: Id, database: DatabaseDep) -> RunOut:
    """Stop a run: it finishes its step, keeps a checkpoint and ends as cancelled."""
    with database.begin() as connection:
        return RunOut.of(runs.shown(connection, runs.cancel(connection, run_id)))


@router.post("/{run_id}/retry", dependencies=[SUBMIT])
def retry_run(run_id: Id, database: DatabaseDep) -> RunOut:
    """Queue a run again that failed, diverged or was cancelled; it resumes where it was."""
    with database.begin() as connection:
        return RunOut.of(runs.shown(connection, runs.retry(connection, run_id)))
