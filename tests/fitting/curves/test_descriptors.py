"""Spikes, verdicts, deceleration, the convex bound, sensitivity, branches."""

import csv
import json

import numpy as np
import pytest

from fitting import FittingError
from fitting.curves import Schedule
from fitting.curves.branches import plan_branches
from fitting.curves.convex_bound import convex_bound, rank_by_bound
from fitting.curves.deceleration import fit_deceleration
from fitting.curves.sensitivity import lr_sensitivity
from fitting.curves.spikes import diagnose_run, find_spikes
from tests.fitting.curves.public import SCHAIPP, need, schaipp, schaipp_horizon
from tests.fitting.data import path

# zsl: (L_d, t_d, r_d, L_T fitted, L_T measured), as printed.
ZSL = {
    "14M": (4.05, 5877, 0.013, 3.86, 3.88),
    "37M": (3.60, 5907, 0.016, 3.39, 3.40),
    "78M": (3.38, 5928, 0.020, 3.14, 3.15),
    "144M": (3.25, 6074, 0.023, 2.98, 2.99),
    "285M": (3.14, 5264, 0.025, 2.85, 2.87),
    "472M": (3.16, 4644, 0.035, 2.77, 2.80),
    "OLMo-1B": (2.86, 3717, 0.034, 2.39, 2.40),
    "OLMo-7B": (2.64, 4627, 0.053, 2.04, 2.03),
}


