"""Runs: the list, one run with its live curve, a sweep with all of its curves."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import Connection

from app.dashboard import figures, render, text
from app.dashboard.pages import in_flight
from app.dashboard.pages.database import Id, reading
from app.services import overview as service
from app.services import runs as acting
from app.storage import curves, evaluations, metrics
from app.storage import overview as storage
from app.storage.tables import RUN_STATUSES

router = APIRouter(include_in_schema=False)
acting_router = APIRouter(include_in_schema=False)

Row = dict[str, Any]
PAGE = 100
MOST_CURVES = 40
OVERLAID_ROWS = 250
LIVE = ("planned", "queued", "running")
ENDED_SHORT = ("failed", "diverged", "cancelled")


@router.get("/runs")
def runs(
    request: Request, project: str = "", status: str = "", before: Id | None = None
) -> HTMLResponse:
    with reading(request) as connection:
        found = storage.runs(
            connection,
            project=project or None,
            status=status or None,
            before=before,
            limit=PAGE + 1,
        )
        names = [row["name"] for row in storage.projects(connection, 500)]
        rows = [described(row) for row in found[:PAGE]]
        drawn = overlaid(connection, rows) if project else None
    more = None
    if len(found) > PAGE:
        more = "?" + request.url.include_query_params(before=rows[-1]["id"]).query
    return render.page(
        request,
        "runs.html",
        page="Runs",
        heading=f"Runs of {project}" if project else "Runs",
        lead="Every training run: its size, its compute, how far it is and the loss it reached.",
        crumbs=[],
        filters={
            "projects": names,
            "project": project,
            "statuses": RUN_STATUSES,
            "status": status,
        },
        runs=rows,
        caption=f"{len(rows)} runs, newest first.",
        more=more,
        figures={} if drawn is None else {"curves": drawn},
        sketched=True,
    )


@router.get("/sweeps/{sweep_id}")
def sweep(request: Request, sweep_id: Id) -> HTMLResponse:
    with reading(request) as connection:
        found = service.sweeps(connection, 1, sweep_id)
        if not found:
            return render.missing(request, f"sweep {sweep_id}", "The overview lists the sweeps.")
        rows = [described(row) for row in storage.runs(connection, sweep_id=sweep_id, limit=500)]
        drawn = overlaid(connection, rows)
    one = found[0]
    return render.page(
        request,
        "runs.html",
        page="Runs",
        heading=f"Sweep {one['name']}",
        lead=f"{one['finished']} of {one['runs']} runs finished, {one['running']} running, "
        f"{one['failed']} failed; {text.quantity(one['flops'], 'FLOPs')} FLOPs planned.",
        crumbs=[
            ("/", "Overview"),
            ("/runs?" + urlencode({"project": one["project"]}), one["project"]),
        ],
        filters=None,
        runs=rows,
        caption="Runs of this sweep, newest first. A trunk is trained at a constant rate; its "
        "branches cool down from a checkpoint and carry the losses that a fit uses.",
        more=None,
        figures={} if drawn is None else {"curves": drawn},
        sketched=True,
    )


@router.get("/runs/{run_id}")
def run(request: Request, run_id: Id) -> HTMLResponse:
    with reading(request) as connection:
        found = storage.runs(connection, run_id=run_id, limit=1)
        if not found:
            return render.missing(request, f"run {run_id}", "The page Runs lists those there are.")
        row = described(found[0])
        tested = evaluations.of_run(connection, run_id)
        told, drawn = told_and_drawn(connection, row)
        sweeps = storage.sweeps(connection, 1, row["sweep_id"]) if row["sweep_id"] else []
    return render.page(
        request,
        "run.html",
        page="Runs",
        run=row,
        project=row["project"],
        sweep=sweeps[0]["name"] if sweeps else None,
        live=f"/runs/{run_id}/figure.json" if row["status"] in LIVE else None,
        ended_short=row["status"] in ENDED_SHORT,
        evaluations=[
            {
                "validation_set": one.validation_set,
                "step": one.step,
                "train_tokens": one.train_tokens,
                "loss": one.loss,
                "loss_unit": one.loss_unit,
                "bits_per_byte": bits_per_byte(one),
            }
            for one in tested
        ],
        told=told,
        out=told.outputs(),
        details=details(row),
        config=json.dumps(row["config"], indent=2) if row["config"] else None,
        figures={} if drawn is None else {"run": drawn},
        sketched=True,
    )


@acting_router.post("/runs/{run_id}/retry")
def retry(request: Request, run_id: Id) -> Response:
    """Queue a run again that ended short, and show it."""
    with request.app.state.engine.begin() as connection:
        acting.retry(connection, run_id)
    return RedirectResponse(f"/runs/{run_id}", status_code=303, headers=render.HEADERS)


@router.get("/runs/{run_id}/figure.json")
def figure(request: Request, run_id: Id) -> Response:
    """The run's figure and, under `run`, its step, whether it ended and what is said of it."""
    with reading(request) as connection:
        found = storage.runs(connection, run_id=run_id, limit=1)
        if not found:
            return render.missing(request, f"run {run_id}", "The page Runs lists those there are.")
        told, drawn = told_and_drawn(connection, found[0])
    state = {
        "step": found[0]["step"],
        "ended": found[0]["status"] not in LIVE,
        "out": told.outputs(),
    }
    document = render.figure_json(drawn) if drawn is not None else "{}"
    body = document[:-1] + ("," if len(document) > 2 else "") + f'"run":{json.dumps(state)}}}'
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


def described(row: Row) -> Row:
    """The row with its compute (`flops`) and the `share` of its steps that is done."""
    share = None
    if row["steps"] and row["status"] in ("running", "finished", "queued"):
        done = row["steps"] if row["status"] == "finished" else row["step"]
        share = min(1.0, done / row["steps"])
    flops = row["flops_exact"] or row["flops_6nd"]
    return row | {"flops": flops, "share": share}


