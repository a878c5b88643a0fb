"""Fits: the list, one fit with every figure, and the figures' exports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import Connection

from app.dashboard import figures, render, surface, text
from app.dashboard.figures import Quantity
from app.dashboard.pages import comparisons
from app.dashboard.pages.allocations import exponents, ladder
from app.dashboard.pages.database import Id, asked_or_newest, reading
from app.dashboard.pages.laws import formula_of
from app.dashboard.surface import Points
from app.services import diagnostics
from app.services import fits as service
from app.services.errors import ServiceError
from app.storage import overview as storage
from fitting import LAWS, Fit, FittingError, Runs

router = APIRouter(include_in_schema=False)

MOST_DOTS = 1_000
MOST_ROWS = 500
DOTLESS = ("draws", "profiles")


@dataclass(frozen=True)
class OpenFit:
    """A stored fit, read back: its row, the fit itself, its points (none where they are gone).
    runs: None where they are not what they were when it was made.
    parameters_of: each parameter's intervals side by side, computed once; [] without the runs."""

    row: dict[str, Any]
    fit: Fit
    points: Points
    runs: Runs | None = None
    parameters_of: Callable[[], list[dict[str, Any]]] = list

    @property
    def id(self) -> int:
        return int(self.row["id"])

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return self.parameters_of()


@dataclass(frozen=True)
class Drawn:
    """One figure of a fit with what the page says about it."""

    id: str
    title: str
    note: str
    figure: go.Figure


def open_fit(connection: Connection, fit_id: int) -> OpenFit | None:
    """None where there is no such fit, or where its law is not installed here."""
    row = storage.fit(connection, fit_id)
    if row is None:
        return None
    try:
        fit = Fit.from_dict(row["document"])
    except FittingError:
        return None
    names = fit.law.input_names
    runs: Runs | Exception
    try:
        runs, points = service.runs_and_points_of(connection, fit_id)
    except (ServiceError, FittingError) as error:
        runs, points = error, service.points_of(connection, fit_id)
    nothing = np.full(points.loss.size, np.nan)
    inputs = {name: points.inputs.get(name, nothing) for name in names}
    found = np.flatnonzero(~np.isnan(list(inputs.values())).any(axis=0))
    cloud = Points(
        {name: column[found] for name, column in inputs.items()},
        points.loss[found],
        [str(points.run[i] or f"point {k + 1}") for k, i in enumerate(found.tolist())],
        [points.run_ids[i] for i in found.tolist()],
        ~np.isin(np.arange(found.size), list(fit.data.dropped)),
    )
    if isinstance(runs, Exception):
        return OpenFit(row, fit, cloud)
    return OpenFit(row, fit, cloud, runs, cache(partial(diagnostics.parameters, fit, runs)))


def chosen_fit(
    connection: Connection, asked: str | None, fits: Sequence[dict[str, Any]]
) -> OpenFit | None:
    """The fit that a query asks for, else the first of `fits`."""
    fit_id = asked_or_newest(asked, [int(row["id"]) for row in fits], int)
    return None if fit_id is None else open_fit(connection, fit_id)


@router.get("/fits")
def fits(request: Request) -> HTMLResponse:
    with reading(request) as connection:
        rows = storage.fits(connection)
    return render.page(request, "fits.html", page="Fits", fits=rows, first_law=first_law())


@router.get("/fits/{fit_id}")
def fit(request: Request, fit_id: Id) -> HTMLResponse:
    with reading(request) as connection:
        opened = open_fit(connection, fit_id)
    if opened is None:
        return render.missing(request, f"fit {fit_id}", "The page Fits lists those that there are.")
    drawn = figures_of(opened)
    return render.page(
        request,
        "fit.html",
        page="Fits",
        fit=description(opened) | {"figures": drawn},
        figures={item.id: item.figure for item in drawn},
    )


@router.get("/fits/{fit_id}/figures/{name}.{form}")
def export(request: Request, fit_id: Id, name: str, form: str) -> Response:
    """One figure of a fit as a self-contained HTML page or as plotly JSON."""
    with reading(request) as connection:
        opened = open_fit(connection, fit_id)
    found = figures_of(opened, only=(name,)) if opened else []
    if not found or form not in ("html", "json"):
        return render.missing(request, f"figure {name}.{form}", "Exports are .html and .json.")
    make = render.export_html if form == "html" else render.export_json
    return make(found[0].figure, f"fit-{fit_id}-{name}")


def first_law() -> str:
    """A law for the commands that empty pages suggest: the first of model size and tokens."""
    return next((name for name, law in LAWS.items() if surface.is_plane(law)), "LAW")


def loss_quantity(fit: Fit) -> Quantity:
    return Quantity("loss", fit.loss_unit)


