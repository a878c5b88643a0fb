"""Training runs: what was asked for, what is known of them, how far they are.

Who may write to a run while it trains is the business of recording.py.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from app.storage.engine import end_if_silent
from app.storage.errors import Conflict, NotFound
from app.storage.rows import Page, array_of, columns_of, find_row, page_of, values_of
from app.storage.tables import checkpoints, runs

CHILDREN = ("branch", "continual")  # the kinds that start from a parent's checkpoint
STARTS = ("branch", "final")  # the kinds of checkpoint that are kept for them
ENDED = ("finished", "failed", "cancelled", "diverged")


@dataclass(frozen=True)
class NewRun:
    """What a run is made from. Counts are floats: 6ND of integers overflows 64 bits."""

    project_id: int
    name: str
    kind: str = "single"
    status: str = "planned"
    sweep_id: int | None = None
    import_id: int | None = None
    parent_run_id: int | None = None
    parent_step: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    cooled: bool = True
    seed: int | None = None
    steps: int | None = None
    step: int = 0
    n_total: float | None = None
    n_non_embedding: float | None = None
    n_blocks: float | None = None
    n_blocks_and_head: float | None = None
    tokens: float | None = None
    flops_exact: float | None = None
    flops_6nd: float | None = None
    flops_palm: float | None = None
    unique_tokens: float | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    corpus_digest: str | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True)
class Run:
    """A run as stored. `steps` and `tokens` are the plan (D); `step` is how far it has come."""

    id: int
    project_id: int
    sweep_id: int | None
    import_id: int | None
    parent_run_id: int | None
    parent_step: int | None
    name: str
    kind: str
    status: str
    config: dict[str, Any]
    recipe: str
    cooled: bool
    seed: int | None
    steps: int | None
    n_total: float | None
    n_non_embedding: float | None
    n_blocks: float | None
    n_blocks_and_head: float | None
    tokens: float | None
    flops_exact: float | None
    flops_6nd: float | None
    flops_palm: float | None
    unique_tokens: float | None
    fingerprint: dict[str, Any]
    corpus_digest: str | None
    step: int
    attempt: int
    worker: str | None
    heartbeat_at: datetime | None
    stop_requested: bool
    failures: int
    message: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def create(connection: Connection, new: NewRun) -> Run:
    """A new run; Conflict if its project has one of that name."""
    (run_id,) = create_many(connection, [new])
    return get(connection, run_id)


def create_many(connection: Connection, new: Sequence[NewRun]) -> list[int]:
    """New runs; their ids, in order. Conflict, naming the run, if a name is taken; none is made."""
    if not new:
        return []
    taken = connection.execute(
        select(runs.c.name).where(
            runs.c.project_id.in_({run.project_id for run in new}),
            runs.c.name.in_([run.name for run in new]),
        )
    ).scalar()
    if taken is not None:
        raise Conflict("run", f"the project has a run named {taken!r} already")
    statement = (
        insert(runs).on_conflict_do_nothing().returning(runs.c.id, sort_by_parameter_order=True)
    )
    ids = list(connection.scalars(statement, [asdict(run) for run in new]))
    if len(ids) != len(new):  # made meanwhile by somebody else, or twice in `new`
        raise Conflict("run", "two runs of one project have the same name")
    return ids


def get(connection: Connection, run_id: int) -> Run:
    found = find_row(connection, Run, runs, id=run_id)
    if found is None:
        raise NotFound("run", run_id)
    return found


def find_by_name(connection: Connection, project_id: int, name: str) -> Run | None:
    return find_row(connection, Run, runs, project_id=project_id, name=name)


def page(
    connection: Connection,
    *,
    project_id: int | None = None,
    sweep_id: int | None = None,
    import_id: int | None = None,
    parent_run_id: int | None = None,
    status: str | None = None,
    kind: str | None = None,
    recipe: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[Run]:
    where: dict[str, object] = {
        "project_id": project_id,
        "sweep_id": sweep_id,
        "import_id": import_id,
        "parent_run_id": parent_run_id,
        "status": status,
        "kind": kind,
        "recipe": recipe,
    }
    return page_of(connection, Run, runs, where=where, after=after, limit=limit)


def of_sweep(connection: Connection, sweep_id: int) -> list[Run]:
    """Every run of a sweep, in the order in which it was planned."""
    statement = select(*columns_of(Run, runs)).where(runs.c.sweep_id == sweep_id)
    return values_of(Run, connection.execute(statement.order_by(runs.c.id)).all())


def trained_on(connection: Connection, run_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """{run id: {"data", "init": {"kind"}, "model": {"vocab_size"}} of its configuration}, of the
    runs that there are; runs that say the same share it."""
    rows = connection.execute(
        text(
            """
            select array_agg(id), jsonb_build_object(
                'data', data, 'init', jsonb_build_object('kind', kind),
                'model', jsonb_build_object('vocab_size', vocab_size)
            )::text
            from (
                select id, config -> 'data' as data, config -> 'init' -> 'kind' as kind,
                    config -> 'model' -> 'vocab_size' as vocab_size
                from runs where id = any(cast(:run_ids as bigint[]))
            ) each group by data, kind, vocab_size
            """
        ),
        {"run_ids": array_of(run_ids)},
    ).all()
    found: dict[int, dict[str, Any]] = {}
    for ids, said in rows:
        found |= dict.fromkeys(ids, json.loads(said))
    return found


def queue_planned(connection: Connection, run_ids: Iterable[int]) -> list[int]:
    """planned -> queued; the ids that changed, each of which is to be deferred once."""
    changed = connection.scalars(
        update(runs)
        .where(runs.c.id.in_(list(run_ids)), runs.c.status == "planned")
        .values(status="queued")
        .returning(runs.c.id)
    )
    return sorted(changed)


def queue_ready_children(connection: Connection, parent_run_id: int) -> list[int]:
    """planned -> queued for the branches and continual runs whose parent has stored the checkpoint
    they start from.

    Returns the ids that changed, each of which is to be deferred once, in this transaction.
    """
    ready = exists().where(
        checkpoints.c.run_id == runs.c.parent_run_id,
        checkpoints.c.step == runs.c.parent_step,
        checkpoints.c.kind.in_(STARTS),
    )
    changed = connection.scalars(
        update(runs)
        .where(
            runs.c.parent_run_id == parent_run_id,
            runs.c.kind.in_(CHILDREN),
            runs.c.status == "planned",
            ready,
        )
        .values(status="queued")
        .returning(runs.c.id)
    )
    return sorted(changed)


def finished_among(connection: Connection, run_ids: Collection[int]) -> list[int]:
    """Those that are finished: for good, since a finished run is never tried again."""
    statement = select(runs.c.id).where(runs.c.id.in_(list(run_ids)), runs.c.status == "finished")
    return sorted(connection.scalars(statement))


def hold_still(connection: Connection, run_id: int, seconds: float) -> None:
    """Nothing more is stored of the run until this transaction ends; what is there, is seen next.

    Whoever stores its checkpoints updates its row first, in the same transaction. Its worker waits
    meanwhile, so a transaction that is idle for `seconds` is ended by Postgres.
    """
    end_if_silent(connection, seconds)
    connection.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update(read=True))


def store_checkpoint_at(connection: Connection, run_id: int, step: int) -> bool:
    """Have a run that no worker has taken yet store a checkpoint at `step`; False if one has."""
    config = runs.c.config
    path = text("'{checkpoint,branch_at_steps}'")
    there = func.coalesce(config["checkpoint"]["branch_at_steps"], text("'[]'::jsonb"))
    return bool(
        connection.execute(
            update(runs)
            .where(
                runs.c.id == run_id, runs.c.status.in_(("planned", "queued")), runs.c.attempt == 0
            )
            .values(config=func.jsonb_set(config, path, there.op("||")(func.to_jsonb(step))))
        ).rowcount
    )


def queue_again(connection: Connection, run_id: int) -> None:
    """An ended run, other than a finished one, -> queued, its failures forgotten; then defer it.

    It goes on from its last checkpoint. Conflict if it is finished or has not ended.
    """
    changed = connection.execute(
        update(runs)
        .where(runs.c.id == run_id, runs.c.status.in_(("failed", "cancelled", "diverged")))
        .values(status="queued", failures=0, stop_requested=False, message="", finished_at=None)
    ).rowcount
    if not changed:
        status = get(connection, run_id).status
        raise Conflict(
            "run", f"run {run_id} is {status}: only a run that ended short is tried again"
        )


def remove(connection: Connection, run_id: int) -> None:
    """Delete a run and its curve; Conflict while it trains."""
    gone = connection.execute(
        delete(runs).where(and_(runs.c.id == run_id, runs.c.status != "running"))
    ).rowcount
    if not gone:
        get(connection, run_id)
        raise Conflict("run", f"run {run_id} is running: stop it first")
