"""Forecasts against actuals."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.dashboard import figures, render
from app.dashboard.pages.database import reading
from app.services import overview as service

router = APIRouter(include_in_schema=False)


@router.get("/forecasts")
def forecasts(request: Request) -> HTMLResponse:
    with reading(request) as connection:
        rows = service.forecasts(connection)
    return render.page(
        request,
        "forecasts.html",
        page="Forecasts",
        forecasts=rows,
        score=service.score(rows),
        figures={"forecasts": figure(rows)} if rows else {},
    )


def figure(rows: Sequence[dict[str, Any]]) -> Any:
    """At most 20 forecasts, newest on top; the table has the rest."""
    shown = [
        figures.Forecast(
            row["label"],
            row["loss"],
            row["lower"],
            row["upper"],
            row["actual"],
            row["compute_ratio"],
            row["loss_unit"],
        )
        for row in rows[:20]
    ]
    levels = {row["level"] for row in rows[:20]}
    return figures.forecasts(shown, levels.pop() if len(levels) == 1 else None)
