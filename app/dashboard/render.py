"""Templates, figures and headers: how a page becomes a response.

Everything is escaped (autoescape is on for every template) and no script is written into a page:
figures travel as JSON in `<script type="application/json">`, where a browser runs nothing, and the
content security policy lets scripts come from this server's own files only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import plotly
import plotly.graph_objects as go
from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.dashboard import text
from app.dashboard.figures.style import CONFIG
from app.dashboard.sketch import sketch

HERE = Path(__file__).parent
STATIC_PATH = "/static"
PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
STATIC_FILES = {
    "scalewright.css": (HERE / "static" / "scalewright.css", "text/css"),
    "scalewright.js": (HERE / "static" / "scalewright.js", "text/javascript"),
    "mark.svg": (HERE / "static" / "mark.svg", "image/svg+xml"),
    # from the plotly package itself: it is not copied into this repository
    "plotly.min.js": (PLOTLY_JS, "text/javascript"),
}

COOKIE = "scalewright_key"
"""What holds the key of whoever signed in."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; img-src 'self' data: blob:; "
        # plotly writes its own style rules into the page
        "style-src 'self' 'unsafe-inline'; connect-src 'self'; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Shown:
    """A figure as a template needs it: its height, so that the page does not jump, its JSON, and
    what is drawn of it until a script has come."""

    height: int
    json: Markup
    sketch: Markup


@lru_cache
def version() -> str:
    try:
        return metadata.version("scalewright")
    except metadata.PackageNotFoundError:
        return ""


@lru_cache
def _stamp(name: str) -> str:
    """Changes with the file, so that a browser may keep it for a year."""
    stat = STATIC_FILES[name][0].stat()
    return f"{stat.st_size:x}{int(stat.st_mtime):x}"


def static(name: str) -> str:
    return f"{STATIC_PATH}/{name}?v={_stamp(name)}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(text.FILTERS)
    environment.globals.update(static=static, version=version())
    return environment


ENVIRONMENT = _environment()


def for_script(document: str) -> Markup:
    """JSON that is safe inside a script element, whatever its strings hold."""
    for mark in "<>&\u2028\u2029":
        document = document.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(document)


def figure_json(figure: go.Figure) -> str:
    """data, layout and config as one JSON object; what the JSON export and the page share."""
    document = figure.to_json()
    return f'{document[:-1]},"config":{json.dumps(CONFIG)}}}'


def shown(figure: go.Figure, *, sketched: bool = False) -> Shown:
    drawn = sketch(figure) if sketched else Markup()
    return Shown(int(figure.layout.height or 420), for_script(figure_json(figure)), drawn)


def page(
    request: Request,
    template: str,
    *,
    page: str,
    figures: Mapping[str, go.Figure] | None = None,
    sketched: bool = False,
    status_code: int = 200,
    **context: Any,
) -> HTMLResponse:
    """The template filled in. `page` is the entry of the menu that this page belongs to; sketched:
    its figures of curves are drawn in the page as well, see `sketch`."""
    drawn = {name: shown(figure, sketched=sketched) for name, figure in (figures or {}).items()}
    html = ENVIRONMENT.get_template(template).render(
        page=page,
        figures=drawn,
        has_figures=bool(drawn),
        signed_in=COOKIE in request.cookies,
        base=str(request.base_url).rstrip("/"),
        **context,
    )
    return HTMLResponse(html, status_code, headers=HEADERS)


def missing(request: Request, what: str, where: str) -> HTMLResponse:
    """A page that says what does not exist."""
    return page(
        request,
        "message.html",
        page="",
        status_code=404,
        heading=f"There is no {what}",
        text=f"It may have been deleted. {where}",
    )


def export_html(figure: go.Figure, name: str) -> Response:
    """One self-contained file (plotly.js inside, about 5 MB) that opens without a server."""
    # a copy: plotly takes entries out of the configuration that it is given
    return Response(
        figure.to_html(include_plotlyjs=True, full_html=True, config=dict(CONFIG)),
        media_type="text/html",
        headers={"Content-Disposition": f'attachment; filename="{name}.html"'},
    )


def export_json(figure: go.Figure, name: str) -> Response:
    """The figure as plotly JSON: `plotly.io.from_json` reads its data and layout back."""
    return Response(
        figure_json(figure),
        media_type="application/json",
        headers={
            "Content-Disposition": f'attachment; filename="{name}.json"',
            "Cache-Control": "no-store",
        },
    )
