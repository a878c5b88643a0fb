"""Quantiles of many draws at many points, by interpolation: millions a second instead of thousands.

The exact way evaluates every draw at every point (1,000 laws a point). But ln(draw / fit), and so
its quantiles, are smooth in the logarithms of the inputs: they are computed exactly on a grid over
the points that were asked for, and interpolated by cubic splines. Points of the request are then
held against the exact answer; where one is off by more than TOLERANCE of the width there, the grid
is refined, and if that does not help the caller computes exactly.
"""

from collections.abc import Callable, Mapping

import numpy as np

from fitting.links import Floats

Quantiles = Callable[[Mapping[str, Floats]], tuple[Floats, Floats]]

# Fewer points than this are computed exactly: the grid costs as much.
WORTH_IT = 8_000
# Largest error that is let pass, in shares of the draws' interval at the point. The quantiles of
# 1,000 draws are themselves uncertain by 2% of it.
TOLERANCE = 0.03
CHECKED = 96
# Steps of the grid in ln(input), from coarse to fine, and the most nodes of one grid.
STEPS = (0.35, 0.18)
MOST_NODES = 6_000


def interpolated(exact: Quantiles, inputs: Mapping[str, Floats]) -> tuple[Floats, Floats] | None:
    """(lower, upper) quantiles at `inputs` {name: [points]}, or None where it does not pay or does
    not hold: few points, more than two inputs that vary, inputs at or below zero."""
    n = len(next(iter(inputs.values())))
    if n < WORTH_IT or any(v.min() <= 0 for v in inputs.values()):
        return None
    logs = {name: np.log(v) for name, v in inputs.items()}
    spans = {name: (float(x.min()), float(x.max())) for name, x in logs.items()}
    varying = [name for name, (low, high) in spans.items() if high - low > 1e-12]
    if not 1 <= len(varying) <= 2:
        return None
    some = np.linspace(0, n - 1, CHECKED).astype(int)
    ends = [int(f(logs[name])) for name in varying for f in (np.argmin, np.argmax)]
    some = np.unique([*some, *ends])
    truth = exact({name: v[some] for name, v in inputs.items()})
    width = np.maximum(truth[1] - truth[0], 1e-12)
    for step in STEPS:
        counts = [max(8, int(np.ceil(np.ptp(spans[v]) / step)) + 1) for v in varying]
        if np.prod(counts) > MOST_NODES:
            return None
        found = _on_grid(exact, inputs, logs, spans, varying, counts)
        worst = max(
            float((np.abs(f[some] - t) / width).max()) for f, t in zip(found, truth, strict=True)
        )
        if worst <= TOLERANCE:
            return found
    return None


def _on_grid(
    exact: Quantiles,
    inputs: Mapping[str, Floats],
    logs: Mapping[str, Floats],
    spans: Mapping[str, tuple[float, float]],
    varying: list[str],
    counts: list[int],
) -> tuple[Floats, Floats]:
    """Both quantiles on the grid, exactly, and from there at all points."""
    from scipy.ndimage import map_coordinates, spline_filter

    axes = [np.linspace(*spans[v], k) for v, k in zip(varying, counts, strict=True)]
    mesh = np.meshgrid(*axes, indexing="ij")
    nodes = {name: np.full(mesh[0].size, v[0]) for name, v in inputs.items()}
    for name, m in zip(varying, mesh, strict=True):
        nodes[name] = np.exp(m.ravel())
    where = np.stack(
        [
            (logs[v] - spans[v][0]) * ((k - 1) / np.ptp(spans[v]))
            for v, k in zip(varying, counts, strict=True)
        ]
    )
    low, high = (
        np.asarray(
            map_coordinates(
                spline_filter(surface.reshape(mesh[0].shape), order=3, mode="mirror"),
                where,
                order=3,
                mode="mirror",
                prefilter=False,
            ),
            dtype=float,
        )
        for surface in exact(nodes)
    )
    return low, high
