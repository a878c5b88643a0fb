"""/v1/imports"""

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from app import importers
from app.api.auth import ADMIN, READ, SUBMIT
from app.api.dependencies import Cursor, Database, DatabaseDep, Id, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.imports import ImportedOut, ImportOptions, ImportOut, ImportRows
from app.importers.jsonl import named_once
from app.services import imports, laws, paging
from app.services.errors import ServiceError

router = APIRouter(
    prefix="/v1/imports", tags=["imports"], route_class=IdempotentRoute, dependencies=[READ]
)


def _body_schema() -> dict[str, Any]:
    """Two ways to send the same thing, which one parameter of a route cannot say."""
    rows, form = ImportRows.model_json_schema(), ImportOptions.model_json_schema()
    form["properties"]["columns"] = {"type": "string", "description": "A JSON object."}
    form["properties"]["format"] = {"type": "string", "enum": list(importers.FORMATS)}
    form["properties"]["file"] = {"type": "string", "format": "binary"}
    form["required"] = ["file", "project"]
    content = {"application/json": {"schema": rows}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


@router.post("", status_code=201, dependencies=[SUBMIT], openapi_extra=_body_schema())
async def create_import(request: Request, database: DatabaseDep, response: Response) -> ImportedOut:
    """Import runs (one row a run: N, D, loss) or curves (one row a step: run, step, loss).

    A CSV or JSON-lines file as multipart/form-data, or rows as JSON. All of it is stored, or, at
    the first row that is not good, nothing: the error names the row, the value and the remedy.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        form = await request.form(max_files=1, max_fields=50)
        made = await run_in_threadpool(_import_file, database, dict(form))
    elif content_type == "application/json":
        made = await run_in_threadpool(_import_rows, database, await request.body())
    else:
        raise HTTPException(415, f"An import is not sent as {content_type or 'nothing'}.")
    response.headers["Location"] = f"/v1/imports/{made.id}"
    return made


@router.get("")
def list_imports(
    database: DatabaseDep,
    project: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[ImportOut]:
    """Imports, newest first."""
    with database.begin() as connection:
        page = imports.page(connection, project=project, cursor=cursor, limit=limit)
        return PageOf[ImportOut].model_validate(page)


@router.get("/{import_id}")
def get_import(import_id: Id, database: DatabaseDep) -> ImportOut:
    """One import; its runs are at /v1/runs?import_id=."""
    with database.begin() as connection:
        return ImportOut.model_validate(imports.get(connection, import_id))


@router.delete("/{import_id}", status_code=204, dependencies=[ADMIN])
def delete_import(import_id: Id, database: DatabaseDep) -> None:
    """Undo an import: its runs are deleted with their curves; fits that used them stay."""
    with database.begin() as connection:
        imports.delete(connection, import_id)


def _import_rows(database: Database, body: bytes) -> ImportedOut:
    given = _checked(ImportRows, lambda: _rows_in(body))
    measured = importers.read_rows(given.rows, **_reading(given))
    return _store(database, given, measured, given.name)


def _rows_in(body: bytes) -> ImportRows:
    try:
        given = json.loads(body.decode(), object_pairs_hook=named_once)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        given = None
    except ValueError as error:
        raise ServiceError("invalid", f"{error} in one object.", "Name each column once.") from None
    if not isinstance(given, dict):
        return ImportRows.model_validate_json(body)  # which says what is wrong with it
    return ImportRows.model_validate(given)


def _import_file(database: Database, form: dict[str, Any]) -> ImportedOut:
    file, format = form.pop("file", None), form.pop("format", None)
    if not isinstance(file, UploadFile):
        raise ServiceError(
            "invalid", "The form has no file.", "Send it as the part `file`.", column="file"
        )
    if columns := form.get("columns"):
        try:
            form["columns"] = json.loads(columns, object_pairs_hook=named_once)
        except (ValueError, TypeError, RecursionError):
            raise ServiceError(
                "invalid",
                "columns is not a JSON object.",
                'Send {"loss": "name of the column"}.',
                column="columns",
                value=str(columns),
            ) from None
    else:
        form.pop("columns", None)
    given = _checked(ImportOptions, lambda: ImportOptions.model_validate(form))
    filename = (file.filename or "")[:300]
    measured = importers.read(
        file.file,
        format=format or importers.format_of(filename),
        **_reading(given),
    )
    return _store(database, given, measured, given.name or filename)


def _store(
    database: Database, given: ImportOptions, measured: importers.Measured, name: str
) -> ImportedOut:
    name = "".join(mark for mark in name if mark.isprintable())
    with database.begin() as connection:
        made = imports.store(
            connection,
            given.project,
            measured,
            filename=name,
            prefix=given.prefix,
            validation_set=given.validation_set,
            recipe=given.recipe,
        )
    return ImportedOut.model_validate(made)


def _reading(given: ImportOptions) -> dict[str, Any]:
    names = ("kind", "columns", "n_convention", "flops_convention", "loss_unit")
    return {"also": laws.further_inputs(), **{name: getattr(given, name) for name in names}}


def _checked(model: type[BaseModel], make: Any) -> Any:
    """A body that is read by hand is refused like one that the framework reads."""
    try:
        return make()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestValidationError(
            [{**one, "loc": ("body", *one["loc"])} for one in found]
        ) from None
