"""Training runs: submitted, watched, stopped, tried again.

What follows when one gets somewhere is in scheduling.py, which workers call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.services import continuations, corpora_at, paging, projects, scheduling
from app.services.errors import ServiceError, not_found
from app.services.sweep_plan import PlannedRun, corpus_names, must_be_reached, plan_run
from app.settings import Settings
from app.storage import checkpoints as stored_checkpoints
from app.storage import evaluations as stored_evaluations
from app.storage import queue, recording
from app.storage import runs as storage
from app.storage import sweeps as stored_sweeps
from app.storage.errors import Conflict, NotFound
from app.storage.runs import NewRun, Run

# Higher is trained earlier. A trunk goes before what would keep a worker from unblocking branches.
TRUNK_PRIORITY = 100


@dataclass(frozen=True)
class RunShown:
    """A run and its last loss on each validation set."""

    run: Run
    losses: dict[str, float]


def get(connection: Connection, run_id: int) -> Run:
    try:
        return storage.get(connection, run_id)
    except NotFound:
        raise not_found("run", run_id) from None


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    sweep_id: int | None = None,
    import_id: int | None = None,
    status: str | None = None,
    kind: str | None = None,
    recipe: str | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[RunShown]:
    """Newest first; the conditions all hold."""
    stored = storage.page(
        connection,
        project_id=None if project is None else projects.resolve(connection, project).id,
        sweep_id=sweep_id,
        import_id=import_id,
        status=status,
        kind=kind,
        recipe=recipe,
        after=paging.after_of(cursor),
        limit=limit,
    )
    shown = iter(shown_all(connection, stored.items))
    return paging.page_of(stored, lambda _: next(shown))


def shown(connection: Connection, run: Run) -> RunShown:
    return shown_all(connection, [run])[0]


def shown_all(connection: Connection, runs: Sequence[Run]) -> list[RunShown]:
    """Runs with their last losses, read at once."""
    losses: dict[int, dict[str, float]] = {}
    for last in stored_evaluations.last_of_runs(connection, [run.id for run in runs]):
        losses.setdefault(last.run_id, {})[last.validation_set] = last.loss
    return [RunShown(run, losses.get(run.id, {})) for run in runs]


def submit(
    connection: Connection,
    settings: Settings,
    project: str | int,
    name: str,
    spec: Mapping[str, Any],
    *,
    hold: bool = False,
) -> Run:
    """One run by itself, queued; with `hold` only planned, until `start`: what is to be forecast
    is held until its forecast is written.

    spec is a sweep's specification with `size` in place of sizes, and `budget_flops` or `steps`;
    or `{"sweep": id, "size": ..., "budget_flops": ...}`, which takes the recipe from that sweep,
    so that the run may be set beside its runs; or `{"parent": id, ...}`, which starts from that
    run's checkpoint (`submit_from`).
    """
    into = projects.resolve(connection, project)
    recipe = dict(spec)
    if recipe.get("parent") is not None:
        return submit_from(connection, settings, into.id, name, recipe, hold=hold)
    if not recipe.get("size"):
        raise ServiceError(
            "invalid",
            "The run has neither a size nor a parent.",
            'Give "size": {"d_model": 64, "n_layers": 2}, or "parent": the id of a run.',
            column="size",
        )
    size = recipe.pop("size", {})
    budget_flops, steps = recipe.pop("budget_flops", None), recipe.pop("steps", None)
    sweep_id = recipe.pop("sweep", None)
    if sweep_id is not None:
        try:
            sweep = stored_sweeps.get(connection, sweep_id)
        except NotFound:
            raise not_found("sweep", sweep_id) from None
        if sweep.project_id != into.id:
            raise ServiceError(
                "invalid",
                f"Sweep {sweep_id} is in another project.",
                "Submit the run to the project of its sweep.",
                column="sweep",
                value=sweep_id,
            )
        recipe = {**sweep.spec, **recipe}
    elif "corpora" not in recipe:
        raise ServiceError(
            "invalid",
            "The run has neither a sweep to take its recipe from nor corpora of its own.",
            'Give "sweep": id, or "corpora", "model" and "optimizer" as a sweep has them.',
            column="corpora",
        )
    recipe = corpora_at.with_vocabulary(settings, recipe)
    paths = corpora_at.paths(settings, corpus_names(recipe))
    planned = plan_run(name, recipe, size, paths=paths, budget_flops=budget_flops, steps=steps)
    # of the run's own; what its sweep asks for is asked of runs of every length
    own = (spec.get("evaluate") or {}).get("at_steps") or ()
    must_be_reached("evaluate.at_steps", own, planned.steps)
    kept = spec.get("checkpoint_at_steps") or ()
    must_be_reached("checkpoint_at_steps", kept, planned.steps)
    status = "planned" if hold else "queued"
    run = _create(connection, row_of(planned, into.id, status=status))
    if not hold:
        queue.defer_train(connection, run.id)
    return run


def submit_from(
    connection: Connection,
    settings: Settings,
    project_id: int,
    name: str,
    spec: Mapping[str, Any],
    *,
    hold: bool = False,
) -> Run:
    """A run that starts from a checkpoint of `spec["parent"]`: queued if that is there, else
    planned until the parent stores it.

    spec["kind"] is continual (the parent's model on other corpora; the default) or branch (a
    cool-down of a trunk); app/services/continuations.py says what else it holds.
    """
    parent = get(connection, spec["parent"])
    if parent.project_id != project_id:
        raise ServiceError(
            "invalid",
            f"Run {parent.id} is in another project.",
            "Submit the run to the project of its parent.",
            column="parent",
            value=parent.id,
        )
    if hold:
        raise ServiceError(
            "invalid",
            "A run that starts from a checkpoint is queued by that checkpoint and cannot be held.",
            "Leave hold out.",
            column="hold",
        )
    stored = _starts_of(connection, parent)
    if spec.get("kind", "continual") == "branch":
        planned = continuations.plan_branch(name, parent, spec, stored)
    else:
        names = _corpora_of(spec)
        paths = corpora_at.paths(settings, names)
        before = [each["path"] for each in parent.config.get("data", {}).get("train", ())]
        corpora_at.check_one_tokenizer(settings, names, before)
        planned = continuations.plan_continual(name, parent, spec, paths)
    start = planned.parent_step
    if start not in stored and not (
        start is not None
        and start <= (parent.steps or 0)
        and storage.store_checkpoint_at(connection, parent.id, start)
    ):
        raise continuations.no_checkpoint(parent, start or 0, stored)
    # a checkpoint that is being stored meanwhile finds the new run, or is found by it
    storage.hold_still(connection, parent.id, settings.worker_timeout_seconds)
    run = _create(connection, row_of(planned, project_id, parent_run_id=parent.id))
    scheduling.checkpoint_landed(connection, parent.id)
    return get(connection, run.id)


def _starts_of(connection: Connection, parent: Run) -> set[int]:
    """The steps at which the run has a checkpoint to start from, or will have one."""
    kept = stored_checkpoints.of_run(connection, parent.id)
    steps = {each.step for each in kept if each.kind in storage.STARTS}
    if not parent.ended:
        steps |= set((parent.config.get("checkpoint") or {}).get("branch_at_steps", ()))
        steps |= {parent.steps} if parent.steps else set()
    return steps


def _corpora_of(spec: Mapping[str, Any]) -> list[str]:
    corpora = spec.get("corpora") or {}
    names = [each["name"] for each in corpora.get("train", ())]
    return list(dict.fromkeys([*names, *(corpora.get("validation") or ())]))


def _create(connection: Connection, new: NewRun) -> Run:
    try:
        return storage.create(connection, new)
    except Conflict:
        raise ServiceError(
            "conflict",
            f"The project has a run named {new.name!r} already.",
            "Choose another name.",
            column="name",
            value=new.name,
        ) from None


def start(connection: Connection, run_id: int) -> Run:
    """Queue a run that was held. A branch is queued by its parent's checkpoint, not by hand."""
    run = get(connection, run_id)
    if run.kind in storage.CHILDREN or not storage.queue_planned(connection, [run_id]):
        raise ServiceError(
            "conflict",
            f"Run {run_id} is a {run.kind} run and {run.status}.",
            "Only a run submitted with hold is started by hand.",
            value=run.status,
        )
    queue.defer_train(connection, run_id)
    return get(connection, run_id)


