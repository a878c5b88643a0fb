"""Which checkpoint files a run has left, and which one to go on from."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select

from app.storage.rows import columns_of, value_of, values_of
from app.storage.runs import STARTS
from app.storage.tables import checkpoints
from app.storage.tables import runs as runs_table


@dataclass(frozen=True)
class Checkpoint:
    run_id: int
    step: int
    kind: str
    attempt: int
    path: str
    sha256: str
    bytes: int
    created_at: datetime


def of_run(connection: Connection, run_id: int) -> list[Checkpoint]:
    """By step."""
    statement = (
        select(*columns_of(Checkpoint, checkpoints))
        .where(checkpoints.c.run_id == run_id)
        .order_by(checkpoints.c.step, checkpoints.c.kind)
    )
    return values_of(Checkpoint, connection.execute(statement).all())


def latest(connection: Connection, run_id: int) -> Checkpoint | None:
    """The furthest checkpoint of any kind: what the next attempt resumes from."""
    found = of_run(connection, run_id)
    return found[-1] if found else None


def start_at(connection: Connection, run_id: int, step: int) -> Checkpoint | None:
    """The checkpoint of a parent that a branch or continual run leaving it at `step` starts from.

    At a parent's last step there may be two, of kinds branch and final, with the same tensors.
    """
    row = connection.execute(
        select(*columns_of(Checkpoint, checkpoints))
        .where(
            checkpoints.c.run_id == run_id,
            checkpoints.c.step == step,
            checkpoints.c.kind.in_(STARTS),
        )
        .order_by(checkpoints.c.kind)
        .limit(1)
    ).one_or_none()
    return None if row is None else value_of(Checkpoint, row)


def forget(connection: Connection, run_id: int, step: int, kind: str) -> bool:
    """Drop the record of a file that was deleted or found broken; False if there was none."""
    statement = delete(checkpoints).where(
        checkpoints.c.run_id == run_id, checkpoints.c.step == step, checkpoints.c.kind == kind
    )
    return bool(connection.execute(statement).rowcount)


def finished_with_resume(connection: Connection, besides: Collection[int], most: int) -> list[int]:
    """Finished runs, those `besides` apart, whose resume checkpoints are still recorded.

    They need none. Their rows go once the files have gone, so these are the runs that nobody has
    tidied up after.
    """
    statement = (
        select(checkpoints.c.run_id)
        .distinct()
        .join(runs_table, runs_table.c.id == checkpoints.c.run_id)
        .where(
            checkpoints.c.kind == "resume",
            runs_table.c.status == "finished",
            runs_table.c.id.not_in(list(besides)),
        )
        .order_by(checkpoints.c.run_id)
        .limit(most)
    )
    return list(connection.scalars(statement))


def forget_resume(connection: Connection, run_id: int) -> int:
    """Drop the records of a run's resume checkpoints, whose files have gone; how many."""
    statement = delete(checkpoints).where(
        checkpoints.c.run_id == run_id, checkpoints.c.kind == "resume"
    )
    return connection.execute(statement).rowcount
