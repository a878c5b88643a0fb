"""Every table of scalewright, in one place.

Ids are bigint identities. Times are timestamptz. Quantities carry their unit in their name.
The queue's own tables (procrastinate_*) are applied by a migration and are not described here.
"""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# curve_points and metrics are hash-partitioned by run; their partitions are made by a migration and
# named <table>_p<two digits>.
CURVE_PARTITIONS = 16

RUN_STATUSES = ("planned", "queued", "running", "finished", "failed", "cancelled", "diverged")
RUN_KINDS = ("single", "trunk", "branch", "continual", "imported")


def _id() -> Column[int]:
    return Column("id", BigInteger, Identity(), primary_key=True)


def _created_at() -> Column[datetime]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=f"{column}_known")


def _finite(column: str) -> CheckConstraint:
    # NaN sorts above infinity
    return CheckConstraint(
        f"{column} > '-infinity'::float8 and {column} < 'infinity'::float8",
        name=f"{column}_finite",
    )


projects = Table(
    "projects",
    metadata,
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("description", Text, nullable=False, server_default=""),
    _created_at(),
)

sweeps = Table(
    "sweeps",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    _created_at(),
    UniqueConstraint("project_id", "name"),
)

imports = Table(
    "imports",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("format", Text, nullable=False),
    Column("filename", Text, nullable=False, server_default=""),
    Column("digest", Text, nullable=False),
    Column("n_runs", BigInteger, nullable=False),
    Column("n_points", BigInteger, nullable=False),
    _created_at(),
    Index("ix_imports_project_id_digest", "project_id", "digest"),
)

