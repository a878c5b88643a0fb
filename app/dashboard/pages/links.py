"""Loss-to-loss: the list of links and tasks, one link with its figures and what it forecasts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import Connection

from app.dashboard import figures, render, text
from app.dashboard.figures import Cloud, Line, Quantity, Share
from app.dashboard.pages.database import Id, reading
from app.dashboard.surface import FLOPS
from app.services.links import link_of
from app.storage import overview as storage
from fitting import FittingError
from fitting.loss_to_loss import KINDS, Link, LinkPrediction

router = APIRouter(include_in_schema=False)

# Times beyond the largest pair, along the compute-optimal frontier.
LADDER = (1.0, 3.0, 10.0, 30.0, 100.0)
MEANING = {
    "kappa": "how fast the target falls with the source: 1 where both fall alike",
    "K": "scale of the target's loss above its floor",
    "E0": "floor of the source's loss",
    "E1": "floor of the target's loss",
}


@dataclass(frozen=True)
class OpenLink:
    """A stored link, read back."""

    row: dict[str, Any]
    link: Link

    @property
    def id(self) -> int:
        return int(self.row["id"])

    @property
    def document(self) -> dict[str, Any]:
        return dict(self.row["document"])


def open_link(connection: Connection, link_id: int) -> OpenLink | None:
    row = storage.link(connection, link_id)
    if row is None:
        return None
    try:
        return OpenLink(row, link_of(row["document"]))
    except FittingError:
        return None


@router.get("/links")
def links(request: Request) -> HTMLResponse:
    with reading(request) as connection:
        rows, tasks = storage.links(connection), storage.tasks(connection)
    return render.page(request, "links.html", page="Links", links=rows, tasks=tasks)


@router.get("/links/{link_id}")
def link(
    request: Request, link_id: Id, source_loss: str = "", source: str = "measured"
) -> HTMLResponse:
    with reading(request) as connection:
        opened = open_link(connection, link_id)
    if opened is None:
        return render.missing(request, f"link {link_id}", "The page Links lists the others.")
    return render.page(
        request,
        "link.html",
        page="Links",
        link=description(opened) | {"asked": asked(opened, source_loss, source)},
        figures=figures_of(opened),
    )


@router.get("/links/{link_id}/figures/{name}.{form}")
def export(request: Request, link_id: Id, name: str, form: str) -> Response:
    """One figure of a link as a self-contained HTML page or as plotly JSON."""
    with reading(request) as connection:
        opened = open_link(connection, link_id)
    drawn = {} if opened is None else figures_of(opened)
    if name not in drawn or form not in ("html", "json"):
        return render.missing(request, f"figure {name}.{form}", "Exports are .html and .json.")
    make = render.export_html if form == "html" else render.export_json
    return make(drawn[name], f"link-{link_id}-{name}")


def figures_of(opened: OpenLink) -> dict[str, go.Figure]:
    drawn = {"link": _scatter(opened)}
    bars = shares(opened.link)
    if bars:
        drawn["variance"] = figures.variance(bars, opened.link.level)
    return drawn


def source_loss_at(link: Link, times: float) -> float:
    """The source loss of a compute-optimal run of `times` the largest pair's compute."""
    pace = link.data.decades_per_log_gap
    E0 = float(link.values[2])
    shrink = np.exp(-np.log10(times) / pace) if pace > 0 else times**-0.2
    return float(E0 + (link.data.best_x - E0) * shrink)


def ladder(link: Link) -> list[dict[str, Any]]:
    """The target's loss along the frontier, by a source loss that was measured and by one that the
    source's own law forecast (None where its runs are too few for a law)."""
    rows = []
    for times in LADDER:
        x = source_loss_at(link, times)
        measured = link.predict(x)
        rows.append(
            {
                "times": times,
                "source_loss": x,
                "loss": float(measured.value[0]),
                "measured": measured,
                "predicted": _predicted(link, x),
            }
        )
    return rows


def shares(link: Link) -> list[Share]:
    bars = []
    for row in ladder(link):
        for word in ("measured", "predicted"):
            found: LinkPrediction | None = row[word]
            if found is None:
                continue
            low, high, value = (float(v[0]) for v in (found.lower, found.upper, found.value))
            parts = {name: float(v[0]) for name, v in found.variance.shares().items()}
            label = f"{row['times']:g}×, {word}"
            bars.append(Share(label, (high - low) / 2.0 / value, parts))
    return bars


def asked(opened: OpenLink, source_loss: str, source: str) -> dict[str, Any]:
    """The form's own question and its answer, or why there is none."""
    link = opened.link
    shown: dict[str, Any] = {
        "source_loss": source_loss or f"{source_loss_at(link, 10.0):.4g}",
        "source": "predicted" if source == "predicted" else "measured",
        "can_predict": link.source_law is not None,
        "refusal": "",
        "answer": None,
    }
    x = text.parse(shown["source_loss"])
    if x is None:
        return shown | {"refusal": f"{source_loss[:40]!r} is not a number."}
    try:
        found = link.predict(x, measured=shown["source"] == "measured")
    except FittingError as error:
        return shown | {"refusal": f"{error.message} {error.hint}".strip()}
    return shown | {
        "answer": found.to_dict()["predictions"][0],
        "warnings": [warning.to_dict() for warning in found.warnings],
    }


