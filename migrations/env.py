"""How alembic reaches the database: by the connection it was given, else by the settings."""

import re

from alembic import context
from sqlalchemy import Connection, text

from app.settings import Settings
from app.storage.engine import make_engine
from app.storage.tables import metadata

# Tables that the metadata does not describe: the queue's own, and the partitions.
ELSEWHERE = re.compile(r"procrastinate_\w+|(curve_points|metrics)_p\d\d")

UPGRADE_LOCK = 8421_0001  # any number of ours: two upgrades at once wait for one another


def include_name(name: str | None, kind: str, parents: object) -> bool:
    return not (kind == "table" and name is not None and ELSEWHERE.fullmatch(name))


def run(connection: Connection) -> None:
    connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
elif context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    context.run_migrations()
else:
    with make_engine(Settings()).begin() as own:
        run(own)