# One row a training run. The lease (attempt, worker, heartbeat_at, stop_requested) is what fences
# the recorder: a line is stored only by the attempt that holds the run.
runs = Table(
    "runs",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    Column("sweep_id", ForeignKey("sweeps.id", ondelete="SET NULL"), index=True),
    Column("import_id", ForeignKey("imports.id", ondelete="CASCADE"), index=True),
    Column("parent_run_id", ForeignKey("runs.id", ondelete="SET NULL"), index=True),
    Column("parent_step", BigInteger),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False, server_default="single"),
    Column("status", Text, nullable=False, server_default="planned"),
    Column("config", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("recipe", Text, nullable=False, server_default=""),
    Column("cooled", Boolean, nullable=False, server_default=text("true")),
    Column("seed", BigInteger),
    Column("steps", BigInteger),
    # N, in each convention that is known; D; C, likewise
    Column("n_total", Double),
    Column("n_non_embedding", Double),
    Column("n_blocks", Double),
    Column("n_blocks_and_head", Double),
    Column("tokens", Double),
    Column("flops_exact", Double),
    Column("flops_6nd", Double),
    Column("flops_palm", Double),
    Column("unique_tokens", Double),
    Column("fingerprint", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("corpus_digest", Text),
    # progress and lease
    Column("step", BigInteger, nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("worker", Text),
    Column("heartbeat_at", DateTime(timezone=True)),
    Column("stop_requested", Boolean, nullable=False, server_default=text("false")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("message", Text, nullable=False, server_default=""),
    _created_at(),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    UniqueConstraint("project_id", "name"),
    Index("ix_runs_project_id_status", "project_id", "status"),
    # What the reaper looks through: few. heartbeat_at is in no index, so that a heartbeat rewrites
    # the row in its page and touches no index at all; the fill factor leaves it the room.
    Index("ix_runs_leased", "id", postgresql_where=text("status = 'running'")),
    _one_of("status", RUN_STATUSES),
    _one_of("kind", RUN_KINDS),
    postgresql_with={"fillfactor": 80},
)

# (run_id, step) is the key: a step that is trained again keeps the first value stored.
# No foreign key: checking it costs COPY most of its speed; a trigger on runs deletes the rows.
curve_points = Table(
    "curve_points",
    metadata,
    Column("run_id", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("tokens", Double),
    Column("loss", Double, nullable=False),
    Column("lr", Double),
    PrimaryKeyConstraint("run_id", "step"),
    _finite("loss"),
    postgresql_partition_by="HASH (run_id)",
)

# Roll-up of a finished run: about 1,000 log-spaced rows that plots and fits read.
curve_rollups = Table(
    "curve_rollups",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("tokens", Double),
    Column("loss", Double, nullable=False),
    Column("lr", Double),
    Column("n_points", BigInteger, nullable=False),
    PrimaryKeyConstraint("run_id", "step"),
)

metrics = Table(
    "metrics",
    metadata,
    Column("run_id", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Double, nullable=False),
    PrimaryKeyConstraint("run_id", "name", "step"),
    _finite("value"),
    postgresql_partition_by="HASH (run_id)",
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("validation_set", Text, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("train_tokens", Double),
    Column("loss", Double, nullable=False),
    Column("loss_unit", Text, nullable=False, server_default="nats/token"),
    Column("tokens", Double),
    Column("bytes", Double),
    PrimaryKeyConstraint("run_id", "validation_set", "step"),
    CheckConstraint("loss > 0 and loss < 'infinity'::float8", name="loss_positive_and_finite"),
    _one_of("loss_unit", ("nats/token", "nats/byte", "bits/byte")),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    _created_at(),
    PrimaryKeyConstraint("run_id", "step", "kind"),
    _one_of("kind", ("resume", "branch", "final")),
)

# Work that outlives a request (a long fit, a sweep). Training runs have their own status in `runs`.
jobs = Table(
    "jobs",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), index=True),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="queued"),
    Column("request", JSONB, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("stop_requested", Boolean, nullable=False, server_default=text("false")),
    Column("progress", Double, nullable=False, server_default=text("0")),
    Column("message", Text, nullable=False, server_default=""),
    Column("result", JSONB),
    _created_at(),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    _one_of("status", ("queued", "running", "finished", "failed", "cancelled")),
)

fits = Table(
    "fits",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), index=True),
    Column("law", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("request", JSONB, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("run_ids", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
    _created_at(),
)


def _fitted(name: str) -> Table:
    """What a fit other than a law of (N, D) is kept in: `kind` is its form, the rest as in fits."""
    return Table(
        name,
        metadata,
        _id(),
        Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), index=True),
        Column("kind", Text, nullable=False),
        Column("status", Text, nullable=False),
        Column("digest", Text, nullable=False),
        Column("request", JSONB, nullable=False),
        Column("document", JSONB, nullable=False),
        Column("run_ids", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
        _created_at(),
    )


links = _fitted("links")
task_fits = _fitted("task_fits")
curve_fits = _fitted("curve_fits")
cpt_fits = _fitted("cpt_fits")
calibrations = _fitted("calibrations")

predictions = Table(
    "predictions",
    metadata,
    _id(),
    Column("fit_id", ForeignKey("fits.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("request", JSONB, nullable=False),
    Column("document", JSONB, nullable=False),
    _created_at(),
)

# A prediction that is kept, written before the run it is about, and scored when that run lands.
forecasts = Table(
    "forecasts",
    metadata,
    _id(),
    Column("project_id", ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("fit_id", ForeignKey("fits.id"), nullable=False, index=True),
    Column("run_id", ForeignKey("runs.id", ondelete="SET NULL"), index=True),
    Column("validation_set", Text, nullable=False, server_default=""),
    Column("loss_unit", Text, nullable=False, server_default="nats/token"),
    Column("inputs", JSONB, nullable=False),
    Column("level", Double, nullable=False),
    Column("loss", Double, nullable=False),
    Column("lower", Double, nullable=False),
    Column("upper", Double, nullable=False),
    Column("reach", JSONB, nullable=False),
    Column("compute_ratio", Double),
    _created_at(),
    Column("actual", Double),
    Column("scored_at", DateTime(timezone=True)),
)

api_keys = Table(
    "api_keys",
    metadata,
    _id(),
    Column("name", Text, nullable=False),
    # the first characters of the key, to tell keys apart; the rest is known to its owner only
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    Column("scopes", ARRAY(Text), nullable=False),
    _created_at(),
    Column("revoked_at", DateTime(timezone=True)),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("request_digest", Text, nullable=False),
    Column("status_code", Integer),
    Column("response", JSONB),
    _created_at(),
    PrimaryKeyConstraint("key", "route"),
)
