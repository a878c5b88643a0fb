"""Where the solver begins: variable projection over a grid of the parameters that are not linear.

Given the exponents, the coefficients of a sum of powers are a small non-negative least-squares
problem with a closed form. So the search is over exponents only (condition number 10 instead of
3.5e11): a 40 x 40 grid costs half a millisecond and a user never has to give start values.
"""

from itertools import combinations, product
from typing import Any

import numpy as np

from fitting.law import Law
from fitting.links import Floats
from fitting.newton import cholesky_solve
from fitting.power_sums import Coordinates

# The screen looks at no more than this many points; more tell it nothing new.
SCREEN_POINTS = 2_000

# So many sets of losses or weights are screened at once: some MB of normal equations.
TOGETHER = 16


def best_non_negative(gram: Floats, rhs: Floats, signs: list[bool]) -> tuple[Floats, Floats]:
    """Least squares with non-negative coefficients, for a batch of small problems.

    gram [G, m, m], rhs [G, m]: minimise c' gram c - 2 rhs' c. signs[j]: coefficient j must not be
    negative. Tries every subset of columns (m <= 5), which is the exact answer.
    Returns (value [G], coefficients [G, m]).
    """
    cases, m = rhs.shape
    best = np.zeros(cases)
    coefficients = np.zeros((cases, m))
    diagonal = np.einsum("gii->gi", gram)
    ridge = 1e-13 * diagonal
    free = [j for j in range(m) if not signs[j]]
    held = [j for j in range(m) if signs[j]]
    rest = np.arange(cases)  # a solution of all columns that is positive is the answer
    for size in range(len(held), -1, -1):
        for chosen in combinations(held, size):
            keep = sorted((*chosen, *free))
            if not keep or not rest.size:
                continue
            pick = rest[:, None], np.array(keep)
            a = gram[rest][:, keep][:, :, keep] + np.eye(len(keep)) * ridge[pick][:, None, :]
            c = cholesky_solve(a, rhs[pick])
            value = -np.einsum("gj,gj->g", c, rhs[pick])
            good = np.isfinite(value) & (value < best[rest])
            for position, j in enumerate(keep):
                if signs[j]:
                    good &= c[:, position] > 0
            won = rest[good]
            best[won] = value[good]
            rows = np.zeros((won.size, m))
            rows[:, keep] = c[good]
            coefficients[won] = rows
            if size == len(held):
                rest = rest[~good]
    return best, coefficients


def screen_power_sum(
    law: Law, where: Coordinates, loss: Floats, weights: Floats | None, count: int
) -> Floats:
    """`count` starts [B, count, p] in centred coordinates for a sum of powers, for each row of
    loss [B, n]; weights: None, or [B, n]. The powers of the inputs are shared by all rows."""
    powers = law.powers
    assert powers is not None
    exponents = list(dict.fromkeys(e for _, _, e in powers.terms))
    walls = {p.name: p.link for p in law.params}
    points = {1: 120, 2: 40, 3: 14}.get(len(exponents), 8)
    axes = []
    for name in exponents:
        low, high = max(walls[name].lower, 0.0), min(walls[name].upper, 3.0)
        axes.append(np.linspace(max(0.03, low), max(min(1.5, high), 0.06), points))
    columns = [  # for each term, its power on the axis of its exponent: [points of the axis, n]
        np.exp(np.multiply.outer(-axes[exponents.index(e)], where.logs[k]))
        for k, (_, _, e) in enumerate(powers.terms)
    ]
    grid = np.array(list(product(range(points), repeat=len(exponents))))
    at = [grid[:, exponents.index(e)] for _, _, e in powers.terms]
    pull = 1.0 / loss if weights is None else weights / loss
    m = len(columns) + int(powers.floor is not None)
    theta = np.empty((len(loss), count, m + len(exponents)))
    for b in range(0, len(loss), TOGETHER):
        some = slice(b, b + TOGETHER)
        gram, rhs = _normal(columns, at, pull[some], pull[some] / loss[some], m)
        value, coefficient = best_non_negative(
            gram.reshape(-1, m, m), rhs.reshape(-1, m), [True] * m
        )
        value, coefficient = value.reshape(rhs.shape[:2]), coefficient.reshape(rhs.shape)
        for j in range(len(value)):
            chosen = _spread(value[j], (points,) * len(exponents), count)
            # a coefficient of zero has no logarithm: start it at a thousandth of the loss
            least = 1e-3 * float(np.median(loss[b + j]))
            theta[b + j, :, :m] = np.log(np.maximum(coefficient[j, chosen], least))
            for d, axis in enumerate(axes):
                theta[b + j, :, m + d] = axis[grid[chosen, d]]
    return theta


def _normal(
    columns: list[Floats], at: list[Any], pull: Floats, square: Floats, m: int
) -> tuple[Floats, Floats]:
    """Normal equations of relative least squares in each cell of the grid: [B, cells, m, m] and
    [B, cells, m]. at: where each term's column is in a cell; pull, square [B, n]: w/L, w/L^2."""
    lanes, cells = len(pull), len(at[0])
    gram = np.empty((lanes, cells, m, m))
    rhs = np.empty((lanes, cells, m))
    for k, column in enumerate(columns):
        rhs[:, :, k] = (pull @ column.T)[:, at[k]]
        for j in range(k, len(columns)):
            if j == k:
                both = (square @ (column * column).T)[:, at[k]]
            else:
                both = np.matmul(column * square[:, None, :], columns[j].T)[:, at[k], at[j]]
            gram[:, :, k, j] = gram[:, :, j, k] = both
        if m > len(columns):
            gram[:, :, k, -1] = gram[:, :, -1, k] = (square @ column.T)[:, at[k]]
    if m > len(columns):
        gram[:, :, -1, -1] = square.sum(axis=1)[:, None]
        rhs[:, :, -1] = pull.sum(axis=1)[:, None]
    return gram, rhs


