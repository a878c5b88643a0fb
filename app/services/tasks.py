"""Tasks: accuracy from loss, after a link where the loss is not the task's own.

The steps are loss -> task loss (a link) -> accuracy (a curve), each with its grade; a forecast goes
from one to the next with its interval. A task law never changes; to fit again is to make another.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import fits, fitted, links, paging, projects
from app.services.errors import ServiceError
from app.services.links import SourceLoss
from app.storage import fitted as storage
from app.storage.fitted import Stored
from fitting.tasks import TaskFit, TaskPrediction, fit_task
from fitting.tasks.fit_task import AUTO, grade_of

__all__ = ["AUTO", "StoredTask", "TaskRequest", "create", "get", "page", "predict", "task_of"]

RESOURCE: storage.Resource = "task"
MAX_DRAWS = 2_000
MAX_POINTS = 5_000
LINK_PARAMS = 4


@dataclass(frozen=True)
class TaskRequest:
    """loss, accuracy (shares), run labels: one a point. chance: of guessing; questions: how many
    the task has; loss_floor: E of the loss; link: from which loss the task's own follows."""

    loss: Sequence[float]
    accuracy: Sequence[float]
    run: Sequence[str] | None = None
    name: str = ""
    form: str = AUTO
    chance: float | None = None
    questions: int | None = None
    loss_floor: float | None = None
    loss_unit: str = "nats/token"
    link: int | None = None
    project: str | int | None = None
    draws: int = 200
    level: float = 0.9
    seed: int = 0


@dataclass(frozen=True)
class StoredTask:
    """A task law as it is kept. `kind` is its curve, `document` TASK.json with its points."""

    id: int
    project_id: int | None
    kind: str
    status: str
    digest: str
    request: dict[str, Any]
    document: dict[str, Any]
    run_ids: list[int]
    created_at: datetime


def create(connection: Connection, request: TaskRequest) -> StoredTask:
    """Fit and store. FittingError where the points cannot be used, or where every accuracy is
    within noise of chance: below its threshold a task is refused."""
    if len(request.loss) > MAX_POINTS:
        raise ServiceError(
            "too_large", f"{len(request.loss)} points are more than {MAX_POINTS}.", "Thin them."
        )
    project_id = None
    if request.project is not None:
        project_id = projects.resolve(connection, request.project).id
    first = None
    if request.link is not None:
        link = links.get(connection, request.link)
        project_id = project_id if project_id is not None else link.project_id
        first = _step(link, request.loss_unit)
    task = fit_task(
        request.loss,
        request.accuracy,
        request.form,
        chance=request.chance,
        run=request.run,
        questions=request.questions,
        loss_floor=request.loss_floor,
        draws=request.draws,
        level=request.level,
        seed=request.seed,
    )
    points = {"loss": list(request.loss), "accuracy": list(request.accuracy)}
    document = fits.finite(
        {
            **task.to_dict(),
            "name": request.name,
            "loss_unit": request.loss_unit,
            "link": first,
            "points": {**points, "run": None if request.run is None else list(request.run)},
        }
    )
    stored = storage.create(
        connection,
        RESOURCE,
        kind=task.curve.name,
        status="degenerate"
        if any(warning.code == "parameter_at_bound" for warning in task.warnings)
        else "converged",
        digest=hashlib.sha256(json.dumps(points).encode()).hexdigest(),
        request={
            name: value
            for name, value in asdict(request).items()
            if name not in ("loss", "accuracy", "run")
        },
        document=document,
        project_id=project_id,
    )
    return _shown(stored, draws=False)


def get(connection: Connection, task_id: int, *, draws: bool = False) -> StoredTask:
    return _shown(fitted.get(connection, RESOURCE, task_id), draws=draws)


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[StoredTask]:
    """Newest first, without draws."""
    return fitted.page_as(
        connection,
        RESOURCE,
        lambda one: _shown(one, draws=False),
        project=project,
        cursor=cursor,
        limit=limit,
    )


def task_of(document: Mapping[str, Any]) -> TaskFit:
    return TaskFit.from_dict(document)


def predict(
    connection: Connection, task_id: int, asked: SourceLoss, *, through_link: bool = False
) -> tuple[TaskPrediction, dict[str, Any] | None, list[dict[str, str]]]:
    """Accuracies, what the link said of the task's loss (None without it), and remarks.

    asked: of the task's own loss, or, through_link, of the loss that the task's link starts from.
    A loss from a fit is a forecast of the task's own loss unless it goes through the link.
    """
    stored = fitted.get(connection, RESOURCE, task_id)
    task = task_of(stored.document)
    step = stored.document.get("link")
    if through_link:
        if step is None:
            raise ServiceError(
                "invalid",
                f"Task {task_id} was fitted without a link: only its own loss leads to accuracy.",
                'Give "loss", or fit the task with "link".',
                column="source_loss",
            )
        level = asked.level if asked.level is not None else task.level
        between, notes = links.predict(
            connection, int(step["id"]), SourceLoss(**{**vars(asked), "level": level})
        )
        answer = {**between.to_dict(), "link": int(step["id"])}
        answer["warnings"] = [*answer["warnings"], *notes]
        return task.predict(between, level=level), answer, notes
    if asked.fit is not None:
        fit = fits.load(connection, asked.fit)
        if fit.loss_unit != stored.document["loss_unit"]:
            raise ServiceError(
                "invalid",
                f"Fit {asked.fit} is in {fit.loss_unit}, the task in "
                f"{stored.document['loss_unit']}.",
                "Fit both in one unit.",
                column="fit",
                value=asked.fit,
            )
        level = asked.level if asked.level is not None else task.level
        inputs = {name: np.asarray(column) for name, column in (asked.inputs or {}).items()}
        return task.predict(fit.predict(inputs, level), level=level), None, []
    if asked.loss is None:
        raise ServiceError(
            "invalid",
            "A task needs a loss: its own, that of its link's source, or a fit that forecasts it.",
            'Give "loss", "source_loss", or "fit" with "points".',
            column="loss",
        )
    interval = None
    if asked.lower is not None and asked.upper is not None:
        if not len(asked.lower) == len(asked.upper) == len(asked.loss):
            raise ServiceError(
                "invalid",
                f"{len(asked.lower)} intervals for {len(asked.loss)} losses.",
                "Give one for each.",
                column="loss_interval",
            )
        interval = (np.asarray(asked.lower), np.asarray(asked.upper))
    found = task.predict(np.asarray(asked.loss, float), interval=interval, level=asked.level)
    return found, None, []


def _step(link: links.StoredLink, unit: str) -> dict[str, Any]:
    """The first step of the chain, with its grade."""
    document = link.document
    if document["loss_unit"] != unit:
        raise ServiceError(
            "invalid",
            f"Link {link.id} is in {document['loss_unit']}, the task's loss in {unit}.",
            'Fit the link with "loss_unit", or say the unit of the task\'s losses.',
            column="loss_unit",
            value=unit,
        )
    r2 = document["r2_log"]
    return {
        "id": link.id,
        "source": document["source"],
        "target": document["target"],
        "r2": r2,
        "n_pairs": document["n_pairs"],
        "grade": "D" if r2 is None else grade_of(r2, document["n_pairs"], LINK_PARAMS),
    }


def _shown(stored: Stored, *, draws: bool) -> StoredTask:
    parts = {**vars(stored), "document": dict(stored.document), "run_ids": list(stored.run_ids)}
    if not draws:
        parts["document"].pop("draws", None)
    return StoredTask(**parts)
