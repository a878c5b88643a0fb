"""Laws of the whole curve: fits, what a schedule would give, and how it ranks against others.

An ordinary GET form: what is asked for is in the address, and nothing is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection

from app.dashboard import figures, render, schedule_form, text
from app.dashboard.pages.database import asked_or_newest, reading
from app.dashboard.schedule_form import Asked
from app.services import fitted, loss_curves, run_curves, runs
from app.services.errors import ServiceError
from app.storage import overview as storage
from app.storage.fitted import Stored
from fitting import FittingError
from fitting.curves import ENSEMBLE, CurveFit, CurvePrediction, Schedule
from fitting.curves.rank import Ranking, optimise_schedule, rank_schedules

router = APIRouter(include_in_schema=False)

MOST_LISTED = 50
MOST_OVERLAID = 12
POINTS = 140
SEARCHED_UNASKED = 10_000
"""Steps up to which the search over 504 schedules takes about a second; beyond, on request."""


@router.get("/curves")
def curves(request: Request) -> HTMLResponse:
    query = request.query_params
    with reading(request) as connection:
        kept = fitted.page(connection, "curve_fit", limit=MOST_LISTED).items
        named = {row["id"]: row["name"] for row in storage.projects(connection, 500)}
        stored = asked_or_newest(query.get("fit"), kept, partial(loss_curves.get, connection))
        shown: dict[str, Any] = {}
        if stored is not None:
            shown = asked_of(connection, stored, query)
    drawn = shown.pop("figure", None)
    return render.page(
        request,
        "curves.html",
        page="Curves",
        fits=[listed(one, named) for one in kept],
        fit=None if stored is None else listed(stored, named),
        missing="fit" in query,
        law=ENSEMBLE,
        kinds=schedule_form.KINDS,
        decays=schedule_form.DECAYS.items(),
        shown=shown,
        figures={} if drawn is None else {"curves": drawn},
    )


def listed(stored: Stored, projects: Mapping[int, str]) -> dict[str, Any]:
    document = stored.document
    loss = stored.request.get("validation_set")
    return {
        "id": stored.id,
        "law": stored.kind,
        "project": projects.get(stored.project_id or 0),
        "status": stored.status,
        "message": document["message"],
        "loss": f"loss on {loss}" if loss else "training loss",
        "loss_unit": stored.request.get("loss_unit") or "",
        "runs": document["data"]["runs"],
        "steps": document["data"]["steps"],
        "warnings": document["warnings"],
        "created_at": stored.created_at,
        "params": [
            {
                "name": name,
                "value": value,
                "interval": document["intervals"].get(name),
            }
            for name, value in document["params"].items()
        ],
    }


def asked_of(connection: Connection, stored: Stored, query: Mapping[str, str]) -> dict[str, Any]:
    """The form, the answer and the figure, as the page shows them."""
    fit = CurveFit.from_dict(loss_curves.with_nan(stored.document))
    data = fit.data
    low, high = (float(one) for one in data["peak_lr"])
    asked = schedule_form.read(query, steps=int(data["steps"]), peak_lr=high)
    shown: dict[str, Any] = {
        "asked": asked,
        "sliders": schedule_form.sliders(asked, (low, high), float(data["steps"])),
        "peaks": (low, high),
        "sizes": [text.quantity(one, "parameters") for one in data["sizes"]],
        "size": query.get("size", ""),
        "refusal": "",
        "unranked": "",
        "ranking": [],
        "answer": None,
        "search": False,
    }
    size = text.parse(query.get("size")) or (max(data["sizes"]) if data["sizes"] else None)
    try:
        schedule = asked.schedule()
        prediction = fit.predict(schedule, steps_of(fit, schedule.steps), size)
    except FittingError as error:
        shown["refusal"] = f"{error.message} {error.hint}".strip()
        return shown
    shown["answer"] = told(prediction)
    shown["figure"] = drawn(connection, stored, fit, asked, schedule, prediction)
    search = asked.steps <= SEARCHED_UNASKED or query.get("search") == "yes"
    try:
        ranking, best = ranked(_Kept.of(fit), asked, size, search)
    except FittingError as error:
        shown["unranked"] = f"{error.message} {error.hint}".strip()
        return shown
    shown["search"] = not search
    shown["ranking"] = [
        {
            **one.to_dict(),
            "interval": text.interval(one.lower, one.upper),
            "between": " to ".join(f"{end:+.3f}" for end in one.behind_interval).replace("-", "−"),
        }
        for one in ranking.ranked
    ]
    shown["by"] = [law.replace("_", " ") for law in ranking.by]
    shown["best"] = best
    shown["notes"] = [one["message"] for one in ranking.warnings]
    return shown


def steps_of(fit: CurveFit, last: int) -> np.ndarray:
    """Steps to draw, log-spaced, from the first that the fit read; a short run from its first."""
    first = min(fit.first_step, max(1, last // 20))
    return np.unique(np.round(np.geomspace(first, last, POINTS)).astype(np.int64))


def told(prediction: CurvePrediction) -> dict[str, Any]:
    """The final loss as the page writes it."""
    final = prediction.to_dict()["final"]
    return {
        **final,
        "interval": text.interval(final["lower"], final["upper"]),
        "level": prediction.level,
        "reach": {
            "steps": prediction.reach["steps"],
            "summed learning rate": prediction.reach["area"],
        },
        "warnings": list(prediction.flags),
    }


@dataclass(frozen=True)
class _Kept:
    """A fit by what its levels depend on, so that a search is not made again for each question."""

    key: tuple[Any, ...]
    fit: CurveFit = field(compare=False)

    @classmethod
    def of(cls, fit: CurveFit) -> "_Kept":
        values = tuple((one.law, *one.values.tolist()) for one in fit.each())
        return cls((fit.digest, fit.first_step, values), fit)


@lru_cache(maxsize=32)
def _searched(
    kept: _Kept, steps: int, peak_lr: float, warmup_steps: int, size: float | None
) -> tuple[Schedule, Mapping[str, float]]:
    found = optimise_schedule(kept.fit, steps, peak_lr, warmup_steps, size=size)
    return found.schedule, found.best


def ranked(
    kept: _Kept, asked: Asked, size: float | None, search: bool
) -> tuple[Ranking, Mapping[str, float] | None]:
    """The schedule that was asked for against those that people use, and the best if searched."""
    steps, peak, warm = asked.steps, asked.peak_lr, asked.warmup_steps
    schedules = {
        "this schedule": asked.schedule(),
        "cosine to a tenth": Schedule.cosine(steps, peak, warm, 0.1),
        "linear to zero": Schedule.from_dict(
            {"kind": "linear", "steps": steps, "peak_lr": peak, "warmup_steps": warm}
        ),
        "wsd, the last fifth 1 − √": Schedule.wsd(steps, peak, warm, steps // 5, "sqrt"),
    }
    best = None
    if search:
        schedule, best = _searched(kept, steps, peak, warm, size)
        schedules["best of 504"] = schedule
    return rank_schedules(kept.fit, schedules, size=size), best


def drawn(
    connection: Connection,
    stored: Stored,
    fit: CurveFit,
    asked: Asked,
    schedule: Schedule,
    prediction: CurvePrediction,
) -> go.Figure:
    """The fitted runs with the law through them, and the predicted curve."""
    steps, rates, shown = prediction.step, schedule.rates(), listed(stored, {})
    all_steps = np.unique(np.append(steps, np.linspace(1, schedule.steps, 300).astype(np.int64)))
    all_steps = all_steps[all_steps >= steps[0]]
    return figures.overlay(
        overlaid(connection, stored, fit),
        figures.Line(
            steps, prediction.value, prediction.lower, prediction.upper, f"this {asked.kind}"
        ),
        (all_steps, rates[all_steps - 1]),
        figures.Quantity(shown["loss"], shown["loss_unit"], log=False),
        prediction.level,
    )


def overlaid(connection: Connection, stored: Stored, fit: CurveFit) -> list[figures.Overlaid]:
    """The runs of a fit that the database still has; their points from the fit's first step on."""
    bare = without_draws(fit)
    found = []
    for run_id in stored.run_ids[:MOST_OVERLAID]:
        try:
            run = runs.get(connection, run_id)
            curve = run_curves.training_curve(connection, run, stored.request.get("validation_set"))
            last = int(curve.step[-1])
            steps = steps_of(fit, last)
            law = bare.predict(curve.schedule, steps, run.n_total)
        except (ServiceError, FittingError):
            continue
        keep = curve.step >= steps[0]
        found.append(
            figures.Overlaid(run.name, curve.step[keep], curve.loss[keep], steps, law.value)
        )
    return found


def without_draws(fit: CurveFit) -> CurveFit:
    """For levels only: a line needs no resamples."""
    members = tuple(without_draws(one) for one in fit.members)
    return replace(fit, draws=fit.draws[:0], members=members)
