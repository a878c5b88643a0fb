"""What follows when a training run gets somewhere, in the transaction that stores the event."""

from sqlalchemy import Connection

from app.storage import forecasts, queue, runs


def checkpoint_landed(connection: Connection, run_id: int) -> list[int]:
    """Queue the branches whose starting checkpoint is there now; their ids. Twice is harmless."""
    ready = runs.queue_ready_children(connection, run_id)
    for branch_id in ready:
        queue.defer_train(connection, branch_id)
    return ready


def ended(connection: Connection, run_id: int) -> None:
    """What follows from a run's end: its forecasts are scored. Twice is harmless."""
    forecasts.score_run(connection, run_id)
