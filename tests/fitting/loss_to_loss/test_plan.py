"""Which target runs to train."""

import numpy as np
import pytest

from fitting import FittingError, Runs
from fitting.loss_to_loss import fit_link, pair, plan_runs
from fitting.loss_to_loss.pairs import budgets
from tests.fitting.loss_to_loss.truth import TRUE, loss, simulated

LARGE = (1e10, 2e11)  # N, D


@pytest.fixture(scope="module")
def source() -> Runs:
    return simulated()["web"]


@pytest.mark.parametrize("k", [3, 5, 7])
def test_spreads_over_the_budgets(source: Runs, k: int) -> None:
    plan = plan_runs(source, k)
    group = budgets(6 * source.inputs["N"] * source.inputs["D"])
    assert len({int(group[r]) for r in plan.rows}) == k == len(plan.rows)
    assert plan.half_width < plan.before
    assert list(plan.steps) == sorted(plan.steps, reverse=True)


@pytest.mark.parametrize("cap", [2e18, 1e19, 1e20])
def test_stays_within_the_cap(source: Runs, cap: float) -> None:
    plan = plan_runs(source, 4, cap_flops=cap)
    assert sum(plan.flops) <= cap and len(plan.rows) == 4


def test_more_money_never_widens(source: Runs) -> None:
    widths = [plan_runs(source, 3, cap_flops=cap).half_width for cap in (2e18, 2e19, 2e20)]
    assert widths == sorted(widths, reverse=True)


def test_nothing_affordable_is_refused(source: Runs) -> None:
    with pytest.raises(FittingError, match="cheapest"):
        plan_runs(source, 3, cap_flops=1e15)


def test_planned_runs_forecast_better_than_the_cheapest() -> None:
    """Six made-up sweeps: the miss at 250 times the compute, planned runs against the five
    cheapest, with E_1 free; the plan wins by at least a factor of two."""
    N, D = (np.array([v]) for v in LARGE)
    truth, x = loss("code", N, D)[0], loss("web", N, D)
    planned, cheap = [], []
    for seed in range(6):
        sets = simulated(noise=3e-3, seed=seed)
        plan = plan_runs(sets["web"], 5)
        compute = 6 * sets["web"].inputs["N"] * sets["web"].inputs["D"]
        for rows, out in ((list(plan.rows), planned), (np.argsort(compute)[:5], cheap)):
            pairs = pair(sets["web"], sets["code"].select(np.array(rows)))
            link = fit_link(pairs, method="free_E1", E0=TRUE["web"]["E"], draws=0)
            out.append(abs(link.predict(x).value[0] / truth - 1))
    assert np.mean(planned) < 0.5 * np.mean(cheap)
