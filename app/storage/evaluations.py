"""Losses on validation sets. While a run trains they are written by recording.py."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects.postgresql import insert

from app.storage.recording import EvaluationLine
from app.storage.rows import array_of, columns_of, values_of
from app.storage.tables import evaluations, runs


@dataclass(frozen=True)
class Evaluation:
    """`loss` in `loss_unit`; `tokens` and `bytes` are the size of what was evaluated."""

    run_id: int
    validation_set: str
    step: int
    train_tokens: float | None
    loss: float
    loss_unit: str
    tokens: float | None
    bytes: float | None


def add(connection: Connection, lines: Iterable[tuple[int, EvaluationLine]]) -> int:
    """Evaluations of runs that came from elsewhere, as (run id, line); how many were new."""
    rows = [
        {
            "run_id": run_id,
            "validation_set": line.validation_set,
            "step": line.step,
            "train_tokens": line.train_tokens,
            "loss": line.loss,
            "loss_unit": line.loss_unit,
            "tokens": line.tokens,
            "bytes": line.bytes,
        }
        for run_id, line in lines
    ]
    if not rows:
        return 0
    statement = insert(evaluations).on_conflict_do_nothing().returning(evaluations.c.step)
    return len(connection.execute(statement, rows).all())


def of_run(
    connection: Connection, run_id: int, *, validation_set: str | None = None
) -> list[Evaluation]:
    """By validation set, then step."""
    statement = select(*columns_of(Evaluation, evaluations)).where(evaluations.c.run_id == run_id)
    if validation_set is not None:
        statement = statement.where(evaluations.c.validation_set == validation_set)
    statement = statement.order_by(evaluations.c.validation_set, evaluations.c.step)
    return values_of(Evaluation, connection.execute(statement).all())


def last_of_runs(connection: Connection, run_ids: Iterable[int]) -> list[Evaluation]:
    """The last evaluation of each validation set of each run."""
    rows = connection.execute(
        text(
            """
            select distinct on (run_id, validation_set) run_id, validation_set, step,
                train_tokens, loss, loss_unit, tokens, bytes
            from evaluations where run_id = any(cast(:run_ids as bigint[]))
            order by run_id, validation_set, step desc
            """
        ),
        {"run_ids": array_of(run_ids)},
    )
    return values_of(Evaluation, rows.all())


def validation_sets(connection: Connection, project_id: int) -> list[str]:
    """The names of the validation sets that runs of the project were evaluated on."""
    statement = (
        select(evaluations.c.validation_set)
        .join(runs, runs.c.id == evaluations.c.run_id)
        .where(runs.c.project_id == project_id)
        .distinct()
        .order_by(evaluations.c.validation_set)
    )
    return list(connection.scalars(statement))