def _spread(value: Floats, shape: tuple[int, ...], count: int) -> list[int]:
    """`count` cells: the best local minima, the best cells of regions that hold none, the rest."""
    cube = value.reshape(shape)
    low = np.ones(shape, dtype=bool)
    for axis in range(cube.ndim):
        here, there = [slice(None)] * cube.ndim, [slice(None)] * cube.ndim
        here[axis], there[axis] = slice(1, None), slice(None, -1)
        ahead = cube[tuple(here)] >= cube[tuple(there)]
        low[tuple(there)] &= ahead
        low[tuple(here)] &= cube[tuple(here)] <= cube[tuple(there)]
    minima = np.flatnonzero(low)
    minima = minima[np.argsort(value[minima], kind="stable")][:count]
    if minima.size < count:
        cells = np.indices(shape).reshape(len(shape), -1)
        region = np.zeros(value.size, dtype=int)
        for c, n in zip(cells, shape, strict=True):
            region = 3 * region + c * 3 // n
        order = np.argsort(value, kind="stable")
        _, firsts = np.unique(region[order], return_index=True)
        others = order[np.sort(firsts)]
        others = others[~np.isin(region[others], region[minima])]
        minima = np.concatenate([minima, others[: count - minima.size]])
        minima = np.concatenate([minima, order[~np.isin(order, minima)][: count - minima.size]])
    return [int(i) for i in minima]


def screen_generic(
    law: Law,
    inputs: dict[str, Floats],
    loss: Floats,
    weights: Floats | None,
    count: int,
    seed: int,
    trials: int = 512,
) -> Floats:
    """`count` starts [cases, count, p] on the law's line for each row of weights [cases, n] (None:
    one case, all weigh the same): drawn in the box of `Param.starts`, with the linear parameters
    solved for, ranked by relative squares. The law is asked once for all cases."""
    rng = np.random.default_rng([seed, 7])
    boxes = []
    for p in law.params:
        unit = 1.0 if p.of is None else float(np.exp(np.mean(np.log(inputs[p.of]))))
        ends = p.link.to_line(unit * np.array([min(p.starts), max(p.starts)]))
        boxes.append(ends)
    box = np.array(boxes)
    drawn = box[:, 0] + (box[:, 1] - box[:, 0]) * rng.random((trials, len(law.params)))
    drawn[0] = box.mean(axis=1)
    n = loss.size
    if n > 256:  # enough to rank starts
        rows = np.sort(rng.choice(n, 256, replace=False))
        inputs = {k: v[rows] for k, v in inputs.items()}
        loss = loss[rows]
        weights = None if weights is None else weights[:, rows]
    columns = _columns(law, inputs, drawn)
    own = np.ones((1, loss.size)) if weights is None else weights
    found = np.empty((len(own), min(count, trials), len(law.params)))
    for case, w in enumerate(own):
        theta, predicted = drawn, columns[0]
        if law.linear:
            theta, predicted = _solve_linear(law, columns, loss, np.sqrt(w) / loss, drawn)
        with np.errstate(all="ignore"):
            r = np.log(predicted) - np.log(loss)
            score = (r * r * w).sum(axis=1)
        score = np.where(np.isfinite(score), score, np.inf)
        found[case] = theta[np.argsort(score, kind="stable")[:count]]
    return found


def _columns(law: Law, inputs: dict[str, Floats], theta: Floats) -> Floats:
    """What the law says at each trial [1, trials, points]; or, of each of its linear parameters
    [linear, trials, points], what it says where that one is 1 and the others are 0."""
    shape = (len(theta), len(next(iter(inputs.values()))))
    values = law.from_line(theta)
    which = [law.param_names.index(name) for name in law.linear]
    columns = []
    for j in which or [-1]:
        unit = values.copy()
        if which:
            unit[:, which] = 0.0
            unit[:, j] = 1.0
        with np.errstate(all="ignore"):
            out = np.asarray(law.evaluate(inputs, unit), dtype=float)
        columns.append(np.broadcast_to(out, shape))
    return np.stack(columns)


def _solve_linear(
    law: Law, columns: Floats, loss: Floats, root: Floats, theta: Floats
) -> tuple[Floats, Floats]:
    """The trials with their linear parameters at their least-squares values, and what the law then
    predicts [trials, points]. columns: see `_columns`."""
    names = law.param_names
    theta = theta.copy()
    with np.errstate(all="ignore"):
        basis = np.nan_to_num(columns * root).transpose(1, 0, 2)
    scale = np.sqrt(np.einsum("gmn,gmn->gm", basis, basis))
    scale = np.where(scale > 0, scale, 1.0)
    basis = basis / scale[:, :, None]
    gram = basis @ basis.transpose(0, 2, 1)
    rhs = basis @ (root * loss)
    signs = [law.params[names.index(name)].link.lower >= 0 for name in law.linear]
    _, c = best_non_negative(gram, rhs, signs)
    c = c / scale
    predicted = np.zeros(columns.shape[1:])
    for position, name in enumerate(law.linear):
        j = names.index(name)
        link = law.params[j].link
        value = c[:, position]
        if link.log:
            tiny = (
                1e-3 * float(np.median(loss)) * float(np.median(np.abs(root))) / scale[:, position]
            )
            value = np.maximum(value, np.maximum(tiny, 1e-300))
        value = np.clip(value, link.lower, link.upper)
        theta[:, j] = link.to_line(value)
        with np.errstate(all="ignore"):
            predicted += value[:, None] * columns[position]
    return theta, predicted
