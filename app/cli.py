"""The services as commands: `scalewright --help`.

Commands on plain files need no server and no database, and start quickly: every heavy import stands
inside the command that needs it. Commands with a server speak REST to it, as any client would.
"""

import os
import sys
from typing import Annotated

import typer

from app import (
    cli_budget,
    cli_curves,
    cli_files,
    cli_isoflop,
    cli_links,
    cli_operate,
    cli_server,
    cli_time,
)
from app.cli_cluster import cluster
from app.cli_docs import docs
from app.cli_export import export
from app.cli_output import REFUSED, print_refusal, refusal

app = typer.Typer(
    name="scalewright",
    help="What loss will this run reach, and how should the budget be spent?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FILES = "On plain files: no server, no database"
SERVER = "With a server"
OPERATE = "Run the server"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("scalewright"))
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """What loss will this run reach, and how should the budget be spent?"""


for command in (
    cli_files.laws,
    cli_files.fit,
    cli_files.predict,
    cli_budget.allocate,
    cli_files.compare,
    cli_isoflop.isoflop,
    cli_files.openapi,
    cli_time.calibrate,
):
    app.command(rich_help_panel=FILES)(command)
app.add_typer(cli_time.time, name="time", rich_help_panel=FILES)

app.add_typer(cli_links.link, name="link", rich_help_panel=FILES)
app.add_typer(cli_links.task, name="task", rich_help_panel=FILES)
app.add_typer(cli_curves.curve, name="curve", rich_help_panel=FILES)
app.add_typer(cli_curves.cpt, name="cpt", rich_help_panel=FILES)
app.command("import", rich_help_panel=SERVER)(cli_server.import_)
app.add_typer(cli_server.sweep, name="sweep", rich_help_panel=SERVER)
app.add_typer(cli_server.runs, name="runs", rich_help_panel=SERVER)

for command in (cli_operate.serve, cli_operate.demo):
    app.command(rich_help_panel=OPERATE)(command)
app.command(
    rich_help_panel=OPERATE,
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)(cli_operate.worker)
app.add_typer(cli_operate.db, name="db", rich_help_panel=OPERATE)
app.add_typer(export, name="export", rich_help_panel=OPERATE)
app.add_typer(cluster, name="cluster", rich_help_panel=OPERATE)
app.add_typer(cli_operate.corpus, name="corpus", rich_help_panel=OPERATE)
app.add_typer(cli_operate.keys, name="keys", rich_help_panel=OPERATE)
app.add_typer(docs, name="docs", rich_help_panel=OPERATE)


def main() -> None:
    """The console entry: runs the command, turns a refusal into its sentence and exit code 1."""
    # Before numpy is imported. Our matrices are small, requests have threads of their own, and
    # OpenBLAS's wait spinning: on two busy cores a fit took three times as long by the clock.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app()
    except Exception as error:
        said = refusal(error)
        if said is None:
            raise
        print_refusal(said, as_json="--json" in sys.argv)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
