"""Commands of whoever runs the server: serve, worker, db, demo."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from app.cli_output import Refused, new_table, note, print_json, print_table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def settings_or_refuse(**changes: Any) -> "Settings":
    """The settings of the environment; what is wrong with them is a refusal, not a trace."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(str(part) for part in one['loc']) or 'settings'}: {one['msg']}"
            for one in error.errors(include_input=False, include_url=False)
        )
        raise Refused(said, "See docs/operations/settings.md.") from None


def need(module: str, extra: str) -> None:
    """Refuse, with the install line, where an optional part is not installed."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise Refused(
            f"This needs {module}, which is not installed here.",
            f"Install it with: pip install 'scalewright[{extra}]'",
        )


def migrated_engine(settings: "Settings") -> "Engine":
    """The database, started where it is ours to start, with every migration applied."""
    from app.storage import migrate
    from app.storage.engine import make_engine

    try:
        migrate.upgrade(settings)
        return make_engine(settings)
    except Exception as error:
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> Exception:
    """A database that does not answer is a refusal; anything else stays what it is."""
    from sqlalchemy.exc import OperationalError

    from app.storage.embedded import EmbeddedServerError

    if isinstance(error, EmbeddedServerError):
        return Refused(str(error))
    if isinstance(error, OperationalError):
        first = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
        return Refused(
            f"The database does not answer: {first}",
            "Check DATABASE_URL, or unset it to use the embedded server.",
        )
    return error


def replace_process(*arguments: str) -> NoReturn:
    """Become `python ARGUMENTS`: signals reach it directly, and its exit code is ours."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
) -> None:
    """Serve the REST API and the dashboard; starts the embedded Postgres and applies migrations."""
    need("fastapi", "api")
    settings = settings_or_refuse(host=host, port=port)
    migrated_engine(settings).dispose()
    import uvicorn

    from app.main import create_app

    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        timeout_graceful_shutdown=5,
    )


def worker(context: typer.Context) -> None:
    """Start a worker; everything after it is passed on to `python -m workers`."""
    replace_process("-m", "workers", *context.args)


def demo(
    ci: Annotated[
        bool, typer.Option("--ci", help="Exit when the forecast is scored; stay up otherwise.")
    ] = False,
) -> None:
    """The main job for real: sweep, fit, forecast, train the larger run, score."""
    need("fastapi", "api")
    need("torch", "train")
    settings = settings_or_refuse()
    from app.demo import main

    raise typer.Exit(main(settings, ci=ci) or 0)


db = typer.Typer(no_args_is_help=True, help="The database: upgrade, status, stop.")


@db.command("upgrade")
def db_upgrade(
    to: Annotated[str, typer.Option(help="Revision to go to.")] = "head", as_json: Json = False
) -> None:
    """Apply every missing migration, in one transaction."""
    from app.storage import migrate

    settings = settings_or_refuse()
    try:
        after = migrate.upgrade(settings, to)
    except Exception as error:
        raise _unreachable(error) from error
    if as_json:
        print_json({"current": after.current, "head": after.head, "up_to_date": after.up_to_date})
    else:
        note(f"database {after.database} on {after.address}: revision {after.current}")


@db.command("status")
def db_status(as_json: Json = False) -> None:
    """Say where the database is and which revision it holds; exit 1 if it is behind."""
    from app.storage import migrate

    settings = settings_or_refuse()
    try:
        now = migrate.status(settings)
    except Exception as error:
        raise _unreachable(error) from error
    if as_json:
        print_json(
            {
                "current": now.current,
                "head": now.head,
                "up_to_date": now.up_to_date,
                "server_version": now.server_version,
                "database": now.database,
                "address": now.address,
                "size_bytes": now.size_bytes,
            }
        )
    else:
        table = new_table("Database", "", "value", text=("value",))
        for name, value in (
            ("revision", now.current or "none"),
            ("newest revision", now.head),
            ("Postgres", now.server_version),
            ("database", now.database),
            ("address", now.address),
            ("size", f"{now.size_bytes / 1e6:.1f} MB"),
        ):
            table.add_row(name, value)
        print_table(table)
    if not now.up_to_date:
        note("The database is behind. Run: scalewright db upgrade")
        raise typer.Exit(1)


@db.command("stop")
def db_stop() -> None:
    """Stop the embedded Postgres of the data folder; nothing to do where DATABASE_URL is set."""
    settings = settings_or_refuse()
    if settings.database_url:
        note("DATABASE_URL is set: that server is not ours to stop.")
        return
    from app.storage import embedded

    stopped = embedded.stop(settings)
    note("Stopped." if stopped else f"No server runs in {settings.postgres_dir}.")