def description(opened: OpenLink) -> dict[str, Any]:
    """Everything that the page says in words and tables."""
    link, document = opened.link, opened.document
    intervals = link.intervals()
    return {
        "id": opened.id,
        "project": opened.row["project"],
        "created_at": opened.row["created_at"],
        "source": link.names[0],
        "target": link.names[1],
        "status": link.status,
        "message": link.message,
        "warnings": [warning.to_dict() for warning in link.warnings],
        "level": link.level,
        "loss_unit": link.unit,
        "params": [
            {
                "name": name,
                "value": value,
                "lower": intervals.get(name, (None, None))[0],
                "upper": intervals.get(name, (None, None))[1],
                "about": MEANING[name]
                + (f" ({link.floors[name]})" if link.floors.get(name) else ""),
            }
            for name, value in link.params.items()
        ],
        "facts": facts(opened),
        "ladder": ladder(link),
        "backtest": [vars(origin) for origin in link.backtest],
        "held_out": document.get("held_out"),
        "transitivity": document.get("transitivity") or [],
        "by_construction": link.method == "joint",
        "left_out": document.get("left_out") or [],
        "pairs": _pairs(opened)[:500],
    }


def _drawn(opened: OpenLink) -> str:
    found = opened.document.get("drawn_from")
    return f", drawn at random from {found:,}" if found else ""


def facts(opened: OpenLink) -> list[tuple[str, str, str | None]]:
    """(name, as shown, at full precision)."""
    link = opened.link
    low, high = link.data.compute
    what = KINDS[link.kind]
    rows: list[tuple[str, str, str | None]] = [
        ("Kind", link.kind.replace("_", " "), f"source {what[0]}, target {what[1]}"),
        ("Method", link.method, None),
        ("Pairs", f"{link.data.n_pairs} at {link.data.budgets} budgets{_drawn(opened)}", None),
        ("Runs", f"{link.data.n_source} source, {link.data.n_target} target", None),
        (
            "Compute of the pairs",
            f"{text.scientific(low, 2)} – {text.scientific(high, 2)} FLOPs",
            f"{low} – {high}",
        ),
        ("R² of the losses", text.number(link.r2, 4), str(link.r2)),
        ("R² of the logs above the floors", text.number(link.r2_log, 4), str(link.r2_log)),
        ("κ there and back", _back(link), None),
        ("Intervals", f"{link.level:.0%}, by {link.resample}", None),
        ("Draws", f"{len(link.draws):,}", None),
        ("Loss unit", link.unit, None),
        ("N counts", link.n_convention.replace("_", " "), None),
    ]
    if link.mixture:
        rows.append(("Source trained on", link.mixture, None))
    rows += [
        ("Seed", str(link.seed), None),
        ("Data digest", str(opened.row["digest"])[:12], str(opened.row["digest"])),
    ]
    return rows


def _back(link: Link) -> str:
    both = link.certificate.get("kappa_there_and_back")
    return text.MISSING if both is None else text.number(both, 4)


def _predicted(link: Link, x: float) -> LinkPrediction | None:
    return None if link.source_law is None else link.predict(x, measured=False)


def _pairs(opened: OpenLink) -> list[dict[str, Any]]:
    """The pairs with what the link says of each; NaN residual at or below the floor."""
    rows = []
    for pair in opened.document["pairs"]:
        try:
            value = float(opened.link.predict(pair["source"], flops=pair["flops"]).value[0])
        except FittingError:
            value = float("nan")
        rows.append({**pair, "link": value, "residual": pair["target"] / value - 1.0})
    return rows


def _scatter(opened: OpenLink) -> go.Figure:
    link, document = opened.link, opened.document
    unit = link.unit
    pairs = _cloud(document["pairs"])
    held = document.get("held_out")
    # from the largest source loss down to what a hundred times the compute would reach
    last = [source_loss_at(link, LADDER[-1])]
    if held:
        last += [point["source"] for point in held["points"] if "loss" in point]
    xs = np.linspace(min(last), float(np.max(pairs.x)), 120)
    xs = xs[xs > float(link.values[2])]
    found = link.predict(xs)
    line = Line(xs, found.value, found.lower, found.upper, "link")
    return figures.link(
        pairs,
        line,
        (float(link.values[2]), float(link.values[3])),
        Quantity(f"loss on {link.names[0]}", unit, log=False),
        Quantity(f"loss on {link.names[1]}", unit, log=False),
        FLOPS,
        None if not held else _cloud(held["points"]),
        link.level,
    )


def _cloud(rows: list[dict[str, Any]]) -> Cloud:
    x, y, flops = (np.array([row[n] for row in rows], float) for n in ("source", "target", "flops"))
    labels = [
        f"N {text.quantity(row['N'], 'parameters')}, D {text.quantity(row['D'], 'tokens')}"
        for row in rows
    ]
    return Cloud(x, y, flops, labels)