def figures_of(opened: OpenFit, only: Sequence[str] | None = None) -> list[Drawn]:
    """Every figure that this law and these points allow; `only` names the ones wanted."""
    shown, said = thinned(opened)
    wanted = _makers(shown, profiled=only is None or "profiles" in only)
    drawn = [make() for name, make in wanted.items() if only is None or name in only]
    return [replace(one, note=one.note + said) if one.id not in DOTLESS else one for one in drawn]


def thinned(opened: OpenFit) -> tuple[OpenFit, str]:
    """The same with at most MOST_DOTS points, evenly from the least loss to the largest, and what
    a figure's note says of it."""
    count = len(opened.points.loss)
    if count <= MOST_DOTS:
        return opened, ""
    p = opened.points
    some = np.argsort(p.loss, kind="stable")[
        np.linspace(0, count - 1, MOST_DOTS).round().astype(int)
    ]
    points = Points(
        {name: column[some] for name, column in p.inputs.items()},
        p.loss[some],
        [p.labels[i] for i in some],
        [p.run_ids[i] for i in some],
        p.kept[some],
    )
    return replace(opened, points=points), f" {MOST_DOTS:,} of the {count:,} runs are drawn."


def _makers(opened: OpenFit, profiled: bool) -> dict[str, Callable[[], Drawn]]:
    """profiled: also look for profiles, which have to be computed to know whether there are any."""
    law, points = opened.fit.law, opened.points
    makers: dict[str, Callable[[], Drawn]] = {}
    enough = len(points.loss) > 0 and bool(points.kept.any())
    inputs = surface.numbers(law)
    if enough and len(inputs) == len(law.inputs):
        if surface.is_plane(law):
            makers["fitted"] = lambda: _fitted(opened, "D", "N")
            makers["isoflop"] = lambda: _isoflop(opened)
            makers["contour"] = lambda: _contour(opened)
        else:
            for k, item in enumerate(inputs):
                name = "fitted" if k == 0 else f"slice-{item.name}"
                shade = inputs[(k + 1) % len(inputs)].name if len(inputs) > 1 else None
                makers[name] = partial(_fitted, opened, item.name, shade, name)
        makers["residuals"] = lambda: _residuals(opened)
    if len(opened.fit.draws):
        makers["draws"] = lambda: _draws(opened)
    if profiled and any(one["profile"] for one in opened.parameters):
        makers["profiles"] = lambda: _profiles(opened)
    return makers


def _input(opened: OpenFit, name: str) -> Any:
    return next(item for item in opened.fit.law.inputs if item.name == name)


def _fitted(opened: OpenFit, x: str, shade: str | None, name: str = "fitted") -> Drawn:
    fit, points = opened.fit, opened.points
    across = _input(opened, shade) if shade else None
    lines = surface.fitted_lines(fit, points, _input(opened, x), across)
    figure = figures.fitted(
        surface.cloud(points, x, shade),
        lines,
        surface.quantity_of(_input(opened, x)),
        loss_quantity(fit),
        surface.quantity_of(across) if across else None,
        fit.level,
    )
    held = "" if len(fit.law.inputs) < 3 else " The remaining inputs are held at their median."
    return Drawn(
        name,
        "The law through the points" if name == "fitted" else f"Loss along {x}",
        f"Measured loss against {x}; curves are the law"
        + (f" at several values of {shade}, which is also the colour" if shade else "")
        + f"; bands are {fit.level:.0%} intervals for the loss of a new run.{held}",
        figure,
    )


def _residuals(opened: OpenFit) -> Drawn:
    fit, points = opened.fit, opened.points
    percent = 100.0 * residuals_of(opened)
    x, shade = (surface.FLOPS, "N") if surface.is_plane(fit.law) else (None, None)
    if x is None:
        x = surface.quantity_of(fit.law.inputs[0])
    masked = surface.Points(points.inputs, points.loss, points.labels, used=~points.kept)
    figure = figures.residuals(
        surface.cloud(points, x.name, shade, percent),
        x,
        surface.quantity_of(_input(opened, shade)) if shade else None,
        surface.cloud(masked, x.name, None, percent) if masked.kept.any() else None,
    )
    return Drawn(
        "residuals",
        "Residuals",
        "(measured − law) / law. No trend is good; a slope towards the right is drift, and the "
        "extrapolation will miss on that side.",
        figure,
    )


def residuals_of(opened: OpenFit) -> np.ndarray:
    """(measured - law) / law at every point, a share."""
    law = opened.fit.law.loss(opened.points.inputs, opened.fit.params)
    return np.asarray(opened.points.loss / law - 1.0)