def row_of(
    planned: PlannedRun,
    project_id: int,
    *,
    status: str = "planned",
    sweep_id: int | None = None,
    parent_run_id: int | None = None,
) -> NewRun:
    """A planned run as a row. Its recipe is written by the trainer, which knows the corpora."""
    return NewRun(
        project_id=project_id,
        name=planned.name,
        kind=planned.kind,
        status=status,
        sweep_id=sweep_id,
        parent_run_id=parent_run_id,
        parent_step=planned.parent_step,
        config=planned.config,
        cooled=planned.cooled,
        seed=planned.config["seed"],
        steps=planned.steps,
        n_total=planned.n["total"],
        n_non_embedding=planned.n["non_embedding"],
        n_blocks=planned.n["blocks"],
        n_blocks_and_head=planned.n["blocks_and_head"],
        tokens=planned.tokens,
        flops_exact=planned.flops["exact"],
        flops_6nd=planned.flops["6nd"],
        flops_palm=planned.flops["palm"],
    )


def cancel(connection: Connection, run_id: int) -> Run:
    """Ask a run to stop: at once if no worker has it, else at its worker's next sign of life."""
    run = get(connection, run_id)
    if run.ended:
        raise ServiceError(
            "conflict",
            f"Run {run_id} is {run.status} already.",
            "Only a run that has not ended can be cancelled.",
            value=run.status,
        )
    recording.request_stop(connection, run_id)
    return get(connection, run_id)


def retry(connection: Connection, run_id: int) -> Run:
    """Queue a run again that failed, diverged or was cancelled; it resumes from its checkpoint."""
    get(connection, run_id)
    try:
        storage.queue_again(connection, run_id)
    except Conflict as error:
        raise ServiceError(
            "conflict", f"{error}.", "Submit a new run for another try.", value=run_id
        ) from None
    queue.defer_train(connection, run_id)
    return get(connection, run_id)


def evaluations(connection: Connection, run_id: int) -> list[stored_evaluations.Evaluation]:
    """Every evaluation of the run, by validation set and step."""
    get(connection, run_id)
    return stored_evaluations.of_run(connection, run_id)
