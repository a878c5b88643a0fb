"""What figures are made from, against closed forms and against `allocate`."""

from dataclasses import replace

import numpy as np
import pytest

from app.dashboard import surface
from app.dashboard.pages import fits
from app.dashboard.surface import Points
from fitting import LAWS, AllocationProblem, Fit, Runs, allocate, fit, get_law
from fitting.simulate import simulate_runs
from tests.dashboard.seeded import BUDGETS, LAW, grid, optimal_n, truth


@pytest.fixture(scope="module")
def known() -> tuple[Fit, Points]:
    """A fit whose parameters are the truth: every number has a closed form."""
    law, p = get_law(LAW), truth()
    N, D = grid()
    loss = law.loss({"N": N, "D": D}, p)
    rng = np.random.default_rng(0)
    noisy = fit(law, Runs({"N": N, "D": D}, loss * np.exp(0.003 * rng.normal(size=20))), draws=60)
    return replace(noisy, values=law.values(p)), Points({"N": N, "D": D}, loss)


def test_the_path_is_the_closed_form(known: tuple[Fit, Points]) -> None:
    one, _ = known
    path = surface.path(one, 1e18, 1e24)
    assert path is not None
    exact = [optimal_n(budget, truth()) for budget in path.budget]
    assert path.x == pytest.approx(exact, rel=1e-4)
    assert 6 * path.x * path.y == pytest.approx(path.budget, rel=1e-9)
    assert (path.x_lower < path.x_upper).all()
    assert 6 * path.x_lower * path.y_at_lower == pytest.approx(path.budget, rel=1e-9)


def test_isoflop_minima_are_what_allocate_says(known: tuple[Fit, Points]) -> None:
    one, points = known
    budgets = surface.budgets_of(points)
    assert budgets == pytest.approx(BUDGETS, rel=1e-6)
    for line, budget in zip(surface.isoflop_lines(one, budgets, points), budgets, strict=True):
        best = allocate(AllocationProblem(one, float(budget))).optimal
        assert line.optimum == pytest.approx((best["N"], best["loss"]), rel=1e-6)
        assert line.optimum is not None
        assert line.optimum[0] == pytest.approx(optimal_n(budget, truth()), rel=1e-4)
        assert (np.asarray(line.y) >= line.optimum[1] * (1 - 1e-9)).all()
        assert (line.lower <= line.y).all() and (line.y <= line.upper).all()  # type: ignore[operator]


def test_every_run_of_a_planned_budget_is_near_it(known: tuple[Fit, Points]) -> None:
    _, points = known
    nearest = surface.nearest_budget(points, np.array(BUDGETS))
    assert nearest == pytest.approx(np.repeat(BUDGETS, 5), rel=1e-9)


def test_budgets_of_runs_that_were_not_planned_on_any() -> None:
    N = np.geomspace(1e7, 1e9, 40)
    points = Points({"N": N, "D": 20 * N}, 2 + N**-0.1)
    budgets = surface.budgets_of(points)
    assert len(budgets) == 6
    assert np.ptp(np.diff(np.log(budgets))) < 1e-9


def test_the_contour_holds_the_law(known: tuple[Fit, Points]) -> None:
    one, points = known
    N, D = surface.plane_grid(points)
    losses = surface.plane_losses(one, N, D)
    assert losses.shape == (len(D), len(N))
    p = truth()
    exact = p["E"] + p["A"] * N[7] ** -p["alpha"] + p["B"] * D[3] ** -p["beta"]
    assert losses[3, 7] == pytest.approx(exact, rel=1e-12)


def test_fitted_lines_are_predictions_with_their_interval(known: tuple[Fit, Points]) -> None:
    one, points = known
    x, shade = (next(i for i in one.law.inputs if i.name == name) for name in ("D", "N"))
    for line in surface.fitted_lines(one, points, x, shade):
        again = one.predict({"N": np.full(len(line.x), line.shade), "D": line.x})
        assert np.array_equal(line.y, again.value)
        assert np.array_equal(line.lower, again.lower)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(LAWS))
def test_every_law_gets_its_figures(name: str) -> None:
    """No law is named by the dashboard: whatever is registered is drawn."""
    law = LAWS[name]
    if law.published is not None:
        params = dict(law.published.params)
    else:
        params = {p.name: float(np.median(p.starts)) for p in law.params}
    runs = simulate_runs(law, params, points=30, noise=0.003, seed=1)
    one = fit(law, runs, draws=0, starts=2)
    points = Points(runs.inputs, np.asarray(runs.loss), [f"run {k}" for k in range(30)])
    opened = fits.OpenFit({"id": 1, "project": None, "created_at": None}, one, points)
    drawn = {item.id: item for item in fits.figures_of(opened)}
    assert "fitted" in drawn and "residuals" in drawn
    if {item.name for item in law.inputs} == {"N", "D"}:
        assert {"isoflop", "contour"} <= set(drawn)
    else:
        assert len([key for key in drawn if key.startswith(("fitted", "slice"))]) == len(law.inputs)
    for item in law.inputs:
        assert any(item.unit in figure.figure.to_json() for figure in drawn.values())
