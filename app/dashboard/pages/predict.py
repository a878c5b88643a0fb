"""Predict and allocate: sliders, an answer with its interval and reach, and what it costs to move.

Without a script the form is an ordinary GET; with it the same numbers come from the REST API while
a slider moves, and the figure from `/predict/figure.json`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from app.dashboard import figures, render, surface, text
from app.dashboard.figures import Line
from app.dashboard.pages.allocations import ladder, told
from app.dashboard.pages.database import reading
from app.dashboard.pages.fits import chosen_fit, first_law, loss_quantity
from app.storage import overview as storage
from fitting import Allocation, AllocationProblem, Fit, FittingError, allocate
from fitting.runs import leaves_the_floats

router = APIRouter(include_in_schema=False)

BUDGET = "budget"
FIRST_BUDGET = 10.0
"""The page opens at ten times the largest run: the question that people come with."""


@router.get("/predict")
def predict(request: Request) -> HTMLResponse:
    with reading(request) as connection:
        fits = storage.fits(connection)
        opened = chosen_fit(connection, request.query_params.get("fit"), fits)
    if opened is None:
        return render.page(
            request,
            "predict.html",
            page="Predict",
            fit=None,
            missing="fit" in request.query_params,
            first_law=first_law(),
        )
    fit = opened.fit
    asked = values_of(fit, request.query_params)
    allocation, refusal = _allocation(fit, asked)
    drawn = answer_figure(fit, asked, allocation)
    return render.page(
        request,
        "predict.html",
        page="Predict",
        fits=fits,
        fit={
            "id": opened.id,
            "loss_unit": fit.loss_unit,
            "plane": BUDGET in asked,
            "largest": fit.data.compute[1] if fit.data.compute else "",
        },
        sliders=sliders(fit, asked),
        answer=answer(fit, asked),
        allocation=None if allocation is None else told(fit, allocation),
        allocation_refusal=refusal,
        ladder=ladder(fit, fixed_of(asked)) if allocation is not None else [],
        figures={} if drawn is None else {"answer": drawn},
        shown_figures=[] if drawn is None else [("answer", *_caption(fit, allocation))],
    )


@router.get("/predict/figure.json")
def figure(request: Request) -> Response:
    """The figure of the page, for the values in the query."""
    with reading(request) as connection:
        opened = chosen_fit(connection, request.query_params.get("fit"), storage.fits(connection))
    if opened is None:
        return render.missing(request, "fit of that number", "The page Fits lists them.")
    asked = values_of(opened.fit, request.query_params)
    drawn = answer_figure(opened.fit, asked, _allocation(opened.fit, asked)[0])
    return render.export_json(drawn or go.Figure(), "prediction")


def ranges(fit: Fit) -> dict[str, tuple[float, float]]:
    """{input or budget: (low, high)} of the sliders: from under the data to far beyond it, and at
    least the range in which the law is usually used.
    """
    found = {}
    for item in surface.numbers(fit.law):
        low, high = fit.data.inputs.get(item.name, item.typical)
        if item.typical[0] > 0:
            low, high = low / 3, high * 1000
        found[item.name] = (min(low, item.typical[0]), max(high, item.typical[1]))
    if {"N", "D"} <= set(found) and fit.data.compute is not None:
        low, high = fit.data.compute
        found[BUDGET] = (low, high * 1e6)
    return found


def values_of(fit: Fit, query: Mapping[str, str]) -> dict[str, float]:
    """What the form asks for; an input that is missing or unreadable gets its first value."""
    spans = ranges(fit)
    asked = {name: _usable(text.parse(query.get(name))) for name in spans}
    first: dict[str, float] = {}
    for name, (low, high) in spans.items():
        data = fit.data.inputs.get(name, (low, high))
        first[name] = data[1]
    if BUDGET in spans and fit.data.compute is not None:
        first[BUDGET] = FIRST_BUDGET * fit.data.compute[1]
        budget = asked[BUDGET] or first[BUDGET]
        best = surface.optimum(fit, budget, fixed=fixed_of(first))
        if best is not None:
            first |= {"N": best.optimal["N"], "D": best.optimal["D"]}
    positive = {item.name for item in fit.law.inputs if item.positive} | {BUDGET}
    return {
        name: first[name] if value is None or (name in positive and value <= 0) else value
        for name, value in asked.items()
    }


def _usable(value: float | None) -> float | None:
    return None if value is None or leaves_the_floats(np.abs(value)) else value


def fixed_of(asked: Mapping[str, float]) -> dict[str, float]:
    """What an allocation holds: the inputs that a budget does not pay for."""
    return {name: value for name, value in asked.items() if name not in ("N", "D", BUDGET)}


def sliders(fit: Fit, asked: Mapping[str, float]) -> list[dict[str, Any]]:
    """One slider an input, and one for the budget; positions are log10 of the value."""
    described = {item.name: (f"{item.about} {item.name}", item.unit) for item in fit.law.inputs}
    described[BUDGET] = ("Budget", "FLOPs")
    rows = []
    for name, (low, high) in ranges(fit).items():
        label, unit = described[name]
        log = low > 0
        place = np.log10 if log else float
        rows.append(
            {
                "name": name,
                "label": label[:1].upper() + label[1:],
                "unit": unit,
                "log": log,
                "low": round(float(place(low)), 3),
                "high": round(float(place(high)), 3),
                "at": round(float(place(max(asked[name], low) if log else asked[name])), 3),
                "shown": _typed(asked[name], unit),
                "low_shown": text.quantity(low, unit, 2),
                "high_shown": text.quantity(high, unit, 2),
            }
        )
    return rows


def _typed(value: float, unit: str) -> str:
    return f"{value:.4g}" if unit.lower() == "flops" else text.quantity(value, unit, 4)


def answer(fit: Fit, asked: Mapping[str, float]) -> dict[str, Any]:
    """The loss of the run asked for, with its interval and its reach."""
    inputs = {name: asked[name] for name in fit.law.input_names}
    found = fit.predict({name: np.array([value]) for name, value in inputs.items()})
    both = {"N", "D"} <= set(inputs)
    ahead = {}
    if both and fit.data.compute is not None:
        ahead["compute"] = float(surface.cost(inputs["N"], inputs["D"])) / fit.data.compute[1]
    return {
        "loss": float(found.value[0]),
        "lower": float(found.lower[0]),
        "upper": float(found.upper[0]),
        "level": found.level,
        "warnings": list(found.warnings),
        "reach": {name: float(values[0]) for name, values in found.reach.items()} | ahead,
        "flops": float(surface.cost(inputs["N"], inputs["D"])) if both else None,
        "ratio": inputs["D"] / inputs["N"] if both else None,
    }


def _allocation(fit: Fit, asked: Mapping[str, float]) -> tuple[Allocation | None, str | None]:
    if BUDGET not in asked:
        return None, None
    try:
        return allocate(AllocationProblem(fit, asked[BUDGET], fixed=fixed_of(asked))), None
    except FittingError as error:
        return None, f"{error} Move the budget, or fit other runs."


def answer_figure(
    fit: Fit, asked: Mapping[str, float], allocation: Allocation | None
) -> go.Figure | None:
    """Along the budget where there is one; else along the first input."""
    inputs = {name: asked[name] for name in fit.law.input_names}
    if allocation is not None:
        best = allocation.optimal
        xs = np.geomspace(best["N"] / 30, best["N"] * 30, 96)
        along = {**inputs, "N": xs, "D": allocation.budget_flops / 6.0 / xs}
        x = next(item for item in fit.law.inputs if item.name == "N")
        near = best["N"] / 30 <= inputs["N"] <= best["N"] * 30
        here = abs(np.log(surface.cost(inputs["N"], inputs["D"]) / allocation.budget_flops)) < 0.05
        return figures.valley(
            Line(xs, *surface.predicted(fit, along, len(xs))),
            surface.quantity_of(x),
            loss_quantity(fit),
            (best["N"], best["loss"]),
            tuple(allocation.valley["N"]),
            allocation.valley["tolerance"],
            # a run of another budget does not lie on this curve
            (inputs["N"], answer(fit, asked)["loss"])
            if near and here and abs(np.log(inputs["N"] / best["N"])) > 0.02
            else None,
        )
    items = surface.numbers(fit.law)
    if not items or len(items) < len(fit.law.inputs):
        return None
    low, high = ranges(fit)[items[0].name]
    xs = np.geomspace(low, high, 96) if low > 0 else np.linspace(low, high, 96)
    return figures.valley(
        Line(xs, *surface.predicted(fit, {**inputs, items[0].name: xs}, len(xs))),
        surface.quantity_of(items[0]),
        loss_quantity(fit),
        chosen=(inputs[items[0].name], answer(fit, asked)["loss"]),
    )


def _caption(fit: Fit, allocation: Allocation | None) -> tuple[str, str]:
    if allocation is None:
        first = fit.law.input_names[0]
        return f"Loss along {first}", f"The other inputs stay as chosen; band: {fit.level:.0%}."
    return (
        "Loss along the budget",
        "Every point spends the same compute (C = 6ND): smaller models see more tokens. "
        f"The band is the {fit.level:.0%} interval of a new run.",
    )
