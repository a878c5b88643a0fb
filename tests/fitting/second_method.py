"""A second method for every law: SciPy's least squares, from starts of its own."""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import least_squares

from fitting import Law, Objective, Runs, fit
from fitting.engine import Engine
from fitting.simulate import simulate_runs


def scipy_least_squares(
    law: Law, runs: Runs, starts: list[Mapping[str, float]], delta: float | None = None
) -> tuple[float, np.ndarray]:
    """(objective, predictions) of half the sum of squared log residuals, the best of `starts`;
    with a delta, of Huber's penalty of that width.

    Derivatives by central differences; coordinates are the law's own line, scaled by the Jacobian.
    """
    target = np.log(runs.loss)
    columns = law.columns(runs.inputs)
    walls = np.array([p.link.walls for p in law.params])

    def residual(theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.log(np.asarray(law.evaluate(columns, law.from_line(theta)), float)) - target

    best = (np.inf, np.array([]))
    for start in starts:
        theta = np.clip(law.to_line(law.values(start)), walls[:, 0] + 1e-9, walls[:, 1] - 1e-9)
        out = least_squares(
            residual,
            theta,
            jac="3-point",
            bounds=(walls[:, 0], walls[:, 1]),
            x_scale="jac",
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=400,
            loss="linear" if delta is None else "huber",
            f_scale=delta or 1.0,
        )
        if out.cost < best[0]:
            best = (float(out.cost), np.asarray(law.evaluate(columns, law.from_line(out.x)), float))
    return best


def agrees_with_scipy(
    law: Law,
    truth: Mapping[str, float],
    *,
    points: int = 60,
    noise: float = 3e-3,
    seed: int = 1,
    delta: float | None = None,
) -> None:
    """The engine and SciPy reach one optimum on made-up runs: 1e-6 on objective and predictions.

    SciPy starts at the truth and beside it; the engine is told nothing.
    """
    runs = simulate_runs(law, truth, points=points, noise=noise, seed=seed)
    rng = np.random.default_rng(seed)
    beside = {k: v * float(np.exp(0.05 * rng.standard_normal())) for k, v in truth.items()}
    objective, predicted = scipy_least_squares(law, runs, [truth, beside], delta)
    kind = Objective("squares-log") if delta is None else Objective("huber-log", delta=delta)
    found = Engine.of(law, runs, kind).cold()
    assert found.objective <= objective * (1 + 1e-9)
    np.testing.assert_allclose(found.objective, objective, rtol=1e-6)
    np.testing.assert_allclose(law.evaluate(runs.inputs, found.values), predicted, rtol=1e-6)


def huber_agrees(law: Law, runs: Runs, truth: Mapping[str, float]) -> None:
    """Huber on log loss, 1e-3: SciPy's `minimize` finds nothing better, from the truth."""
    from scipy.optimize import minimize

    found = fit(law, runs, draws=0)
    objective = Objective()

    def value(theta: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            out = objective.value(runs.loss, law.evaluate(runs.inputs, law.from_line(theta)))
        return 1e6 * float(out) if np.isfinite(out) else 1e300

    theta = law.to_line(law.values(truth))
    for _ in range(3):
        theta = minimize(
            value, theta, method="Nelder-Mead", options={"maxfev": 4000, "xatol": 1e-12}
        ).x
    assert found.objective_value <= 1e-6 * value(theta) * (1 + 1e-9)
