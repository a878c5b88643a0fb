"""Time and money: a budget of GPU-hours, a deadline or dollars -> the plan that spends it best.

An ordinary GET form: what is asked for is in the address, and nothing is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.dashboard import figures, render, surface, text
from app.dashboard.pages.database import id_of, reading
from app.dashboard.pages.fits import OpenFit, chosen_fit, first_law, loss_quantity
from app.services import calibrations, fitted
from app.services.calibrations import Machine
from app.services.errors import ServiceError
from app.storage import overview as storage
from fitting import FittingError
from fitting.costs import GPUS, Setup, Shape, StepTime
from fitting.planning import (
    Budget,
    Candidates,
    ShapeAllocation,
    ShapeProblem,
    allocate_shape,
    landscape,
)
from fitting.planning.table import Table

router = APIRouter(include_in_schema=False)

# What a data sheet does not know: the family that shapes are resized from, and how steps are run.
FAMILY = Shape(d_model=1024, n_layers=16, d_ff=2816, vocab_size=32_000, n_heads=16, seq_len=2048)
SETUP = Setup(batch_tokens=524_288.0, gpus=8)
LIMITS = {
    "gpu_hours": ("Compute", "GPU-hours", 1.0, 1e7),
    "hours": ("Deadline", "hours", 1.0, 1e4),
    "dollars": ("Money", "dollars", 10.0, 1e8),
}
FIRST_GPU_HOURS = 1000.0
MOST_GPUS = 8
PLAIN = ("width", "depth", "hours", "gpu_hours", "dollars")
TIMES = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Asked:
    """The form as it was read; a limit that is empty does not hold."""

    machine: str
    limits: dict[str, float | None]
    price: float | None
    gpus: list[int]
    batch_tokens: float | None

    def budget(self) -> Budget:
        return Budget(**self.limits, dollars_per_gpu_hour=self.price)


@router.get("/time")
def time(request: Request) -> HTMLResponse:
    query = request.query_params
    with reading(request) as connection:
        fits = storage.fits(connection)
        opened = chosen_fit(connection, query.get("fit"), fits)
        kept = fitted.page(connection, "calibration", limit=100).items
        machines = [
            {"value": f"calibration-{one.id}", "label": f"{one.document['hardware']} (measured)"}
            for one in kept
        ] + [{"value": f"gpu-{name}", "label": f"{name} (data sheet)"} for name in GPUS]
        asked = read(query, machines[0]["value"])
        plan, refusal, drawn = None, "", {}
        if opened is not None:
            try:
                step_time = calibrations.step_time(connection, machine_of(asked.machine))
                problem = problem_of(opened, step_time, asked)
                plan = allocate_shape(problem)
                drawn = drawings(opened, problem, plan)
            except (ServiceError, FittingError) as error:
                refusal = f"{error.message} {error.hint}".strip()
    return render.page(
        request,
        "time.html",
        page="Time",
        fits=fits,
        fit=None if opened is None else {"id": opened.id, "loss_unit": opened.fit.loss_unit},
        missing="fit" in query,
        first_law=first_law(),
        machines=machines,
        asked=asked,
        gpus=", ".join(map(str, asked.gpus)),
        sliders=sliders(asked),
        refusal=refusal,
        plan=None if plan is None else told(plan),
        figures={name: figure for name, (_, _, figure) in drawn.items()},
        shown_figures=[(name, title, note) for name, (title, note, _) in drawn.items()],
    )


def read(query: Mapping[str, str], first_machine: str) -> Asked:
    """What cannot be read counts as empty; the bare page asks about 1000 GPU-hours."""

    def positive(name: str) -> float | None:
        value = text.parse(query.get(name))
        return value if value is not None and 0 < value < 1e30 else None

    limits = {name: positive(name) for name in LIMITS}
    if not any(limits.values()):
        limits["gpu_hours"] = FIRST_GPU_HOURS
    counts = [part.strip() for part in query.get("gpus", "").split(",")]
    gpus = sorted({int(part) for part in counts if part.isdecimal() and 0 < int(part[:7]) < 10**6})
    return Asked(
        query.get("machine") or first_machine,
        limits,
        positive("price"),
        gpus[:MOST_GPUS],
        positive("batch_tokens"),
    )


def machine_of(value: str) -> Machine:
    kind, _, name = value.partition("-")
    if kind == "calibration" and (number := id_of(name)) is not None:
        return Machine(calibration=number)
    return Machine(gpu=name)


def problem_of(opened: OpenFit, step_time: StepTime, asked: Asked) -> ShapeProblem:
    setup = step_time.setup or SETUP
    return ShapeProblem(
        fit=opened.fit,
        step_time=step_time,
        budget=asked.budget(),
        family=step_time.family or FAMILY,
        setup=setup,
        gpus=asked.gpus or None,
        batches=[asked.batch_tokens] if asked.batch_tokens else None,
    )


def sliders(asked: Asked) -> list[dict[str, Any]]:
    """One a limit; positions are log10. A limit that does not hold is empty."""
    return [
        {
            "name": name,
            "label": label,
            "unit": unit,
            "shown": "" if asked.limits[name] is None else text.quantity(asked.limits[name], unit),
            "low": float(np.log10(low)),
            "high": float(np.log10(high)),
            "at": round(float(np.log10(asked.limits[name] or low)), 3),
        }
        for name, (label, unit, low, high) in LIMITS.items()
    ]


def told(plan: ShapeAllocation) -> dict[str, Any]:
    """The plan as the page writes it."""
    best = plan.optimal

    def between(name: str, unit: str = "") -> str:
        if name not in plan.intervals:
            return text.MISSING
        low, high = plan.intervals[name]
        return text.interval(low, high, unit)

    valley = plan.valley
    return {
        **best,
        "level": plan.level,
        "loss_interval": text.interval(best["lower"], best["upper"]),
        "between": {name: between(name) for name in PLAIN}
        | {"N": between("N", "parameters"), "D": between("D", "tokens")}
        | {"width": between("width", "channels"), "depth": between("depth", "layers")},
        "valley": valley,
        "valley_N": text.interval(valley["N"][0], valley["N"][1], "parameters"),
        "valley_width": text.interval(valley["width"][0], valley["width"][1], "channels"),
        "valley_depth": text.interval(valley["depth"][0], valley["depth"][1], "layers"),
        "more": [
            {**row, "interval": " to ".join(text.number(end, 2) for end in row["gain_interval"])}
            for row in plan.more
        ],
        "sensitivity": plan.sensitivity,
        "settings": plan.settings,
        "warnings": plan.warnings,
    }  # fmt: skip


def drawings(
    opened: OpenFit, problem: ShapeProblem, plan: ShapeAllocation
) -> dict[str, tuple[str, str, go.Figure]]:
    """{id: (title, note, figure)}."""
    plans, table = landscape(problem)
    out = {"shapes": _shapes(opened, plans, table, plan)}
    if surface.is_plane(opened.fit.law) and opened.points.kept.any():
        out["spent"] = _spent(opened, problem, plans, plan)
    return out


def _shapes(
    opened: OpenFit, plans: Candidates, table: Table, plan: ShapeAllocation
) -> tuple[str, str, go.Figure]:
    width, column = np.unique(plans.width, return_inverse=True)
    depth, row = np.unique(plans.depth, return_inverse=True)
    losses, N, D = (np.full((len(depth), len(width)), np.nan) for _ in range(3))
    # the worst first, so that of several GPU counts and batches the best stays
    for k in np.argsort(-table.loss[0]):
        if np.isfinite(table.loss[0, k]):
            at = row[k], column[k]
            losses[at], N[at], D[at] = table.loss[0, k], plans.N[k], table.tokens[0, k]
    figure = figures.shapes(
        width,
        depth,
        losses,
        N,
        D,
        loss_quantity(opened.fit),
        (plan.optimal["width"], plan.optimal["depth"]),
        plan.valley["tolerance"],
    )
    note = "Every shape trained until the budget is spent. Dots: as good as the best."
    return "Loss over shapes, within the budget", note, figure


def _spent(
    opened: OpenFit, problem: ShapeProblem, plans: Candidates, plan: ShapeAllocation
) -> tuple[str, str, go.Figure]:
    """The contour of the law with lines that cost the same GPU-hours, and the deadline's."""
    fit, points, best = opened.fit, opened.points, plan.optimal
    N, D = surface.plane_grid(points, 1e4)
    inputs = {item.name: surface.quantity_of(item) for item in fit.law.inputs}
    lines = []
    for times in TIMES:
        hours = times * best["gpu_hours"]
        label = f"{text.number(hours, 3)} GPU-hours"
        if problem.budget.dollars_per_gpu_hour is not None:
            label += f", {text.number(hours * problem.budget.dollars_per_gpu_hour, 3)} dollars"
        lines.append((label, *_reached(plans, hours, N, D)))
    if problem.budget.hours is not None:
        gpus = float(plans.gpus.max())
        label = f"{text.number(problem.budget.hours, 3)} hours on {gpus:.0f} GPUs"
        most = plans.gpus == gpus
        lines.append((label, *_reached(plans, problem.budget.hours * gpus, N, D, most)))
    figure = figures.contour(
        N,
        D,
        surface.plane_losses(fit, N, D),
        surface.cloud(points, "N", None, points.inputs["D"]),
        inputs["N"],
        inputs["D"],
        loss_quantity(fit),
        level=fit.level,
        spent=lines,
        best=(best["N"], best["D"]),
    )
    note = "Dotted: what the same time and money reach, by the fastest shape of each size."
    return "Iso-time and iso-cost over size and tokens", note, figure


def _reached(
    plans: Candidates,
    gpu_hours: float,
    N: np.ndarray,
    D: np.ndarray,
    among: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) along a line of so many GPU-hours: the fastest plan of each tenth of a decade."""
    chosen = np.ones(len(plans), bool) if among is None else among
    tokens = 3600.0 * gpu_hours * plans.batch_tokens / plans.gpu_seconds
    bins = np.floor(10 * np.log10(plans.N)).astype(int)
    best = []
    for one in np.unique(bins[chosen]):
        inside = np.flatnonzero(chosen & (bins == one))
        best.append(inside[tokens[inside].argmax()])
    at = np.array(best, dtype=int)
    at = at[(plans.N[at] >= N[0]) & (plans.N[at] <= N[-1])]
    at = at[(tokens[at] >= D[0]) & (tokens[at] <= D[-1])]
    return plans.N[at], tokens[at]
