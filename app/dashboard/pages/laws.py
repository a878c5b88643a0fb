"""The law registry: every installed law, with its curves where it has published constants."""

import inspect
import textwrap

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.dashboard import figures, render, surface, text
from app.dashboard.figures import Cloud, Line, Quantity
from fitting import LAWS
from fitting.law import Law

router = APIRouter(include_in_schema=False)


@router.get("/laws")
def laws(request: Request) -> HTMLResponse:
    return render.page(request, "laws.html", page="Laws", laws=list(LAWS.values()))


@router.get("/laws/{name}")
def law(request: Request, name: str) -> HTMLResponse:
    if name not in LAWS:
        return render.missing(request, f"law {name!r}", "The menu lists the laws that there are.")
    one = LAWS[name]
    drawn = published_slices(one)
    return render.page(
        request,
        "law.html",
        page="Laws",
        law=one,
        formula=formula_of(one),
        figures={key: figure for key, (figure, _) in drawn.items()},
        shown_figures=[(key, title, SLICE_NOTE) for key, (_, title) in drawn.items()],
    )


SLICE_NOTE = (
    "The law with its published constants over the usual range, the other inputs at the values "
    "named. No interval: these are somebody's printed numbers, not a fit of yours."
)


def formula_of(law: Law) -> str:
    """The formula's own source: it reads like the paper."""
    try:
        source = textwrap.dedent(inspect.getsource(law.formula)).strip()
        return source.replace(": Any", "").replace(" -> Any", "")
    except (OSError, TypeError):
        return law.latex


def published_slices(law: Law) -> dict[str, tuple[object, str]]:
    """{id: (figure, title)}: loss along each number input, the others at three usual values."""
    if law.published is None or len(surface.numbers(law)) < len(law.inputs):
        return {}
    drawn: dict[str, tuple[object, str]] = {}
    for item in law.inputs:
        others = [other for other in law.inputs if other.name != item.name]
        shade = others[0] if others else None
        low, high = item.typical
        xs = np.geomspace(low, high, 60) if low > 0 else np.linspace(low, high, 60)
        lines = []
        for level in _middle(shade.typical, 4) if shade else [None]:
            inputs = {other.name: _middle(other.typical, 1)[0] for other in others}
            if shade is not None and level is not None:
                inputs[shade.name] = level
            full = {name: np.full(len(xs), value) for name, value in inputs.items()}
            label = (
                f"{shade.name} = {text.quantity(level, shade.unit)}" if shade is not None else "law"
            )
            y = law.loss({**full, item.name: xs}, law.published.params)
            lines.append(Line(xs, y, label=label, shade=level))
        figure = figures.fitted(
            Cloud(np.array([]), np.array([])),
            lines,
            surface.quantity_of(item),
            Quantity("loss"),
            surface.quantity_of(shade) if shade else None,
        )
        figure.update_traces(showlegend=True)
        drawn[f"slice-{item.name}"] = (figure, f"Loss along {item.name}")
    return drawn


def _middle(typical: tuple[float, float], count: int) -> list[float]:
    low, high = typical
    shares = np.linspace(0, 1, count + 2)[1:-1] if count < 3 else np.linspace(0, 1, count)
    if low > 0:
        return [float(v) for v in np.exp(np.log(low) + shares * np.log(high / low))]
    return [float(v) for v in low + shares * (high - low)]
