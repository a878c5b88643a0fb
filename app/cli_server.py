"""Commands that speak REST to a server: import, sweep, runs."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_inputs import READ
from app.cli_options import Json, Server, columns_of
from app.cli_output import new_table, note, print_json, print_table, read_json, short

if TYPE_CHECKING:
    from app.cli_client import Client


class Kind(StrEnum):
    """What a row of an import is."""

    auto = "auto"
    points = "points"
    curves = "curves"


def client(server: str | None) -> "Client":
    from app.cli_client import Client

    return Client(server)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", **READ, help="CSV or JSONL.")],
    project: Annotated[str, typer.Option(help="Project that the runs belong to; made if new.")],
    name: Annotated[str | None, typer.Option(help="A name for the import; the file's.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Put before every run's name.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="How they were trained; recipes are never fitted together.")
    ] = None,
    kind: Annotated[
        Kind,
        typer.Option(
            help="points: a run a row; curves: a step a row; auto: points where N and D both have "
            "a column (`tokens` is one of D)."
        ),
    ] = Kind.auto,
    column: Annotated[
        list[str] | None, typer.Option(help="FIELD=NAME where a column has an unusual name.")
    ] = None,
    validation_set: Annotated[
        str | None, typer.Option(help="What the losses were measured on.")
    ] = None,
    n_convention: Annotated[str | None, typer.Option(help="How N was counted.")] = None,
    flops_convention: Annotated[str | None, typer.Option(help="How FLOPs were counted.")] = None,
    loss_unit: Annotated[str | None, typer.Option(help="nats/token, nats/byte, bits/byte.")] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Import runs from a file: refused whole, with the row and the remedy, or stored whole."""
    form: dict[str, Any] = {
        "project": project,
        "name": name or file.name,
        "prefix": prefix,
        "recipe": recipe,
        "kind": kind.value,
        "validation_set": validation_set,
        "n_convention": n_convention,
        "flops_convention": flops_convention,
        "loss_unit": loss_unit,
    }
    if column:
        import json

        form["columns"] = json.dumps(columns_of(column))
    with file.open("rb") as stream:
        done = client(server).post(
            "/v1/imports",
            data={key: value for key, value in form.items() if value is not None},
            files={"file": (file.name, stream)},
        )
    if as_json:
        print_json(done)
    else:
        note(f"import {done['id']}: {done['n_runs']} runs, {done['n_points']} points")
        for sentence in done["warnings"]:
            note(f"warning: {sentence}")


sweep = typer.Typer(no_args_is_help=True, help="Sweeps of proxy runs: submit, watch.")


