"""/v1/tasks: accuracy from loss."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.tasks import TaskIn, TaskOut, TaskPredictionIn, TaskPredictionOut
from app.api.unchanging import UNCHANGED, etag_of, unchanged
from app.services import paging, tasks

router = APIRouter(
    prefix="/v1/tasks", tags=["tasks"], route_class=IdempotentRoute, dependencies=[READ]
)


@router.post("", status_code=201, dependencies=[SUBMIT])
def create_task(body: TaskIn, database: DatabaseDep, response: Response) -> TaskOut:
    """Fit accuracy as a curve of loss, anchored at chance, with a grade of how predictable it is.

    A task whose every accuracy is within noise of chance is refused: what comes after its threshold
    cannot be seen from before it.
    """
    with database.begin() as connection:
        made = tasks.create(connection, body.to_request())
    response.headers["Location"] = f"/v1/tasks/{made.id}"
    response.headers["ETag"] = etag_of(made)
    return TaskOut.model_validate(made)


@router.get("")
def list_tasks(
    database: DatabaseDep,
    project: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[TaskOut]:
    """Task laws, newest first, without their draws."""
    with database.begin() as connection:
        page = tasks.page(connection, project=project, cursor=cursor, limit=limit)
        return PageOf[TaskOut].model_validate(page)


@router.get(
    "/{task_id}",
    response_model=TaskOut,
    responses=UNCHANGED,
)
def get_task(
    task_id: Id,
    database: DatabaseDep,
    response: Response,
    draws: Annotated[bool, Query(description="With the draws: TASK.json as a whole.")] = False,
    if_none_match: Annotated[str, Header()] = "",
) -> TaskOut | Response:
    """One task law. It never changes, so its ETag holds for ever."""
    with database.begin() as connection:
        task = tasks.get(connection, task_id, draws=draws)
    return unchanged(task, response, if_none_match) or TaskOut.model_validate(task)


@router.post("/{task_id}/predict")
def predict_task(task_id: Id, body: TaskPredictionIn, database: DatabaseDep) -> TaskPredictionOut:
    """Accuracy from the task's loss, or step by step from the loss that its link starts from; each
    step's interval goes into the next."""
    with database.begin() as connection:
        found, between, notes = tasks.predict(
            connection, task_id, body.asked(), through_link=body.through_link
        )
    answer = found.to_dict()
    if between is not None:
        between |= {"source_fit": body.fit}
    return TaskPredictionOut.model_validate(
        {**answer, "task": task_id, "link": between, "warnings": [*answer["warnings"], *notes]}
    )
