"""Predictions: a fit and some inputs -> losses, each with its interval and its reach."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import fits, paging
from app.services.errors import ServiceError, not_found
from app.storage import predictions as storage
from app.storage.errors import NotFound
from app.storage.predictions import StoredPrediction
from fitting import Prediction

MAX_POINTS = 100_000
# Longer ones are answered and not kept: they can be asked for again.
MAX_KEPT_POINTS = 1_000


def predict(
    connection: Connection,
    fit_id: int,
    inputs: Mapping[str, Sequence[float]],
    *,
    level: float | None = None,
) -> Prediction:
    """`inputs` is {name: values}, one value a point, or a single one that stands for all."""
    fit = fits.load(connection, fit_id)
    lengths = {len(column) for column in inputs.values()}
    if not inputs or 0 in lengths:
        raise ServiceError(
            "invalid",
            "There are no points to predict.",
            f"Give one value of each of {', '.join(fit.law.input_names)} a point.",
            column="at",
        )
    if max(lengths) > MAX_POINTS:
        raise ServiceError(
            "too_large",
            f"{max(lengths)} points are more than {MAX_POINTS}.",
            "Ask in several requests.",
            column="at",
        )
    unknown = sorted(set(inputs) - set(fit.law.input_names))
    if unknown:
        raise ServiceError(
            "invalid",
            f"{fit.law.name} has no input {unknown[0]!r}.",
            f"Its inputs are {', '.join(fit.law.input_names)}.",
            column=unknown[0],
        )
    columns = {name: np.asarray(column, dtype=float) for name, column in inputs.items()}
    return fit.predict(columns, level=level)


def keep(
    connection: Connection, fit_id: int, request: Mapping[str, Any], prediction: Prediction
) -> StoredPrediction:
    """Store an answer, to be linked to."""
    if len(prediction.value) > MAX_KEPT_POINTS:
        raise ServiceError(
            "too_large",
            f"A prediction of {len(prediction.value)} points is not kept (at most "
            f"{MAX_KEPT_POINTS}).",
            "Leave out `keep`: the answer comes all the same.",
            column="keep",
        )
    return storage.create(connection, fit_id, request, prediction.to_dict())


def get(connection: Connection, prediction_id: int) -> StoredPrediction:
    try:
        return storage.get(connection, prediction_id)
    except NotFound:
        raise not_found("prediction", prediction_id) from None


def page(
    connection: Connection,
    *,
    fit_id: int | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[StoredPrediction]:
    stored = storage.page(connection, fit_id=fit_id, after=paging.after_of(cursor), limit=limit)
    return paging.page_of(stored, lambda prediction: prediction)
