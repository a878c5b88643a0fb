"""Is the service able to do its work? Asked by load balancers, containers and people."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from app.storage import migrate, queue
from app.storage import stats as storage


@dataclass(frozen=True)
class Health:
    """status: "ok", or "degraded" where something needs a person (see `problems`)."""

    status: str
    database: str
    schema: str
    queued_runs: int
    running_runs: int
    workers: int
    problems: list[str] = field(default_factory=list)


def check(connection: Connection) -> Health:
    """Raises what the database raises where it does not answer."""
    version = str(connection.scalar(text("show server_version")))
    revision = connection.scalar(text("select version_num from alembic_version"))
    statuses = storage.by_status(connection, "runs")
    open_jobs: dict[Any, int] = queue.depth(connection)
    workers = storage.living_workers(connection)
    problems = []
    if revision != migrate.head():
        problems.append(
            f"The schema is at {revision}, this version wants {migrate.head()}: "
            "run `scalewright db upgrade`."
        )
    waiting = sum(n for (_, status), n in open_jobs.items() if status == "todo")
    if waiting and not workers:
        problems.append(
            f"{waiting} tasks wait and no worker was heard of: start `scalewright worker`."
        )
    return Health(
        status="degraded" if problems else "ok",
        database=f"postgresql {version}",
        schema=str(revision),
        queued_runs=statuses.get("queued", 0),
        running_runs=statuses.get("running", 0),
        workers=workers,
        problems=problems,
    )
