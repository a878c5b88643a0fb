"""scalewright export: what is in the database, as files for other programs and other servers."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_operate import migrated_engine, need, settings_or_refuse
from app.cli_options import Json, NConvention
from app.cli_output import Refused, note, print_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

export = typer.Typer(no_args_is_help=True, help="Out of the database: runs, curves.")


Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")]


@export.command("runs")
def export_runs(
    project: Project,
    out: Annotated[Path, typer.Option(metavar="RUNS.csv", help="File; .csv.gz is packed.")],
    validation_set: Annotated[
        str | None, typer.Option(help="Whose losses; the project's only one if not given.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Runs of this recipe (its beginning is enough).")
    ] = None,
    n_convention: Annotated[
        NConvention, typer.Option(help="How N is counted.")
    ] = NConvention.total,
    as_json: Json = False,
) -> None:
    """The runs that a fit takes, as a CSV that `scalewright import` and `fit` take."""
    from app.services import exports

    with _reading(out) as connection:
        found = exports.write_runs(
            connection,
            project,
            validation_set or _only_set(connection, project),
            out,
            recipe=recipe,
            n_convention=n_convention.value,
        )
    if as_json:
        print_json({"file": str(out), "runs": found.n_runs, **found.options})
        return
    options = [f"--{name.replace('_', '-')} {shlex.quote(x)}" for name, x in found.options.items()]
    note(f"{found.n_runs:,} runs in {out}. On the other server:")
    note(" ".join(["scalewright import", shlex.quote(str(out)), "--project NAME", *options]))


@export.command("curves")
def export_curves(
    project: Project,
    out: Annotated[
        Path, typer.Option(help="Folder of the Parquet files, made if missing; or the CSV.")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="parquet: a file a run; csv: one file that `import` takes, .gz packed."
        ),
    ] = "parquet",
    as_json: Json = False,
) -> None:
    """Every stored point of a project's runs, in bounded memory."""
    if form not in ("parquet", "csv"):
        raise Refused(f"{form!r} is no format to export to.", "Use --format parquet or csv.")
    if form == "parquet":
        need("pyarrow", "parquet")
    elif out.is_dir():
        raise Refused(f"{out} is a folder.", "Name the file: --out curves.csv.gz.")
    from app.services import exports

    def report(runs: int, points: int) -> None:
        if not runs % 100:
            note(f"{runs:,} runs, {points:,} points")

    write = exports.write_curves if form == "parquet" else exports.write_curves_csv
    with _reading(out) as connection:
        n_runs, n_points = write(connection, project, out, report=report)
    if as_json:
        print_json({"folder" if form == "parquet" else "file": str(out),
                    "runs": n_runs, "points": n_points})  # fmt: skip
    else:
        note(f"{n_points:,} points of {n_runs:,} runs in {out}")
        if form == "csv":
            note("On the other server, where the runs may be too, without their curves:")
            note(f"scalewright import {shlex.quote(str(out))} --kind curves --prefix curves/ "
                 "--project NAME")  # fmt: skip


@contextmanager
def _reading(out: Path) -> Iterator["Connection"]:
    """A connection whose pieces are statements of their own: no transaction stays open for hours.
    What cannot be written to `out` is refused in words."""
    engine = migrated_engine(settings_or_refuse())
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection
    except OSError as error:
        raise Refused(
            f"{out} cannot be written: {error.strerror}.", "Choose another --out."
        ) from None
    finally:
        engine.dispose()


def _only_set(connection: "Connection", project: str) -> str:
    from app.services import projects
    from app.storage import evaluations

    found = projects.resolve(connection, project)
    sets = evaluations.validation_sets(connection, found.id)
    if len(sets) != 1:
        raise Refused(
            f"{found.name!r} has losses on {', '.join(map(repr, sets)) or 'no set yet'}.",
            "Choose one with --validation-set." if sets else "Wait for its runs.",
        )
    return sets[0]
