"""/v1/projects"""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.api.auth import ADMIN, READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.projects import ProjectIn, ProjectOut
from app.services import paging, projects

router = APIRouter(
    prefix="/v1/projects", tags=["projects"], route_class=IdempotentRoute, dependencies=[READ]
)
Key = Annotated[str, Path(max_length=300, description="Id or name.", examples=["demo"])]


@router.post("", status_code=201, dependencies=[SUBMIT])
def create_project(body: ProjectIn, database: DatabaseDep, response: Response) -> ProjectOut:
    """Make a project: what runs, sweeps and fits belong to."""
    with database.begin() as connection:
        made = projects.create(connection, body.name, body.description)
    response.headers["Location"] = f"/v1/projects/{made.id}"
    return ProjectOut.model_validate(made)


@router.get("")
def list_projects(
    database: DatabaseDep, cursor: Cursor = None, limit: Limit = paging.DEFAULT_LIMIT
) -> PageOf[ProjectOut]:
    """Projects, newest first."""
    with database.begin() as connection:
        return PageOf[ProjectOut].model_validate(
            projects.page(connection, cursor=cursor, limit=limit)
        )


@router.get("/{project}")
def get_project(project: Key, database: DatabaseDep) -> ProjectOut:
    """One project and how much is in it."""
    with database.begin() as connection:
        return ProjectOut.model_validate(projects.get(connection, project))


@router.delete("/{project}", status_code=204, dependencies=[ADMIN])
def delete_project(project: Key, database: DatabaseDep) -> None:
    """Delete a project and everything in it, for good."""
    with database.begin() as connection:
        projects.delete(connection, project)
