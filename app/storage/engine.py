"""From settings to an engine. The transaction belongs to the edge: `with engine.begin() as c:`."""

from sqlalchemy import Connection, Engine, create_engine, text

from app.settings import Settings
from app.storage import embedded

# A peer that vanished without a word is noticed in about 20 s, not after the system's two hours.
# https://www.postgresql.org/docs/current/libpq-connect.html; unix sockets ignore them.
KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def resolve_url(settings: Settings) -> str:
    """The database's URL; starts the embedded server if no database was given."""
    return settings.database_url or embedded.start(settings)


def make_engine(settings: Settings, *, application_name: str = "scalewright") -> Engine:
    """An engine with a pool of `database_pool_size` connections that are checked before use.

    A connection that died with the server is replaced in silence at the next checkout; work that
    was under way raises sqlalchemy.exc.OperationalError and was rolled back.
    """
    return create_engine(
        resolve_url(settings),
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_size,
        pool_pre_ping=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": 10,
            **KEEPALIVE,
        },
    )


def end_if_silent(connection: Connection, seconds: float) -> None:
    """Have Postgres end this session, and its locks, if we freeze inside this very transaction.

    Does not look inside a COPY. Without it Postgres waits for hours for a machine that is gone.
    """
    statement = "select set_config('idle_in_transaction_session_timeout', :milliseconds, true)"
    connection.execute(text(statement), {"milliseconds": str(round(1000 * seconds))})
