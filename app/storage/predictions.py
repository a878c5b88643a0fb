"""Predictions that were asked for, with the fit that made them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from app.storage.errors import NotFound
from app.storage.rows import Page, columns_of, find_row, page_of, value_of
from app.storage.tables import predictions


@dataclass(frozen=True)
class StoredPrediction:
    id: int
    fit_id: int
    request: dict[str, Any]
    document: dict[str, Any]
    created_at: datetime


def create(
    connection: Connection, fit_id: int, request: Mapping[str, Any], document: Mapping[str, Any]
) -> StoredPrediction:
    row = connection.execute(
        insert(predictions)
        .values(fit_id=fit_id, request=dict(request), document=dict(document))
        .returning(*columns_of(StoredPrediction, predictions))
    ).one()
    return value_of(StoredPrediction, row)


def get(connection: Connection, prediction_id: int) -> StoredPrediction:
    found = find_row(connection, StoredPrediction, predictions, id=prediction_id)
    if found is None:
        raise NotFound("prediction", prediction_id)
    return found


def page(
    connection: Connection,
    *,
    fit_id: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> Page[StoredPrediction]:
    where: dict[str, object] = {"fit_id": fit_id}
    return page_of(connection, StoredPrediction, predictions, where=where, after=after, limit=limit)
