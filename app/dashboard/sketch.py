"""A figure of curves as plain SVG, in the page itself: on the screen before any script has run.

plotly.js is 5 MB that a browser which comes for the first time must fetch, compile and run, one to
two seconds of a processor, before it draws anything. What is sketched here are its lines, axes and
labels, where it will put them; when it has come it takes their place, and brings what a pointer can
do. Panels are stretched to the page's width by the browser: paths in nested pictures of 1000 by
1000, labels at percentages.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from app.dashboard.figures.style import TEMPLATE

SIDE = 1000.0  # units of a panel, each way
LEGEND = 34  # pixels that plotly.js gives a row of the legend
ROOM = 0.05  # above the largest value, where an axis has no range


@dataclass(frozen=True)
class _Axis:
    """low, high: in the axis' own numbers (log10 where it is one)."""

    low: float
    high: float
    log: bool

    def share(self, values: Any) -> np.ndarray:
        """Where values stand between the ends; NaN where a logarithm has none."""
        shown = np.asarray(values, dtype=float)
        with np.errstate(all="ignore"):
            shown = np.where(shown > 0, np.log10(shown), np.nan) if self.log else shown
        return np.asarray((shown - self.low) / (self.high - self.low))


def sketch(figure: go.Figure) -> Markup:
    """The SVG; empty where the figure has traces that are no curves."""
    traces = [one for one in figure.data if one.x is not None and len(one.x)]
    if not traces or any(one.type != "scatter" for one in figure.data):
        return Markup()
    layout, margin = figure.layout, TEMPLATE.layout.margin
    named = [one for one in traces if one.showlegend is not False and one.name]
    legend = layout.showlegend is not False and len(traces) > 1 and bool(named)
    top = margin.t + (LEGEND if legend else 0)
    height = int(layout.height or 420)
    inner = height - top - margin.b
    parts = [_legend(named, top)] if legend else []
    for name in dict.fromkeys(one.yaxis or "y" for one in traces):
        mine = [one for one in traces if (one.yaxis or "y") == name]
        x_axis = layout["xaxis" + (mine[0].xaxis or "x")[1:]]
        y_axis = layout["yaxis" + name[1:]]
        low, high = y_axis.domain or (0.0, 1.0)
        box = (top + inner * (1 - high), inner * (high - low))
        parts.append(_panel(mine, x_axis, y_axis, box))
    return Markup(
        '<svg class="sketch" height="{}" style="margin:0 {}px 0 {}px;width:calc(100% - {}px)"'
        ' aria-hidden="true">{}</svg>'
    ).format(height, margin.r, margin.l, margin.l + margin.r, Markup("").join(parts))


def _panel(
    traces: list[Any],
    x_axis: Any,
    y_axis: Any,
    box: tuple[float, float],
) -> Markup:
    top, tall = box
    across = _axis(x_axis, [one.x for one in traces])
    up = _axis(y_axis, [one.y for one in traces])
    if across is None:
        return Markup()
    frame = Markup('y="{:.1f}" width="100%" height="{:.1f}"').format(top, tall)
    labels = [
        Markup('<line x1="0" x2="0" y2="100%"/><line x2="100%" y1="100%" y2="100%"/>'),
        Markup(
            '<text class="title" transform="translate(-38,{:.0f}) rotate(-90)">{}</text>'
        ).format(tall / 2, y_axis.title.text or ""),
    ]
    for value, said in _ticks(y_axis, up) if up else []:
        labels.append(
            Markup(
                '<line class="grid" x2="100%" y1="{0:.2f}%" y2="{0:.2f}%"/>'
                '<text class="y" x="-7" y="{0:.2f}%">{1}</text>'
            ).format(100 * (1 - value), said)
        )
    named = x_axis.title.text is not None
    for value, said in _ticks(x_axis, across):
        labels.append(
            Markup('<line class="grid" y2="100%" x1="{0:.2f}%" x2="{0:.2f}%"/>').format(100 * value)
        )
        if named:
            labels.append(
                Markup('<text class="x" x="{:.2f}%" y="100%" dy="19">{}</text>').format(
                    100 * value, said
                )
            )
    if named:
        labels.append(
            Markup('<text class="x title" x="50%" y="100%" dy="42">{}</text>').format(
                x_axis.title.text
            )
        )
    drawn = Markup("").join(_marks(one, across, up) for one in traces if up)
    return Markup(
        '<svg {0} overflow="visible">{1}</svg><svg {0} viewBox="0 0 {2:.0f} {2:.0f}" '
        'preserveAspectRatio="none">{3}</svg>'
    ).format(frame, Markup("").join(labels), SIDE, drawn)


