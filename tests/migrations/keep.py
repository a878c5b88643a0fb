"""Keep the data of the schema as it is now, to test every later upgrade with.

    python -m tests.migrations.keep

Run it once when a version is released: it fills a fresh database with something in every table and
writes released/<revision>.sql. From then on the revision is frozen: a change is a new revision.
"""

import hashlib
import subprocess
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import make_url

import migrations
from app.storage import (
    curves,
    embedded,
    evaluations,
    fits,
    fitted,
    forecasts,
    idempotency,
    imports,
    jobs,
    keys,
    metrics,
    migrate,
    predictions,
    projects,
    queue,
    recording,
    runs,
    sweeps,
)
from app.storage.listen import dsn
from app.storage.recording import Batch, CheckpointLine, EvaluationLine

RELEASED = Path(__file__).with_name("released")


def fill(connection: Connection) -> None:
    """Something in every table, by the functions that the product uses."""
    project = projects.create(connection, "proxies", "Ünïcode: naïve ∂")
    sweep = sweeps.create(connection, project.id, "first", {"sizes": [{"d_model": 32}]})
    parent = runs.create(
        connection,
        runs.NewRun(
            project.id, "trunk", kind="trunk", status="queued", sweep_id=sweep.id, cooled=False,
            steps=40, n_total=1e6, tokens=4e4, config={"model": {"d_model": 32}}, seed=1,
        ),
    )  # fmt: skip
    (branch,) = runs.create_many(
        connection,
        [
            runs.NewRun(
                project.id, "branch", kind="branch", sweep_id=sweep.id, parent_run_id=parent.id,
                parent_step=30, steps=40, n_total=1e6, tokens=4e4, flops_exact=2.4e11,
            )
        ],
    )  # fmt: skip
    attempt = recording.claim_run(connection, parent.id, "worker")
    assert attempt is not None
    recording.record(
        connection,
        parent.id,
        attempt,
        Batch(
            points=[(step, 1e3 * step, 5.0 / step, 1e-3) for step in range(1, 41)],
            metrics={"grad_norm": [(step, 1.0 / step) for step in range(1, 41)]},
            evaluations=[EvaluationLine(40, "code", 2.5, 4e4, 65536, 65536)],
            checkpoints=[CheckpointLine(30, "branch", "/checkpoints/30", "ab" * 32, 1000)],
        ),
    )
    recording.finish_run(connection, parent.id, attempt)
    curves.roll_up(connection, parent.id, max_rows=10)
    for run_id in runs.queue_ready_children(connection, parent.id):
        queue.defer_train(connection, run_id)
    job = jobs.create(connection, "fit", {"law": "chinchilla"}, project.id)
    queue.defer_job(connection, job.id)
    brought = imports.create(
        connection, project.id, format="csv", digest="cd" * 32, n_runs=1, n_points=1
    )
    imported = runs.create(
        connection,
        runs.NewRun(
            project.id, "imported", kind="imported", status="finished", import_id=brought.id,
            n_total=5e6, tokens=1e8,
        ),
    )  # fmt: skip
    evaluations.add(connection, [(imported.id, EvaluationLine(0, "code", 2.25))])
    fit = fits.create(
        connection, law="chinchilla", status="converged", digest="ef" * 32, run_ids=[imported.id],
        request={"law": "chinchilla"}, document={"params": {"E": 1.69}}, project_id=project.id,
    )  # fmt: skip
    for resource in fitted.TABLES:
        fitted.create(
            connection, resource, kind="joint", status="converged", digest="34" * 32,
            run_ids=[imported.id], request={"kind": "joint"}, document={"params": {"kappa": 1.0}},
            project_id=project.id,
        )  # fmt: skip
    predictions.create(connection, fit.id, {"N": 1e9, "D": 2e10}, {"loss": 2.0})
    forecasts.create(
        connection, project_id=project.id, fit_id=fit.id, validation_set="code",
        loss_unit="nats/token", inputs={"N": 1e6, "D": 4e4}, level=0.9, loss=2.4, lower=2.3,
        upper=2.5, reach={"N": 0.2, "D": 0.1}, compute_ratio=3.2, run_id=branch,
    )  # fmt: skip
    keys.create(connection, "laptop", "sw_abcd", "01" * 32, ["read", "submit"])
    idempotency.claim(connection, "key", "POST /v1/runs", "23" * 32)
    idempotency.keep(connection, "key", "POST /v1/runs", 201, {"id": branch})
    idempotency.forget(connection, timedelta(days=1))
    assert metrics.names(connection, parent.id) == ["grad_norm"]


def revision_digest(revision: str) -> str:
    """SHA-256 of a revision's file: what a release freezes."""
    (file,) = (Path(migrations.__file__).parent / "versions").glob(f"{revision}_*.py")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write(url: str, revision: str) -> Path:
    """The rows of a database as SQL, those aside that triggers make again."""
    dumped = subprocess.run(
        [
            embedded.program("pg_dump"), "--data-only", "--column-inserts", "--no-owner",
            "--load-via-partition-root", "--exclude-table=alembic_version",
            "--exclude-table=procrastinate_events", "--dbname", dsn(url),
        ],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    # neither comments and psql's commands, nor the session's settings: those are the test's
    left_out = ("--", "\\", "SET ", "SELECT pg_catalog.set_config")
    kept = [line for line in dumped.splitlines() if line and not line.startswith(left_out)]
    head = f"-- data of revision {revision}, whose file has sha256 {revision_digest(revision)}"
    file = RELEASED / f"{revision}.sql"
    file.write_text("\n".join([head, *kept, ""]))
    return file


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="scalewright-keep-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = embedded.start_server(folder / "postgres")
        try:
            url = make_url(server.url("postgres")).render_as_string(hide_password=False)
            revision = migrate.upgrade(url).current
            assert revision is not None
            engine = create_engine(url)
            with engine.begin() as connection:
                fill(connection)
            engine.dispose()
            print(write(url, revision))
        finally:
            embedded.stop_server(folder / "postgres")


if __name__ == "__main__":
    main()