@sweep.command("submit")
def sweep_submit(
    spec: Annotated[Path, typer.Argument(metavar="SWEEP.json", **READ, help="The sweep, as JSON.")],
    project: Annotated[str | None, typer.Option(help="Project; the file's if not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Name; the file's if not given.")] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Submit a sweep: its runs are planned, and the workers take them."""
    body = read_json(spec, "a sweep")
    body["project"] = project or body.get("project")
    body["name"] = name or body.get("name") or spec.stem
    if not body["project"]:
        raise typer.BadParameter("say which project: --project NAME")
    to = client(server)
    if not any(one["name"] == body["project"] for one in to.every("/v1/projects")):
        to.post("/v1/projects", json={"name": body["project"]})
    made = to.post("/v1/sweeps", json=body)
    if as_json:
        print_json(made)
    else:
        note(f"sweep {made['id']} submitted; watch it: scalewright sweep watch {made['id']}")


@sweep.command("watch")
def sweep_watch(
    sweep_id: Annotated[int, typer.Argument(metavar="ID")],
    every: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 2.0,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Follow a sweep until all of its runs are over; exit 1 if any of them did not finish."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    to = client(server)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
    ) as progress:
        bar = progress.add_task(f"sweep {sweep_id}", total=1.0, left="")
        while True:
            found = to.get(f"/v1/sweeps/{sweep_id}")
            now = found["progress"]
            counts = ", ".join(f"{count} {status}" for status, count in now["statuses"].items())
            left = now["seconds_left"]
            about = "" if left is None or now["ended"] else f"; about {left / 60:.0f} min left"
            progress.update(bar, completed=now["fraction"], left=counts + about)
            if now["ended"]:
                break
            time.sleep(every)
    if as_json:
        print_json(found)
    else:
        made = list(to.every("/v1/runs", sweep_id=sweep_id))
        print_table(_runs_table(f"Sweep {sweep_id}", made))
    if set(now["statuses"]) - {"finished"}:
        raise typer.Exit(1)


runs = typer.Typer(no_args_is_help=True, help="Runs: submit, list, show, cancel, retry.")


@runs.command("submit")
def runs_submit(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="RUN.json", **READ, help="The run, as JSON; options replace it."),
    ] = None,
    project: Annotated[str | None, typer.Option(help="Project; the file's if not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Name; the file's if not given.")] = None,
    parent: Annotated[
        int | None, typer.Option(help="Start from a checkpoint of this run.", min=1)
    ] = None,
    parent_step: Annotated[
        int | None, typer.Option(help="Of the checkpoint; the parent's last.", min=1)
    ] = None,
    branch: Annotated[
        bool, typer.Option("--branch", help="Cool the parent down, on its own text.")
    ] = False,
    corpus: Annotated[
        list[str] | None, typer.Option(help="New text: NAME or NAME=WEIGHT; may be repeated.")
    ] = None,
    replay: Annotated[
        float | None, typer.Option(help="The parent's text as a share of all.", min=0, max=0.999)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to train.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak rate; the parent's.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="wsd, cosine, linear, step, wsd-s or constant.")
    ] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of the new warm-up.", min=0)] = None,
    carry: Annotated[
        bool, typer.Option("--carry", help="Keep the optimizer's state; else it starts afresh.")
    ] = False,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Submit one run: by itself, or from another run's checkpoint (--parent)."""
    body: dict[str, Any] = read_json(spec, "a run") if spec else {}
    given: dict[str, Any] = {
        "project": project,
        "name": name,
        "parent": parent,
        "parent_step": parent_step,
        "replay_ratio": replay,
        "steps": steps,
        "lr": lr,
        "kind": "branch" if branch else None,
        "momentum": "carry" if carry else None,
    }
    body |= {key: value for key, value in given.items() if value is not None}
    if corpus:
        body["corpora"] = {**body.get("corpora", {}), "train": [_weighted(one) for one in corpus]}
    rate = {
        key: v for key, v in {"kind": schedule, "warmup_steps": warmup}.items() if v is not None
    }
    if rate:
        body["schedule"] = {**body.get("schedule", {}), **rate}
    for key in ("project", "name"):
        if not body.get(key):
            raise typer.BadParameter(f"say which: --{key} NAME")
    made = client(server).post("/v1/runs", json=body)
    if as_json:
        print_json(made)
    else:
        note(f"run {made['id']} is {made['status']}: scalewright runs show {made['id']}")


def _weighted(text: str) -> dict[str, Any]:
    name, equals, weight = text.partition("=")
    try:
        return {"name": name, "weight": float(weight) if equals else 1.0}
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not NAME or NAME=WEIGHT") from None


@runs.command("list")
def runs_list(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    status: Annotated[str | None, typer.Option(help="Only these: queued, running, ...")] = None,
    sweep_id: Annotated[int | None, typer.Option("--sweep", help="Only this sweep's.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    from itertools import islice

    found = client(server).every("/v1/runs", project=project, status=status, sweep_id=sweep_id)
    some = list(islice(found, limit))
    print_json(some) if as_json else print_table(_runs_table("Runs", some))


@runs.command("show")
def runs_show(
    run_id: Annotated[int, typer.Argument(metavar="ID")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Show one run: its plan, its status, its losses on every validation set."""
    to = client(server)
    run = to.get(f"/v1/runs/{run_id}")
    if as_json:
        print_json(run)
        return
    table = new_table(f"Run {run_id}", "", "value", text=("value",))
    for key, value in run.items():
        if value not in (None, "") and not isinstance(value, dict | list):
            table.add_row(key, short(value) if isinstance(value, float) else str(value))
    for name, loss in run["losses"].items():
        table.add_row(f"loss on {name}", f"{loss:.4f}")
    print_table(table)


@runs.command("cancel")
def runs_cancel(
    run_id: Annotated[int, typer.Argument(metavar="ID")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Ask a run to stop: it finishes its step, writes a checkpoint and ends as cancelled."""
    done = client(server).post(f"/v1/runs/{run_id}/cancel")
    if as_json:
        print_json(done)
    else:
        note(f"run {run_id}: {done['status']}")


@runs.command("retry")
def runs_retry(
    run_id: Annotated[int, typer.Argument(metavar="ID")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Queue a run again that failed, diverged or was cancelled; it resumes where it was."""
    done = client(server).post(f"/v1/runs/{run_id}/retry")
    if as_json:
        print_json(done)
    else:
        note(f"run {run_id}: {done['status']}")


def _runs_table(title: str, found: list[dict[str, Any]]) -> Any:
    table = new_table(
        title, "run", "kind", "status", "N", "D", "step", "losses", text=("kind", "status")
    )
    for run in found:
        table.add_row(
            f"{run['id']} {run['name']}",
            run["kind"],
            run["status"],
            "-" if run["n_total"] is None else short(run["n_total"]),
            "-" if run["tokens"] is None else short(run["tokens"]),
            f"{run['step']}/{run['steps'] or '?'}",
            ", ".join(f"{name} {loss:.4f}" for name, loss in run["losses"].items()) or "-",
        )
    return table
