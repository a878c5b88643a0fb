"""One look for every figure: the template, the colours, and axes whose ticks can be read.

The page's script replaces the template's ink and grid colours in dark mode; everything else is
chosen to be legible on both grounds.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from app.dashboard import text
from app.dashboard.figures.values import Quantity

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#1d2329"
GRID = "rgba(127,137,150,0.22)"
ACCENT = "#2f6bb3"
OPTIMUM = "#c8452f"
HIT = "#2c8a5b"
MISS = "#c8452f"
MUTED = "#8a939e"

# Small is warm, large is cool; each end keeps a contrast of 3:1 or more on white and on #15181c.
SCALE = [
    [0.0, "#d9902f"],
    [0.3, "#cf6248"],
    [0.55, "#a9518d"],
    [0.78, "#6b62bd"],
    [1.0, "#2f7fc4"],
]
DISTINCT = ["#2f6bb3", "#d07c28", "#2c8a5b", "#a9518d", "#6b62bd", "#8a7430", "#3a97a3", "#c8452f"]

CONFIG: dict[str, Any] = {
    "displayModeBar": "hover",
    "displaylogo": False,
    # plotly's own button would post the figure to its cloud: nothing leaves this machine
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "toImageButtonOptions": {"format": "svg", "filename": "scalewright"},
    "modeBarButtonsToRemove": ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
}

_AXIS = {
    "showline": True,
    "linewidth": 1,
    "linecolor": MUTED,
    "gridcolor": GRID,
    "zeroline": False,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": MUTED,
    "title": {"standoff": 8},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {"x": 0, "xanchor": "left", "font": {"size": 15}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 72, "r": 18, "t": 16, "b": 52},
        # no automargin: plotly.js 4.1 can chase its own margins for ever
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 12.5}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "colorway": DISTINCT,
    }
)


def new_figure(height: int = 420, **layout: Any) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(template=TEMPLATE, height=height, **layout)
    return figure


class Drawing:
    """A figure in the making, to which plotly is given all parts at once: it takes two to four
    times as long over one after the other."""

    def __init__(self, height: int = 420, **layout: Any) -> None:
        self.data: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {"template": TEMPLATE, "height": height, **layout}

    def add_scatter(self, **parts: Any) -> None:
        self.data.append({"type": "scatter", **parts})

    def add_contour(self, **parts: Any) -> None:
        self.data.append({"type": "contour", **parts})

    def add_histogram(self, **parts: Any) -> None:
        self.data.append({"type": "histogram", **parts})

    def figure(self) -> go.Figure:
        return go.Figure({"data": self.data, "layout": self.layout})


def across_at(y: float, line: dict[str, Any], number: int = 1) -> dict[str, Any]:
    """A shape: the line at y from end to end of a panel."""
    return {
        "type": "line",
        "xref": f"{axis_name('x', number)} domain",
        "yref": axis_name("y", number),
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "line": line,
    }


def axis_name(kind: str, number: int) -> str:
    """As plotly names the axes of a grid: x, x2, x3, ..."""
    return kind if number == 1 else f"{kind}{number}"


def panel(
    row: int, column: int, rows: int, columns: int, gap_x: float, gap_y: float
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """A panel of a grid, counted from the top left: its number, and where its axes stand.

    What plotly's `make_subplots` makes of it, in a hundredth of its time.
    """
    number = row * columns + column + 1
    wide, high = (1 - gap_x * (columns - 1)) / columns, (1 - gap_y * (rows - 1)) / rows
    left, bottom = column * (wide + gap_x), (rows - 1 - row) * (high + gap_y)
    return (
        number,
        {"domain": [left, min(left + wide, 1.0)], "anchor": axis_name("y", number)},
        {"domain": [bottom, min(bottom + high, 1.0)], "anchor": axis_name("x", number)},
    )


def colour(share: float) -> str:
    """The scale's colour at `share` in [0, 1]."""
    return str(sample_colorscale(SCALE, [min(1.0, max(0.0, share))])[0])


def colours_for(values: Sequence[float] | np.ndarray) -> list[str]:
    """One colour a value (> 0), by its place in log between the smallest and the largest."""
    array = np.log(np.asarray(values, float))
    low, high = float(array.min()), float(array.max())
    span = high - low
    return [colour((float(value) - low) / span if span > 0 else 0.5) for value in array]


def faded(shade: str, opacity: float) -> str:
    """The same colour, see-through: for bands."""
    if shade.startswith("#"):
        red, green, blue = (int(shade[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"
    return shade.replace("rgb(", "rgba(").replace(")", f",{opacity})")


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a log axis from `low` to `high` (both > 0), four to nine of them.

    Plotly leaves an axis of less than a decade almost without labels, so it gets round steps here.
    """
    decades = math.log10(high) - math.log10(low)  # high / low may overflow
    if decades < 1:
        return _round_steps(low, high)
    if decades <= 2.2:
        steps: tuple[float, ...] = (1, 2, 5)
    elif decades <= 4:
        steps = (1, 3)
    else:
        steps = (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil(decades / 9))
    ticks = [step * 10.0**p for p in range(first, last + 1, every) for step in steps]
    return [value for value in ticks if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def _round_steps(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    if raw <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    count = math.floor(high / step + 1e-9)
    ticks = [k * step for k in range(math.ceil(low / step - 1e-9), count + 1)]
    return [value for value in ticks if value > 0]


def axis(
    quantity: Quantity, values: Sequence[float] | np.ndarray, pad: float = 0.04
) -> dict[str, Any]:
    """Layout of an axis that shows `values` of `quantity`: title with unit, range, ticks."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if quantity.log:
        finite = finite[finite > 0]
    layout: dict[str, Any] = {"title": {"text": quantity.title}}
    if not finite.size:
        return layout
    low, high = float(finite.min()), float(finite.max())
    if not quantity.log:
        room = pad * (high - low) or abs(high) * 0.05 or 1.0
        return layout | {"range": [low - room, high + room]}
    if low == high:
        low, high = low / 1.5, high * 1.5
    room = 10 ** (pad * (math.log10(high) - math.log10(low)))
    low, high = max(low / room, 1e-300), min(high * room, 1e300)
    ticks = log_ticks(low, high)
    return layout | {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [text.tick(value, quantity.unit) for value in ticks],
        "minor": {"ticks": ""},
    }


def colour_bar(quantity: Quantity, values: np.ndarray) -> dict[str, Any]:
    """`marker` entries that colour points by log10 of `values` and draw the bar with real units."""
    logs = np.log10(np.clip(values, 1e-300, 1e300))
    low, high = float(logs.min()), float(logs.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    ticks = log_ticks(10**low, 10**high)
    return {
        "color": logs,
        "cmin": low,
        "cmax": high,
        "colorscale": SCALE,
        "colorbar": {
            "title": {"text": quantity.title, "side": "right", "font": {"size": 12}},
            "thickness": 10,
            "outlinewidth": 0,
            "ticks": "",
            "tickvals": [math.log10(value) for value in ticks],
            "ticktext": [text.tick(value, quantity.unit) for value in ticks],
        },
    }


def add_band(
    figure: go.Figure | Drawing, x: Any, lower: Any, upper: Any, shade: str, opacity: float = 0.16
) -> None:
    """The area between `lower` and `upper`, drawn as one polygon without hover."""
    x = np.asarray(x, float)
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([np.asarray(upper, float), np.asarray(lower, float)[::-1]]),
        fill="toself",
        fillcolor=faded(shade, opacity),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )
