"""scalewright export: what is in the database, as files for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli_operate import migrated_engine, need, settings_or_refuse
from app.cli_options import Json
from app.cli_output import Refused, note, print_json

export = typer.Typer(no_args_is_help=True, help="Out of the database: curves.")


@export.command("curves")
def export_curves(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id.")],
    out: Annotated[Path, typer.Option(help="Folder of the files; made if missing.")],
    form: Annotated[str, typer.Option("--format", help="parquet.")] = "parquet",
    as_json: Json = False,
) -> None:
    """Every stored point of a project's runs: a file a run, in bounded memory."""
    if form != "parquet":
        raise Refused(f"{form!r} is no format to export to.", "Use --format parquet.")
    need("pyarrow", "parquet")
    from app.services import exports

    engine = migrated_engine(settings_or_refuse())
    try:
        # each piece is a statement of its own: no transaction stays open for hours
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            n_runs, n_points = exports.write_curves(
                connection,
                project,
                out,
                report=lambda runs, points: (
                    None if runs % 100 else note(f"{runs:,} runs, {points:,} points")
                ),
            )
    except OSError as error:
        raise Refused(
            f"{out} cannot be written: {error.strerror}.", "Choose another --out."
        ) from None
    finally:
        engine.dispose()
    if as_json:
        print_json({"folder": str(out), "runs": n_runs, "points": n_points})
    else:
        note(f"{n_points:,} points of {n_runs:,} runs in {out}")