def _axis(axis: Any, values: list[Any]) -> _Axis | None:
    """The axis as the layout has it, or wide enough for the values; None for none of them."""
    log = axis.type == "log"
    if axis.range is not None:
        low, high = map(float, axis.range)
        return _Axis(low, high, log) if high > low else None
    every = np.concatenate([np.asarray(one, dtype=float) for one in values])
    every = every[np.isfinite(every)]
    if log or not every.size:
        return None
    low = min(0.0, float(every.min())) if axis.rangemode == "tozero" else float(every.min())
    high = float(every.max())
    return _Axis(low, high + ROOM * ((high - low) or 1.0), log)


def _ticks(axis: Any, ends: _Axis) -> list[tuple[float, str]]:
    """(share of the axis, label) of its ticks; of the ends alone where plotly.js chooses them."""
    if axis.tickvals is None:
        largest = ends.low + (ends.high - ends.low) / (1 + ROOM)
        return [(0.0, f"{ends.low:.3g}"), (1 / (1 + ROOM), f"{largest:.3g}")]
    places = ends.share(axis.tickvals)
    shown = zip(places, axis.ticktext or map(str, axis.tickvals), strict=True)
    return [(float(place), said) for place, said in shown if -1e-6 <= place <= 1 + 1e-6]


def _marks(trace: Any, across: _Axis, up: _Axis) -> Markup:
    """One trace: its line, the area it encloses, or a dot at each point."""
    x, y = SIDE * across.share(trace.x), SIDE * (1 - up.share(trace.y))
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return Markup()
    new = known & ~np.concatenate([[False], known[:-1]])
    path = "".join(
        f"{'M' if begins else 'L'}{a:.1f} {b:.1f}"
        for a, b, begins in zip(x[known], y[known], new[known], strict=True)
    )
    stroke = trace.line.color or (trace.marker.color if isinstance(trace.marker.color, str) else "")
    found = []
    if trace.fill == "toself":
        found.append(Markup('<path d="{}Z" fill="{}"/>').format(path, trace.fillcolor))
    elif "lines" in (trace.mode or "lines"):
        width = 2.0 if trace.line.width is None else trace.line.width
        found.append(
            Markup('<path d="{}" stroke="{}" stroke-width="{}" stroke-opacity="{}"{}/>').format(
                path,
                stroke,
                width,
                1 if trace.opacity is None else trace.opacity,
                Markup(' stroke-dasharray="3 3"') if trace.line.dash else "",
            )
        )
    if "markers" in (trace.mode or ""):
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x[known], y[known], strict=True))
        size = trace.marker.size if isinstance(trace.marker.size, int | float) else 6
        found.append(
            Markup('<path d="{}" stroke="{}" stroke-width="{}" stroke-linecap="round"/>').format(
                dots, stroke, size
            )
        )
    return Markup("").join(found)


def _legend(traces: list[Any], top: float) -> Markup:
    """The names in a row above the panels, each in its colour."""
    names = Markup("").join(
        Markup('<tspan fill="{}">\u2014 </tspan><tspan>{}\u2003</tspan>').format(
            one.line.color or one.marker.color or "", one.name
        )
        for one in traces
    )
    return Markup('<text x="4" y="{}">{}</text>').format(top - 18, names)
