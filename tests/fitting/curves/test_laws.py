"""Features against brute force, Jacobians against differences, and what each law must not do."""

import numpy as np
import pytest

from fitting.curves import CURVE_LAWS, Schedule
from fitting.curves.features import annealed, area, momentum, sources
from fitting.curves.law import CurveLaw

WSD = Schedule.wsd(600, 1e-3, 60, 200, "linear", final_fraction=0.1)
TYPICAL = {
    "annealing": [3.0, 0.5, 0.5, 0.4],
    "multi_power": [3.0, 0.5, 0.5, 300.0, 1.5, 0.5, 0.5],
    "functional": [3.0, 0.5, 0.4, 300.0, 50.0, 30.0, 0.5],
    "annealing_n": [2.0, 0.5, 0.5, 0.4, 50.0, 0.3, 0.05],
}


def test_the_sums_equal_brute_force() -> None:
    """S2 as the paper writes it: a double sum over steps."""
    rates, lam = WSD.rates(), 0.97
    drops = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    m = [sum(drops[k] * lam ** (i - k) for k in range(i + 1)) for i in range(rates.size)]
    assert np.allclose(momentum(rates, lam), m, rtol=1e-10, atol=1e-18)
    assert np.allclose(annealed(rates, lam), np.cumsum(m), rtol=1e-10, atol=1e-16)
    assert np.allclose(area(rates), [rates[: i + 1].sum() for i in range(rates.size)])
    # a stage that carries the momentum on, and knows the rate before it, is the same sum
    head, tail = rates[:400], rates[400:]
    carried = momentum(tail, lam, before=head[-1], start=float(momentum(head, lam)[-1]))
    assert np.allclose(carried, m[400:], rtol=1e-10, atol=1e-18)


def test_the_multi_power_sum_equals_brute_force() -> None:
    """Equations 2 to 4 with two loops, every drop its own source."""
    law, rates = CURVE_LAWS["multi_power"], WSD.rates()
    L0, A, alpha, B, C, beta, gamma = TYPICAL["multi_power"]
    steps = [100, 399, 405, 600]
    expected = []
    for t in steps:
        gain = sum(
            (rates[k - 1] - rates[k])
            * (1 - (1 + C * rates[k] ** -gamma * rates[k:t].sum()) ** -beta)
            for k in range(1, t)
        )
        expected.append(L0 + A * rates[:t].sum() ** -alpha - B * gain)
    params = dict(zip(law.param_names, TYPICAL["multi_power"], strict=True))
    assert np.allclose(law.loss(params, WSD, steps, sources=None), expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", [
    Schedule.cosine(24_000, 3e-4, 2_160, 0.1),
    Schedule.wsd(24_000, 3e-4, 2_160, 4_000),
    Schedule.from_dict({"kind": "step", "steps": 16_000, "peak_lr": 3e-4, "warmup_steps": 500,
                        "boundaries": [12_800, 14_400], "factors": [0.3, 0.1]}),
], ids=lambda s: s.kind)  # fmt: skip
@pytest.mark.parametrize("name", ["multi_power", "functional"])
def test_merging_the_drops_costs_nothing(name: str, schedule: Schedule) -> None:
    law = CURVE_LAWS[name]
    params = dict(zip(law.param_names, TYPICAL[name], strict=True))
    steps = np.arange(2_400, schedule.steps + 1, 2_000)
    exact = law.loss(params, schedule, steps, sources=None)
    merged = law.loss(params, schedule, steps)
    assert sources(schedule).drop.size <= 70
    assert np.abs(merged - exact).max() < 5e-4
    assert np.abs(merged - exact).mean() < 2e-4


@pytest.mark.parametrize("law", CURVE_LAWS.values(), ids=lambda law: law.name)
def test_the_jacobian_is_the_derivative(law: CurveLaw) -> None:
    values = np.array(TYPICAL[law.name])
    found = law.features(WSD, np.array([70, 300, 500, 600]), 1e8, law.options)
    loss, slopes = law.formula(values[None], found)
    assert loss.shape == (1, 4) and (loss > 0).all()
    for j in range(values.size):
        step = 1e-6 * values[j]
        up, down = values.copy(), values.copy()
        up[j], down[j] = values[j] + step, values[j] - step
        numeric = (law.formula(up[None], found)[0] - law.formula(down[None], found)[0]) / (2 * step)
        assert np.allclose(slopes[0, j], numeric[0], rtol=1e-5, atol=1e-9), law.param_names[j]


@pytest.mark.parametrize("name", ["annealing", "multi_power", "functional"])
def test_steps_at_rate_zero_change_nothing(name: str) -> None:
    """Padding a finished run is not training: a reviewer's counter-example to the annealing law."""
    law = CURVE_LAWS[name]
    params = dict(zip(law.param_names, TYPICAL[name], strict=True))
    done = Schedule.cosine(20_000, 3e-4, 500, 0.0)
    padded = done.then(Schedule.array(np.append(np.zeros(4_000), 1e-12)))
    before, after = law.loss(params, done, [20_000]), law.loss(params, padded, [24_000])
    assert after == pytest.approx(before, abs=1e-6)