def noisy(n: int, seed: int) -> np.ndarray:
    """A falling loss with the noise of real per-step losses: sd .04, slightly correlated."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(n)
    noise[1:] = np.sqrt(1 - 0.2**2) * noise[1:] + 0.2 * noise[:-1]
    return 2.5 + 3.0 * np.arange(1, n + 1) ** -0.3 + 0.04 * noise


def test_no_false_alarm_in_a_hundred_thousand_steps() -> None:
    n = 100_000
    assert find_spikes(np.arange(n), noisy(n, 0)) == ()


def test_spikes_are_found_as_often_as_on_real_runs() -> None:
    """Decaying over 20 steps: .3 nats in 98 to 100 % of cases, .2 nats in 16 to 32 %."""
    rates = {}
    for height in (0.2, 0.3):
        y, places = noisy(60_000, 1), np.arange(1_000, 60_000, 500)
        for place in places:
            y[place : place + 200] += height * np.exp(-np.arange(200) / 20)
        found = find_spikes(np.arange(1, y.size + 1), y)
        hits = [any(0 <= s.start - 1 - p <= 20 for s in found) for p in places]
        rates[height] = np.mean(hits)
    assert rates[0.3] >= 0.95
    assert 0.1 <= rates[0.2] <= 0.6


def test_a_spike_is_described_and_only_upward() -> None:
    y = noisy(3_000, 2)
    y[2_000:2_300] += 2.0 * np.exp(-np.arange(300) / 40)
    y[1_000:1_050] -= 1.0
    health = diagnose_run(np.arange(1, 3_001), y)
    (spike,) = health.spikes
    assert 2_001 <= spike.start <= 2_003 and spike.height == pytest.approx(2.0, abs=0.2)
    assert spike.recovery is not None and 80 <= spike.recovery <= 250
    assert health.verdict == "spiky" and 2_000 in health.masked and 1_000 not in health.masked


def test_verdicts() -> None:
    steps = np.arange(1, 2_001)
    y = noisy(2_000, 3)
    assert diagnose_run(steps, y).verdict == "healthy"
    gone = y.copy()
    gone[1_500:] = np.nan
    assert diagnose_run(steps, gone).verdict == "diverged"
    up = y.copy()
    up[1_600:] += 1.5
    assert "above its minimum" in diagnose_run(steps, up).message
    assert diagnose_run(steps, 7.0 + 0.001 * steps, initial_loss=7.0).verdict == "diverged"
    assert diagnose_run(steps, y, clipped=steps % 4 == 0).clipped_share == 0.25


@pytest.mark.parametrize("model", ZSL)
def test_zsl_to_the_printed_digit(model: str) -> None:
    with path("curves/zsl/zsl_smoothed_curves.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["model"] == model]
    step = np.array([int(r["step"]) for r in rows])
    loss = np.array([float(r["smoothed_loss"]) for r in rows])
    found = fit_deceleration(step, loss, smooth=False)
    L_d, t_d, r_d, fitted, measured = ZSL[model]
    assert round(found.L_d, 2) == L_d
    assert int(found.t_d) == t_d
    assert round(found.r_d, 3) == r_d
    assert round(found.fitted, 2) == fitted and round(found.measured, 2) == measured
    assert "not a forecast" in found.note
    published = json.loads(path("curves/zsl/bnsl_fit.json").read_text())[model]
    assert published


def test_the_bound_equals_its_double_sum() -> None:
    eta = Schedule.wsd(40, 0.3, 5, 15, "linear", 0.1).rates()
    T = eta.size
    expected = 1 / (2 * eta.sum()) + (eta**2).sum() / (2 * eta.sum())
    for k in range(T - 1):
        later, here = eta[k + 1 :].sum(), eta[k:].sum()
        expected += 0.5 * eta[k] / later * (eta[k:] ** 2).sum() / here
    found = convex_bound(Schedule.array(eta))
    assert found.value == pytest.approx(expected, rel=1e-12)
    scaled = convex_bound(Schedule.array(eta * found.scale))
    assert scaled.value == pytest.approx(found.best, rel=1e-12)
    for factor in (0.9, 1.1):
        assert convex_bound(Schedule.array(eta * found.scale * factor)).value > found.best
    padded = convex_bound(Schedule.array(np.append(eta, np.zeros(10))))
    assert padded.value == pytest.approx(found.value, rel=1e-12)


def test_the_bound_orders_real_schedules() -> None:
    """Rank correlation with the final losses of the 124M runs at 50k steps: .77 to .86."""
    from scipy.stats import spearmanr

    need("curves/lr_scheduling/curves.csv.gz")
    some = {n: schaipp(n) for n in SCHAIPP if schaipp_horizon(n) == 50_000}
    bounds = {n: convex_bound(c.schedule).best for n, c in some.items()}
    finals = [some[n].loss[-1] for n in bounds]
    rho = spearmanr(list(bounds.values()), finals).statistic
    assert rho >= 0.7
    pick = rank_by_bound({n: c.schedule for n, c in some.items()})[0][0]
    assert some[pick].loss[-1] <= min(finals) + 0.01


def test_sensitivity_of_the_real_124m() -> None:
    """T = 50k, WSD 20 %: .0267 over five rates."""
    rates = [1e-4, 5e-4, 1e-3, 2e-3, 3e-3]
    finals = [3.0646, 2.9714, 2.9677, 2.9742, 2.9941]
    found = lr_sensitivity(rates, finals)
    assert found.value == pytest.approx(0.0267, abs=5e-5)
    assert found.best_lr == 1e-3 and not found.edge
    diverged = lr_sensitivity([*rates, 5e-3], [*finals, float("nan")], initial_loss=10.9)
    assert diverged.value == pytest.approx((5 * 0.0267 + 10.9 - 2.9677) / 6, abs=1e-3)
    with pytest.raises(FittingError):
        lr_sensitivity([*rates, 5e-3], [*finals, float("nan")])


def test_branches_cost_half() -> None:
    plan = plan_branches([15_000, 25_000, 35_000, 50_000], 1e-3, 300)
    assert plan.trunk_steps == 40_000
    assert plan.trained_steps == 40_000 + 3_000 + 5_000 + 7_000 + 10_000
    assert plan.separate_steps == 125_000 and plan.saved == pytest.approx(0.48)
    trunk = Schedule.constant(40_000, 1e-3, 300).rates()
    for branch in plan.branches:
        head = branch.schedule.rates()[: branch.from_step]
        assert np.array_equal(head, trunk[: branch.from_step])
    with pytest.raises(FittingError):
        plan_branches([300], 1e-3, 300)
