"""One task law: accuracy from loss, step by step, each step with its grade."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import Connection

from app.dashboard import figures, render, text
from app.dashboard.figures import Cloud, Line, Quantity
from app.dashboard.pages.database import Id, reading
from app.services import tasks as service
from app.services.errors import ServiceError
from app.services.links import SourceLoss
from app.storage import overview as storage
from fitting import FittingError
from fitting.tasks import TaskFit

router = APIRouter(include_in_schema=False)

# Spans of the data's loss below them that the curve is drawn on to.
AHEAD = 0.5
GRADES = {
    "A": "misses by 1 to 3% at 20 times the compute are usual",
    "B": "misses of a few percent are usual",
    "C": "misses of 5% and more are usual",
    "D": "hardly a forecast: misses of a quarter are usual",
}


@dataclass(frozen=True)
class OpenTask:
    """A stored task law, read back."""

    row: dict[str, Any]
    task: TaskFit

    @property
    def name(self) -> str:
        return str(self.row["document"].get("name") or f"Task {self.row['id']}")


def open_task(connection: Connection, task_id: int) -> OpenTask | None:
    row = storage.task(connection, task_id)
    if row is None:
        return None
    try:
        return OpenTask(row, service.task_of(row["document"]))
    except FittingError:
        return None


@router.get("/tasks")
def tasks() -> Response:
    """They are listed with the links that they follow."""
    return Response(status_code=307, headers={"Location": "/links"})


@router.get("/tasks/{task_id}")
def task(
    request: Request, task_id: Id, loss: str = "", of: str = "task", source: str = "measured"
) -> HTMLResponse:
    with reading(request) as connection:
        opened = open_task(connection, task_id)
        shown = {} if opened is None else asked(connection, opened, loss, of, source)
    if opened is None:
        return render.missing(request, f"task {task_id}", "The page Links lists the others.")
    return render.page(
        request,
        "task.html",
        page="Links",
        task=description(opened) | {"asked": shown},
        figures={"task": figure_of(opened)},
    )


@router.get("/tasks/{task_id}/figures/task.{form}")
def export(request: Request, task_id: Id, form: str) -> Response:
    """The figure as a self-contained HTML page or as plotly JSON."""
    with reading(request) as connection:
        opened = open_task(connection, task_id)
    if opened is None or form not in ("html", "json"):
        return render.missing(request, f"figure task.{form}", "Exports are .html and .json.")
    make = render.export_html if form == "html" else render.export_json
    return make(figure_of(opened), f"task-{task_id}")


def asked(
    connection: Connection, opened: OpenTask, loss: str, of: str, source: str
) -> dict[str, Any]:
    """The form's own question and its answer, or why there is none."""
    low, high = opened.task.loss_range
    through = of == "source" and opened.row["document"].get("link") is not None
    shown: dict[str, Any] = {
        "loss": loss or f"{low - 0.1 * (high - low):.4g}",
        "of": "source" if through else "task",
        "source": "predicted" if source == "predicted" else "measured",
        "refusal": "",
        "answer": None,
        "between": None,
    }
    x = text.parse(shown["loss"])
    if x is None:
        return shown | {"refusal": f"{loss[:40]!r} is not a number."}
    question = SourceLoss(loss=[x], measured=shown["source"] == "measured")
    try:
        found, between, _ = service.predict(
            connection, int(opened.row["id"]), question, through_link=through
        )
    except (FittingError, ServiceError) as error:
        return shown | {"refusal": f"{error.message} {error.hint}".strip()}
    return shown | {
        "answer": found.to_dict()["predictions"][0],
        "between": None if between is None else between["predictions"][0],
        "warnings": [
            *(warning.to_dict() for warning in found.warnings),
            *([] if between is None else between["warnings"]),
        ],
    }


def description(opened: OpenTask) -> dict[str, Any]:
    """Everything that the page says in words and tables."""
    task, document = opened.task, opened.row["document"]
    intervals = task.intervals()
    low, high = task.loss_range
    worst, best = task.accuracy_range
    facts: list[tuple[str, str, str | None]] = [
        ("Curve", task.curve.title, None),
        ("Points", str(task.n_points), None),
        ("Loss of the data", f"{text.loss(low)} – {text.loss(high)}", f"{low} – {high}"),
        ("Accuracy of the data", f"{worst:.1%} – {best:.1%}", f"{worst} – {best}"),
        ("Guessing scores", text.MISSING if task.chance is None else f"{task.chance:.1%}", None),
        ("R²", text.number(task.r2, 4), str(task.r2)),
        ("Noise of one run", f"{task.calibration.noise:.2%}", str(task.calibration.noise)),
        (
            "Backtested drift, a span of loss on",
            f"{task.calibration.drift:.1%}",
            str(task.calibration.drift),
        ),
        ("Loss unit", document["loss_unit"], None),
        ("Intervals", f"{task.level:.0%}, {len(task.draws):,} resamples of runs", None),
        ("Seed", str(task.seed), None),
        ("Data digest", str(opened.row["digest"])[:12], str(opened.row["digest"])),
    ]
    points = document["points"]
    curve = task.accuracy(np.array(points["loss"], float))
    return {
        "id": opened.row["id"],
        "name": opened.name,
        "project": opened.row["project"],
        "status": opened.row["status"],
        "grade": task.grade,
        "grade_says": GRADES[task.grade],
        "grades": GRADES,
        "link": document.get("link"),
        "source": task.curve.source,
        "warnings": [warning.to_dict() for warning in task.warnings],
        "level": task.level,
        "loss_unit": document["loss_unit"],
        "params": [
            {
                "name": name,
                "value": value,
                "lower": intervals.get(name, (None, None))[0],
                "upper": intervals.get(name, (None, None))[1],
            }
            for name, value in task.params.items()
        ],
        "facts": facts,
        "points": [
            {
                "label": _label(points, i),
                "loss": loss,
                "accuracy": accuracy,
                "curve": float(curve[i]),
            }
            for i, (loss, accuracy) in enumerate(
                zip(points["loss"], points["accuracy"], strict=True)
            )
        ][:500],
    }


def _label(points: dict[str, Any], i: int) -> str:
    return f"point {i + 1}" if points.get("run") is None else str(points["run"][i])


def figure_of(opened: OpenTask) -> go.Figure:
    task, document = opened.task, opened.row["document"]
    low, high = task.loss_range
    start = low - AHEAD * (high - low)
    if task.curve.floor is not None:
        start = max(start, task.params[task.curve.floor] * (1 + 1e-6) + 1e-6)
    xs = np.linspace(max(start, 1e-3 * low), high, 120)
    found = task.predict(xs)
    points = document["points"]
    labels = [_label(points, i) for i in range(len(points["loss"]))]
    return figures.task(
        Cloud(np.array(points["loss"], float), np.array(points["accuracy"], float), labels=labels),
        Line(xs, found.accuracy, found.lower, found.upper, task.curve.name),
        task.chance,
        Quantity("loss of the task", document["loss_unit"], log=False),
        low,
        task.level,
    )
