"""Where the solver begins: variable projection over a grid of the parameters that are not linear.

Given the exponents, the coefficients of a sum of powers are a small non-negative least-squares
problem with a closed form. So the search is over exponents only (condition number 10 instead of
3.5e11): a 40 x 40 grid costs half a millisecond and a user never has to give start values.
"""

from itertools import combinations, product

import numpy as np

from fitting.law import Law
from fitting.links import Floats
from fitting.newton import cholesky_solve
from fitting.power_sums import Coordinates

# The screen looks at no more than this many points; more tell it nothing new.
SCREEN_POINTS = 2_000


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
    for size in range(len(held), -1, -1):
        for chosen in combinations(held, size):
            keep = sorted((*chosen, *free))
            if not keep:
                continue
            a = gram[:, keep][:, :, keep] + np.eye(len(keep)) * ridge[:, keep][:, None, :]
            c = cholesky_solve(a, rhs[:, keep])
            value = -np.einsum("gj,gj->g", c, rhs[:, keep])
            good = np.isfinite(value)
            for position, j in enumerate(keep):
                if signs[j]:
                    good &= c[:, position] > 0
            good &= value < best
            best[good] = value[good]
            rows = np.zeros((int(good.sum()), m))
            rows[:, keep] = c[good]
            coefficients[good] = rows
    return best, coefficients


def screen_power_sum(
    law: Law, where: Coordinates, loss: Floats, weights: Floats | None, count: int
) -> Floats:
    """`count` starts [count, p] in centred coordinates for a sum of powers."""
    powers = law.powers
    assert powers is not None
    terms = powers.terms
    exponents = list(dict.fromkeys(e for _, _, e in terms))
    walls = {p.name: p.link for p in law.params}
    points = {1: 120, 2: 40, 3: 14}.get(len(exponents), 8)
    axes = []
    for name in exponents:
        low, high = max(walls[name].lower, 0.0), min(walls[name].upper, 3.0)
        axes.append(np.linspace(max(0.03, low), max(min(1.5, high), 0.06), points))
    root = 1.0 / loss if weights is None else np.sqrt(weights) / loss
    goal = root * loss
    columns: list[Floats] = []  # one [points on the axis, n] stack for each term
    for k, (_, _, e) in enumerate(terms):
        axis = axes[exponents.index(e)]
        columns.append(np.exp(np.multiply.outer(-axis, where.logs[k])) * root)
    m = len(terms) + int(powers.floor is not None)
    grid = np.array(list(product(range(points), repeat=len(exponents))))
    at = [grid[:, exponents.index(e)] for _, _, e in terms]
    gram = np.empty((len(grid), m, m))
    rhs = np.empty((len(grid), m))
    for k in range(len(terms)):
        rhs[:, k] = (columns[k] @ goal)[at[k]]
        for j in range(k, len(terms)):
            gram[:, k, j] = gram[:, j, k] = (columns[k] @ columns[j].T)[at[k], at[j]]
        if powers.floor:
            gram[:, k, -1] = gram[:, -1, k] = (columns[k] @ root)[at[k]]
    if powers.floor:
        gram[:, -1, -1] = root @ root
        rhs[:, -1] = root @ goal
    value, coefficient = best_non_negative(gram, rhs, [True] * m)
    shape = (points,) * len(exponents)
    chosen = _spread(value, shape, count)
    # a coefficient of zero has no logarithm: start it at a thousandth of the loss
    c = np.maximum(coefficient[chosen], 1e-3 * float(np.median(loss)))
    theta = np.concatenate(
        [np.log(c), *(a[grid[chosen, d]][:, None] for d, a in enumerate(axes))], axis=1
    )
    return theta


def _spread(value: Floats, shape: tuple[int, ...], count: int) -> list[int]:
    """The best local minima, then the best cells of regions that hold none."""
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
    """`count` starts [count, p] on the law's line: drawn in the box of `Param.starts`, with the
    linear parameters solved for, ranked by relative squares."""
    rng = np.random.default_rng([seed, 7])
    boxes = []
    for p in law.params:
        unit = 1.0 if p.of is None else float(np.exp(np.mean(np.log(inputs[p.of]))))
        ends = p.link.to_line(unit * np.array([min(p.starts), max(p.starts)]))
        boxes.append(ends)
    box = np.array(boxes)
    theta = box[:, 0] + (box[:, 1] - box[:, 0]) * rng.random((trials, len(law.params)))
    theta[0] = box.mean(axis=1)
    n = loss.size
    if n > 256:  # enough to rank starts
        rows = np.sort(rng.choice(n, 256, replace=False))
        inputs = {k: v[rows] for k, v in inputs.items()}
        loss = loss[rows]
        weights = None if weights is None else weights[rows]
    root = 1.0 / loss if weights is None else np.sqrt(weights) / loss
    if law.linear:
        theta = _solve_linear(law, inputs, loss, root, theta)
    with np.errstate(all="ignore"):
        predicted = np.asarray(law.evaluate(inputs, law.from_line(theta)), dtype=float)
        predicted = np.broadcast_to(predicted, (trials, loss.size))
        r = np.log(predicted) - np.log(loss)
        score = (r * r if weights is None else r * r * weights).sum(axis=1)
    score = np.where(np.isfinite(score), score, np.inf)
    order = np.argsort(score, kind="stable")
    return np.asarray(theta[order[:count]])


def _solve_linear(
    law: Law, inputs: dict[str, Floats], loss: Floats, root: Floats, theta: Floats
) -> Floats:
    """Replace the linear parameters of each trial by their least-squares values."""
    names = law.param_names
    which = [names.index(name) for name in law.linear]
    values = law.from_line(theta)
    columns = []
    for j in which:
        unit = values.copy()
        unit[:, which] = 0.0
        unit[:, j] = 1.0
        with np.errstate(all="ignore"):
            out = np.asarray(law.evaluate(inputs, unit), dtype=float)
        columns.append(np.nan_to_num(np.broadcast_to(out, (len(theta), loss.size)) * root))
    basis = np.stack(columns, axis=1)
    scale = np.sqrt(np.einsum("gmn,gmn->gm", basis, basis))
    scale = np.where(scale > 0, scale, 1.0)
    basis = basis / scale[:, :, None]
    gram = basis @ basis.transpose(0, 2, 1)
    rhs = basis @ (root * loss)
    signs = [law.params[j].link.lower >= 0 for j in which]
    _, c = best_non_negative(gram, rhs, signs)
    c = c / scale
    for position, j in enumerate(which):
        link = law.params[j].link
        value = c[:, position]
        if link.log:
            tiny = (
                1e-3 * float(np.median(loss)) * float(np.median(np.abs(root))) / scale[:, position]
            )
            value = np.maximum(value, np.maximum(tiny, 1e-300))
        theta[:, j] = link.to_line(np.clip(value, link.lower, link.upper))
    return theta