def told_and_drawn(connection: Connection, row: Row) -> tuple[in_flight.Told, go.Figure | None]:
    """What is said of the run, and its figure; None where nothing is stored."""
    stored = curves.read(connection, row["id"])
    told = in_flight.of(connection, row["id"], row["status"] in LIVE)
    return told, curve_figure(connection, row, stored, told) if len(stored.step) else None


def curve_figure(
    connection: Connection, row: Row, stored: curves.Curve, told: in_flight.Told
) -> go.Figure:
    """The run's curve, rates, gradient norms, evaluations, spikes and what is foreseen."""
    norm = metrics.read(connection, row["id"], "grad_norm")
    tested = evaluations.of_run(connection, row["id"])
    along, place = _along(stored)
    groups: dict[str, list[Any]] = {}
    for one in tested:
        groups.setdefault(one.validation_set, []).append(one)
    return figures.run(
        figures.Curve(row["name"], place(stored.step), stored.loss, stored.lr),
        [
            figures.Evaluations(
                name,
                place(np.array([float(one.step) for one in group])),
                np.array([one.loss for one in group]),
                group[0].loss_unit,
            )
            for name, group in groups.items()
        ],
        (place(norm.step), norm.value),
        loss_unit=tested[0].loss_unit if tested else "nats/token",
        along=along,
        ahead=_ahead(told.foreseen, place),
        spikes=_spikes(told, stored, place),
    )


def _ahead(foreseen: in_flight.Foreseen | None, place: Any) -> figures.Ahead | None:
    if foreseen is None:
        return None
    line, answer = foreseen.ahead, foreseen.answer
    final = answer["final"]
    x = np.asarray(place(line.x))
    if not np.isfinite(x).all():
        return None
    return figures.Ahead(
        replace(line, x=x, label=f"law: {foreseen.loss}"),
        (float(x[-1]), final["loss"], final["lower"], final["upper"]),
        final["level"],
    )


def _spikes(told: in_flight.Told, stored: curves.Curve, place: Any) -> tuple[Any, Any]:
    found = told.health.spikes if told.health is not None else ()
    found = tuple(one for one in found if np.isfinite(one.height))
    at = np.array([float(one.peak_step) for one in found])
    # above the curve that is drawn, whose points are means where there are many
    drawn = np.interp(at, stored.step, stored.loss)
    return place(at), drawn + np.array([one.height for one in found])


def overlaid(connection: Connection, rows: list[Row]) -> go.Figure | None:
    """Curves over each other, largest model first; None where no run has one."""
    lines, by_tokens = [], True
    for row in sorted(rows, key=lambda row: -(row["n_total"] or 0.0))[:MOST_CURVES]:
        stored = curves.read(connection, row["id"], max_rows=OVERLAID_ROWS)
        if not len(stored.step):
            continue
        along, place = _along(stored)
        by_tokens = by_tokens and along is figures.TOKENS
        size = f" · {text.quantity(row['n_total'], 'parameters')}" if row["n_total"] else ""
        lines.append(
            figures.Curve(
                row["name"] + size,
                place(stored.step),
                stored.loss,
                shade=row["n_total"],
                cooled=row["cooled"],
            )
        )
    if not lines:
        return None
    return figures.curves(lines, along=figures.TOKENS if by_tokens else figures.STEPS)


def _along(stored: curves.Curve) -> tuple[Any, Any]:
    """What the x axis shows and how a step is placed on it: tokens where they are known."""
    known = np.isfinite(stored.tokens)
    if not known.any():
        return figures.STEPS, lambda step: step
    step, tokens = stored.step[known], stored.tokens[known]
    rate = tokens[-1] / max(step[-1], 1.0)
    # tokens rise in step with steps: beyond the ends, and for other series, at the mean rate
    return (
        figures.TOKENS,
        lambda at: (
            np.interp(at, step, tokens, left=np.nan, right=np.nan)
            if len(step) > 1 and not np.allclose(tokens, rate * step, rtol=1e-3)
            else rate * np.asarray(at, float)
        ),
    )


def bits_per_byte(one: evaluations.Evaluation) -> float | None:
    """The unit in which runs with different tokenizers can be compared."""
    if one.loss_unit == "bits/byte":
        return one.loss
    if one.loss_unit == "nats/byte":
        return one.loss / float(np.log(2.0))
    if one.tokens and one.bytes:
        return one.loss * one.tokens / one.bytes / float(np.log(2.0))
    return None


def details(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of what was trained and where."""
    where = row["fingerprint"] or {}
    device = ", ".join(f"{key} {value}" for key, value in where.items() if value not in (None, ""))
    known = [
        ("Recipe", row["recipe"][:16]),
        ("Seed", None if row["seed"] is None else str(row["seed"])),
        ("Corpus digest", (row["corpus_digest"] or "")[:16]),
        ("FLOPs, 6ND", _flops(row["flops_6nd"])),
        ("FLOPs, exact", _flops(row["flops_exact"])),
        ("FLOPs, PaLM", _flops(row["flops_palm"])),
        ("Attempts", str(row["attempt"]) if row["attempt"] else None),
        ("Worker", row["worker"]),
        ("Machine", device),
        ("Started", _moment(row["started_at"])),
        ("Ended", _moment(row["finished_at"])),
    ]
    return [(name, value) for name, value in known if value]


def _flops(value: float | None) -> str | None:
    return None if value is None else text.scientific(value, 4)


def _moment(value: Any) -> str | None:
    return None if value is None else value.strftime("%Y-%m-%d %H:%M:%S %Z")