def _isoflop(opened: OpenFit) -> Drawn:
    fit, points = opened.fit, opened.points
    budgets = surface.budgets_of(points)
    lines = surface.isoflop_lines(fit, budgets, points)
    figure = figures.isoflop(
        lines,
        figures.Cloud(points.inputs["N"], points.loss, labels=points.labels),
        surface.quantity_of(_input(opened, "N")),
        loss_quantity(fit),
        surface.nearest_budget(points, budgets),
    )
    inside = sum(line.optimum is not None for line in lines)
    some = "every budget has" if inside == len(lines) else f"{inside} of {len(lines)} budgets have"
    return Drawn(
        "isoflop",
        "IsoFLOP profiles",
        f"Loss along lines of equal compute (C = 6ND) with {fit.level:.0%} bands; {some} an "
        "interior minimum. Points are the runs within 1.4× of a budget.",
        figure,
    )


def _contour(opened: OpenFit) -> Drawn:
    fit, points = opened.fit, opened.points
    N, D = surface.plane_grid(points)
    flops = surface.cost(points.inputs["N"], points.inputs["D"])[points.kept]
    path = surface.path(fit, float(flops.min()), float(surface.cost(N[-1], D[-1])))
    decades = np.arange(np.ceil(np.log10(6 * N[0] * D[0])), np.log10(6 * N[-1] * D[-1]))
    figure = figures.contour(
        N,
        D,
        surface.plane_losses(fit, N, D),
        surface.cloud(points, "N", None, points.inputs["D"]),
        surface.quantity_of(_input(opened, "N")),
        surface.quantity_of(_input(opened, "D")),
        loss_quantity(fit),
        surface.clipped(path, N, D),
        [(10.0**k, N, 10.0**k / 6.0 / N) for k in decades],
        fit.level,
    )
    return Drawn(
        "contour",
        "Loss over model size and tokens",
        f"Lines of equal loss ({fit.loss_unit}); dashed lines are equal compute, one per decade. "
        f"Red: where compute is best spent, with its {fit.level:.0%} interval over the draws.",
        figure,
    )


def _draws(opened: OpenFit) -> Drawn:
    fit = opened.fit
    # a parameter that spreads over half a decade is read on a log axis
    log = [
        name
        for name, values in zip(fit.law.param_names, fit.draws.T, strict=True)
        if (values > 0).all() and np.ptp(np.log10(values)) > 0.5
    ]
    return Drawn(
        "draws",
        "Draws of the parameters",
        "Each dot is the law refitted to a resample of the runs; the diamond is the fit. A narrow "
        "ridge means two parameters that are known together, not apart.",
        figures.draws(fit.law.param_names, fit.draws, fit.params, log),
    )


def _closed(interval: tuple[float | None, float | None] | None) -> tuple[float, float] | None:
    """The interval where it has both ends: an open one is no bar."""
    low, high = interval or (None, None)
    return None if low is None or high is None else (low, high)


def _profiles(opened: OpenFit) -> Drawn:
    fit = opened.fit
    intervals = fit.intervals()
    valleys = []
    for one in opened.parameters:
        shape = one["profile"]
        if shape is None:
            continue
        values = np.array(shape["values"])
        log = bool((values > 0).all() and np.ptp(np.log10(values)) > 0.5)
        valleys.append(
            figures.Valley(
                one["name"],
                one["value"],
                values,
                np.array(shape["statistic"]),
                shape["threshold"],
                shape["lower"],
                shape["upper"],
                _closed(intervals.get(one["name"])),
                log,
            )
        )
    return Drawn(
        "profiles",
        "Profiles of the parameters",
        "How far the fit gets worse, in standard deviations, when one parameter is held and the "
        f"others are refitted; below the dotted line is its {fit.level:.0%} interval, the grey bar "
        "that of the draws. A flat or one-sided valley is a parameter that these runs do not know.",
        figures.profiles(valleys, fit.level),
    )


def summary(opened: OpenFit) -> dict[str, Any]:
    """The few facts that the overview shows."""
    fit = opened.fit
    return {
        "id": opened.id,
        "title": fit.law.title,
        "status": fit.status,
        "message": fit.message,
        "n_points": fit.data.n_points,
        "created_at": opened.row["created_at"],
        "note": "",
    }


