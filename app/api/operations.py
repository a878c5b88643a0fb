"""/v1/health, /metrics, /v1/corpora, /v1/keys"""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field

from app.api import telemetry
from app.api.auth import ADMIN, READ
from app.api.dependencies import Cursor, DatabaseDep, Id, Limit, SettingsDep
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import Answer, Name, PageOf, Timed
from app.api.schemas.common import Request as Body
from app.services import corpora_at, health, keys, paging

open_router = APIRouter(tags=["operations"])
router = APIRouter(prefix="/v1", tags=["operations"], route_class=IdempotentRoute)


class HealthOut(Answer):
    status: Literal["ok", "degraded"]
    database: str
    schema_revision: str
    queued_runs: int
    running_runs: int
    workers: int = Field(
        description="Living ones; a process that serves two queues, as it does unless told, is two."
    )
    problems: list[str]


class KeyIn(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci", "scopes": ["read"]}]})

    name: Name
    scopes: list[Literal["read", "submit", "admin"]] = Field(min_length=1, max_length=3)


class KeyOut(Timed):
    id: int
    name: str
    prefix: str
    scopes: list[str]
    revoked_at: datetime | None


class NewKey(Answer):
    key: str = Field(description="Shown once, kept as a digest.")
    name: str
    scopes: list[str]


class CorpusOut(Answer):
    name: str
    digest: str
    path: str
    tokens: dict[str, float]
    tokenizer: dict[str, Any]


class CorporaOut(Answer):
    items: list[CorpusOut]


@open_router.get("/v1/health")
def get_health(database: DatabaseDep) -> HealthOut:
    """Is everything there that the work needs? No key is asked for."""
    with database.begin() as connection:
        found = health.check(connection)
    return HealthOut(schema_revision=found.schema, **{**vars(found), "schema": None})


@open_router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[READ],
)
def get_metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(request.app.state.telemetry.exposition(), media_type=telemetry.CONTENT_TYPE)


@router.get("/corpora", dependencies=[READ])
def list_corpora(settings: SettingsDep) -> CorporaOut:
    """The corpora that sweeps may name."""
    return CorporaOut.model_validate({"items": corpora_at.listed(settings)})


@router.post("/keys", status_code=201, dependencies=[ADMIN])
def create_key(body: KeyIn, database: DatabaseDep) -> NewKey:
    """Make an API key. Its text is in this answer and nowhere else."""
    with database.begin() as connection:
        key = keys.create(connection, body.name, list(body.scopes))
    return NewKey(key=key, name=body.name, scopes=list(body.scopes))


@router.get("/keys", dependencies=[ADMIN])
def list_keys(
    database: DatabaseDep, cursor: Cursor = None, limit: Limit = paging.DEFAULT_LIMIT
) -> PageOf[KeyOut]:
    """API keys, by how they begin."""
    with database.begin() as connection:
        return PageOf[KeyOut].model_validate(keys.page(connection, cursor=cursor, limit=limit))


@router.delete("/keys/{key_id}", status_code=204, dependencies=[ADMIN])
def revoke_key(key_id: Id, database: DatabaseDep) -> None:
    """End a key for ever; it is refused everywhere within five seconds."""
    with database.begin() as connection:
        keys.revoke(connection, key_id)
