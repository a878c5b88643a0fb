"""Forecasts in flight on real runs: better as the run goes on, with intervals that hold."""

import numpy as np
import pytest

from fitting import FittingError
from fitting.curves import CurveFit, Schedule, fit_curves
from fitting.curves.inflight import SHARES, advise, forecast
from tests.fitting.curves.public import CONSTANT, SCHAIPP, need, schaipp, schaipp_horizon


@pytest.fixture(scope="module")
def pool() -> CurveFit:
    need("curves/lr_scheduling/curves.csv.gz")
    return fit_curves(
        "annealing_ensemble", [schaipp(CONSTANT, 12_000), schaipp("r049"), schaipp("r081")]
    )


def test_the_longer_seen_the_better(pool: CurveFit) -> None:
    """Every other of 25 runs of 25k to 50k steps; the law comes from three of at most 15k."""
    targets = [schaipp(name) for name in SCHAIPP if schaipp_horizon(name) >= 25_000][::2]
    error, inside, width = {}, {}, {}
    for share in (*SHARES, 0.95):
        e, hit, wide = [], [], []
        for curve in targets:
            seen = curve.where(curve.step <= share * curve.schedule.steps)
            truth, last = curve.loss[-1], int(curve.step[-1])
            until = curve.schedule.until(last)  # the last measured point is the truth
            found = forecast(pool, until, seen.step, seen.loss)
            e.append(found.final - truth)
            hit.append(found.lower <= truth <= found.upper)
            wide.append(found.upper - found.lower)
            assert not found.alarm
        error[share] = np.abs(e).mean()
        inside[share], width[share] = np.mean(hit), np.mean(wide)
    assert error[0.9] < error[0.2] and max(error.values()) <= 0.013
    assert error[0.9] <= 0.0085 and error[0.95] <= 0.006
    assert min(inside.values()) >= 0.8
    assert width[0.95] < width[0.9] < width[0.4]


def test_advice_and_alarm(pool: CurveFit) -> None:
    curve = schaipp("r052")
    seen = curve.where(curve.step <= 30_000)
    found = forecast(pool, curve.schedule, seen.step, seen.loss)
    assert advise(found, incumbent=2.7).verdict == "stop"
    assert advise(found, incumbent=3.2).verdict == "go on"
    assert 0.0 <= advise(found, incumbent=found.final).better <= 0.6
    late = seen.step > 20_000
    worse = seen.loss + np.where(late, 0.3 * (seen.step - 20_000) / 10_000, 0.0)
    assert forecast(pool, curve.schedule, seen.step, worse).alarm
    nothing = forecast(pool, curve.schedule, [], [])
    assert nothing.final == pytest.approx(nothing.law_only) and nothing.offset_points == 0
    with pytest.raises(FittingError):
        forecast(pool, Schedule.constant(10, 1e-3), [11], [3.0])