def description(opened: OpenFit) -> dict[str, Any]:
    """Everything that the page of one fit says in words and tables."""
    fit, points = opened.fit, opened.points
    intervals = fit.intervals()
    about = {param.name: param.about for param in fit.law.params}
    residual = residuals_of(opened) if len(points.loss) else np.array([])
    law = fit.law.loss(points.inputs, fit.params) if len(points.loss) else np.array([])
    return summary(opened) | {
        "project": opened.row["project"],
        "warnings": [warning.to_dict() for warning in fit.warnings],
        "level": fit.level,
        "loss_unit": fit.loss_unit,
        "ladder": ladder(fit) if surface.is_plane(fit.law) else [],
        "exponents": exponents(fit) if surface.is_plane(fit.law) else "",
        "formula": formula_of(fit.law),
        "source": fit.law.source,
        "inputs": fit.law.inputs,
        "params": [
            {
                "name": name,
                "value": value,
                "lower": intervals.get(name, (None, None))[0],
                "upper": intervals.get(name, (None, None))[1],
                "known": name in intervals,
                "about": about[name],
            }
            for name, value in fit.params.items()
        ],
        "facts": facts(opened),
        "method": fit.interval_method,
        "methods": methods(opened),
        "approaches": approaches(opened),
        "compared": compared(opened),
        "points": [
            {
                "label": points.labels[i],
                "run_id": points.run_ids[i],
                "loss": float(points.loss[i]),
                "law": float(law[i]),
                "residual": float(residual[i]),
                **{name: float(values[i]) for name, values in points.inputs.items()},
            }
            for i in range(min(len(points.loss), MOST_ROWS))
        ],
        "all_points": len(points.loss),
        "no_figures": "The points of this fit are not stored any more, or its law takes inputs "
        "that are no plain numbers.",
    }


def methods(opened: OpenFit) -> list[dict[str, Any]]:
    """Each parameter's interval by the draws, the sandwich and the profile, in this order."""
    nothing = (None, None)
    return [
        {
            "name": one["name"],
            "intervals": [
                one["draws"]["interval"] or nothing,
                one["sandwich"]["interval"] or nothing,
                (one["profile"]["lower"], one["profile"]["upper"]) if one["profile"] else nothing,
            ],
        }
        for one in opened.parameters
    ]


def approaches(opened: OpenFit) -> list[dict[str, Any]]:
    """Hoffmann et al.'s approaches on these runs; [] where none applies."""
    if opened.runs is None:
        return []
    found = service.finite(diagnostics.isoflop(opened.fit, opened.runs))
    return [
        one | {"budgets": "" if one["method"] == "envelope" else len(one.get("optima", ()))}
        for one in found
    ]


def compared(opened: OpenFit) -> dict[str, Any] | None:
    """The ranking that a fit of the law `auto` keeps."""
    kept = opened.row["document"].get("compared")
    return None if kept is None else comparisons.standing(kept)


def objective_of(fit: Fit) -> str:
    """The objective as the page names it: with its numbers, and whether points were weighted."""
    one = fit.objective
    parts = [one.kind, f"δ = {one.delta:g}"]
    if one.above != 1.0:
        parts.append(f"asymmetry {one.asymmetry:g}")
    return ", ".join([*parts, *(["weighted"] if fit.data.weights else [])])


def facts(opened: OpenFit) -> list[tuple[str, str, str | None]]:
    """(name, as shown, at full precision): what was fitted and how."""
    fit = opened.fit
    agreeing = fit.certificate.get("agreeing")
    rows: list[tuple[str, str, str | None]] = [
        ("Law", fit.law.name, None),
        ("Points", f"{fit.data.n_points} from {fit.data.n_runs} runs", None),
    ]
    if fit.data.dropped:
        rows.append(("Left out", str(len(fit.data.dropped)), "; ".join(fit.data.dropped.values())))
    if fit.data.compute is not None:
        low, high = fit.data.compute
        rows.append(
            (
                "Compute of the data",
                f"{text.scientific(low, 2)} – {text.scientific(high, 2)} FLOPs",
                f"{low} – {high}",
            )
        )
    for item in fit.law.inputs:
        if item.name in fit.data.inputs:
            low, high = fit.data.inputs[item.name]
            rows.append(
                (
                    f"{item.name} of the data ({item.unit})",
                    f"{text.quantity(low, item.unit)} – {text.quantity(high, item.unit)}",
                    f"{low} – {high}",
                )
            )
    rows += [
        ("Objective", objective_of(fit), None),
        ("Its value (sum)", text.number(fit.objective_value, 6), str(fit.objective_value)),
        ("Intervals", f"{fit.level:.0%}, {fit.interval_method}", None),
        ("Draws", f"{len(fit.draws):,}", None),
    ]
    if agreeing is not None:
        starts = fit.certificate.get("starts", 0)
        rows.append(("Starts that agree", f"{agreeing:.0f} of {starts:.0f}", None))
    rows += [
        ("N counts", fit.n_convention.replace("_", " "), None),
        ("FLOPs counted", fit.flops_convention, None),
        ("Loss unit", fit.loss_unit, None),
        ("Seed", str(fit.seed), None),
        ("Data digest", fit.data.digest[:12], fit.data.digest),
    ]
    return rows
