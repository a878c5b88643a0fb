"""Commands of whoever runs the server: serve, worker, db, corpus, keys, demo."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from app.cli_options import Json
from app.cli_output import Refused, new_table, note, print_json, print_table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.settings import Settings


def settings_or_refuse(**changes: Any) -> "Settings":
    """The settings of the environment; what is wrong with them is a refusal, not a trace."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(str(part) for part in one['loc']) or 'settings'}: "
            f"{one['msg'].removeprefix('Value error, ')}"
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


def refuse_taken(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before anything is started for it."""
    import socket

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        # the error of a name that is not known has no number of the system's
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise Refused(
            f"{host} port {port} cannot be listened on: {why}.",
            "Choose another port with --port (0 takes a free one), or another address with --host.",
        ) from None


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
) -> None:
    """Serve the REST API and the dashboard; starts the embedded Postgres and applies migrations."""
    need("fastapi", "api")
    settings = settings_or_refuse(host=host, port=port)
    refuse_taken(settings.host, settings.port)
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
    seed: Annotated[
        int | None, typer.Option(help="Of the sweep's runs; each seed is a sweep of its own.")
    ] = None,
) -> None:
    """The main job for real: sweep, fit, forecast, train the larger run, score."""
    need("fastapi", "api")
    need("torch", "train")
    settings = settings_or_refuse()
    from app.demo import main

    raise typer.Exit(main(settings, ci=ci, seed=seed))


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


corpus = typer.Typer(no_args_is_help=True, help="Text to train on: build, list.")
CorpusDir = Annotated[
    Path | None, typer.Option(help="Where corpora lie; else SCALEWRIGHT_CORPUS_DIR.")
]


@corpus.command("build")
def corpus_build(
    name: Annotated[
        str | None, typer.Argument(help="Name of the corpus; none builds `code` and `english`.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Argument(help="Folders, files, or names of installed packages.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="bytes, bpe:SIZE (trained here), or a tokenizer.json.")
    ] = "bytes",
    max_mb: Annotated[float | None, typer.Option(help="Stop at this much text.", min=0.001)] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build the default ones again.")
    ] = False,
    corpus_dir: CorpusDir = None,
    as_json: Json = False,
) -> None:
    """Build a corpus: documents de-duplicated, split by their hash, as shards of tokens."""
    from app.services import corpora
    from app.services.documents import CorpusError

    folder = corpus_dir or settings_or_refuse().corpus_dir
    if name is not None and not source:
        raise typer.BadParameter("say what it is made from: folders, files or package names")
    try:
        if name is None:
            built = list(corpora.build_default(folder, rebuild=rebuild, progress=note).values())
        else:
            max_bytes = None if max_mb is None else int(max_mb * 1e6)
            built = [
                corpora.build(
                    name,
                    source or [],
                    folder,
                    tokenizer=tokenizer,
                    max_bytes=max_bytes,
                    progress=note,
                )
            ]
    except CorpusError as error:
        raise Refused(str(error)) from None
    _show_corpora(built, as_json)


@corpus.command("list")
def corpus_list(corpus_dir: CorpusDir = None, as_json: Json = False) -> None:
    """List the corpora of this machine."""
    from app.services import corpora

    folder = corpus_dir or settings_or_refuse().corpus_dir
    _show_corpora(corpora.list_corpora(folder), as_json)


def _show_corpora(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = new_table(
        "Corpora", "corpus", "tokens", "validation", "tokenizer", "digest", text=("tokenizer",)
    )
    for one in found:
        tokenizer = one["tokenizer"]
        table.add_row(
            one["name"],
            f"{one['tokens']['train']:,}",
            f"{one['tokens']['validation']:,}",
            f"{tokenizer['kind']} ({tokenizer['vocab_size']})",
            one["digest"][:12],
        )
    print_table(table)


keys = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in lists.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, submit or admin; repeat for several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once: only its digest is stored."""
    from app.services import keys as service

    scopes = scope or ["read"]
    with migrated_engine(settings_or_refuse()).begin() as connection:
        key = service.create(connection, name, scopes)
    if as_json:
        print_json({"name": name, "scopes": scopes, "key": key})
    else:
        note(f"key of {name} ({', '.join(scopes)}); it is not shown again:")
        typer.echo(key)


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List the keys: whose, which scopes, revoked or not. Never the keys themselves."""
    from app.storage import keys as storage

    found = []
    with migrated_engine(settings_or_refuse()).connect() as connection:
        after = None
        while True:
            page = storage.page(connection, after=after, limit=200)
            found += page.items
            after = page.next
            if after is None:
                break
    if as_json:
        print_json([vars(one) for one in found])
        return
    table = new_table(
        "Keys", "id", "name", "begins", "scopes", "made", "revoked", text=("name", "scopes")
    )
    for one in found:
        revoked = f"{one.revoked_at:%Y-%m-%d}" if one.revoked_at else ""
        made = f"{one.created_at:%Y-%m-%d}"
        table.add_row(str(one.id), one.name, one.prefix, ", ".join(one.scopes), made, revoked)
    print_table(table)


@keys.command("revoke")
def keys_revoke(key_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """End a key, at once and for ever."""
    from app.storage import keys as storage
    from app.storage.errors import NotFound

    with migrated_engine(settings_or_refuse()).begin() as connection:
        try:
            storage.revoke(connection, key_id)
        except NotFound:
            raise Refused(
                f"There is no key {key_id}.", "List them: scalewright keys list"
            ) from None
    note(f"key {key_id} is revoked")
