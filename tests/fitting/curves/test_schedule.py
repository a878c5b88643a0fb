"""Schedules regenerate exactly what the trainer does, and survive the way through JSON."""

import json

import numpy as np
import pytest

from fitting import FittingError
from fitting.curves import Schedule, as_schedule

SPECS = [
    {"kind": "constant", "steps": 100, "peak_lr": 1e-3, "warmup_steps": 10},
    {"kind": "wsd", "steps": 100, "peak_lr": 1e-3, "warmup_steps": 10, "cooldown_steps": 20},
    {"kind": "wsd", "steps": 100, "peak_lr": 1e-3, "cooldown_steps": 20, "decay": "exponential",
     "final_fraction": 0.01},
    {"kind": "cosine", "steps": 100, "peak_lr": 1e-3, "warmup_steps": 10, "final_fraction": 0.1},
    {"kind": "linear", "steps": 100, "peak_lr": 1e-3, "warmup_steps": 10},
    {"kind": "step", "steps": 100, "peak_lr": 1e-3, "boundaries": [80, 90], "factors": [0.1, 0.01]},
    {"kind": "cyclic", "steps": 100, "peak_lr": 1e-3, "cycles": 4, "final_fraction": 0.1},
    {"kind": "stages", "from": 0.0, "stages": [
        {"steps": 10, "to": 1e-3}, {"steps": 50, "to": 1e-3, "form": "constant"},
        {"steps": 40, "to": 1e-4, "form": "cosine"}]},
    {"kind": "array", "rates": [0.1, 0.2, 0.05]},
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s["kind"])
def test_a_schedule_survives_json(spec: dict) -> None:
    made = as_schedule(spec)
    again = Schedule.from_dict(json.loads(json.dumps(made.to_dict())))
    assert np.array_equal(made.rates(), again.rates())
    assert made == again and not made.rates().flags.writeable


@pytest.mark.parametrize("kind", ["constant", "wsd", "wsd-s", "cosine", "linear", "step"])
def test_the_trainer_uses_the_same_rates(kind: str) -> None:
    pytest.importorskip("torch")
    from workers.proxy.config import ScheduleConfig
    from workers.proxy.schedule import lr_factor

    spec = {"kind": kind, "steps": 200, "warmup_steps": 20, "cooldown_steps": 50,
            "final_fraction": 0.05, "initial_fraction": 0.3}  # fmt: skip
    if kind == "wsd-s":
        spec["periods"] = (90, 200)
    if kind == "step":
        spec["drops"] = ((160, 0.3), (180, 0.1))
    theirs = ScheduleConfig(**spec)
    ours = Schedule.from_dict({**spec, "peak_lr": 3e-3})
    factors = [3e-3 * lr_factor(theirs, step) for step in range(1, 201)]
    assert np.allclose(ours.rates(), factors, rtol=1e-12, atol=0)


def test_shapes() -> None:
    step = as_schedule(SPECS[5])
    assert step.rates()[79] == 1e-3 and step.rates()[80] == pytest.approx(1e-4)
    assert step.rates()[-1] == pytest.approx(1e-5)
    wsd = as_schedule(SPECS[1])
    assert wsd.peak_lr == 1e-3 and wsd.warmup_steps == 10 and wsd.loss_potential == 0.0
    assert as_schedule(SPECS[3]).loss_potential == pytest.approx(0.1)
    cyclic = as_schedule(SPECS[6]).rates()
    assert np.allclose(cyclic[[24, 49, 74, 99]], 1e-4)  # every cycle ends at its floor
    points = Schedule.from_points([1, 11, 21], [0.0, 1.0, 0.0])
    assert points.rates()[5] == pytest.approx(0.5) and points.steps == 21


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "zigzag", "steps": 10, "peak_lr": 1.0},
        {"kind": "constant", "steps": 0, "peak_lr": 1.0},
        {"kind": "constant", "steps": 10, "peak_lr": -1.0},
        {"kind": "constant", "peak_lr": 1.0},
        {"kind": "wsd", "steps": 10, "peak_lr": 1.0, "cooldown_steps": 5, "decay": "exponential"},
        {"kind": "step", "steps": 10, "peak_lr": 1.0, "boundaries": [5, 5], "factors": [1, 1]},
        {"kind": "array", "rates": [0.1, float("nan")]},
        {"kind": "array", "rates": [0.0, 0.0]},
    ],
)
def test_an_unusable_schedule_is_refused(spec: dict) -> None:
    with pytest.raises(FittingError):
        Schedule.from_dict(spec)


PEAK = {"steps": 100, "peak_lr": 1e-3}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "constant", "peak_lr": 1e-3}, "has no 'steps'"),
        ({"kind": "constant", **PEAK, "steps": "many"}, "cannot be read"),
        ({"kind": "constant", **PEAK, "steps": float("inf")}, "cannot be read"),
        ({"kind": "constant", **PEAK, "steps": 1e13}, "1e+13 steps"),  # memory is not filled first
        ({"kind": "wsd-s", **PEAK, "cooldown_steps": 10, "periods": [1e13]}, "of 100"),
        ({"kind": "stages", "stages": [{"steps": 1e13, "to": 1e-3}]}, "1e+13 steps"),
        ({"kind": "stages", "stages": [{"steps": -4, "to": 1e-3}]}, "-4 steps"),
        ({"kind": "cyclic", **PEAK, "cycles": 0}, "0 cycles"),
        ({"kind": "wsd", **PEAK, "cooldown_steps": -5}, "cool-down of -5"),
        ({"kind": "step", **PEAK, "boundaries": [-5], "factors": [0.1]}, "Boundaries"),
        ({"kind": "array", "rates": ["a"]}, "cannot be read"),
        ({"kind": "array", "rates": [1e300]}, "1e+300"),
    ],
)
def test_a_schedule_that_is_none_is_refused_with_what_its_kind_takes(spec: dict, said: str) -> None:
    with pytest.raises(FittingError) as refused:
        Schedule.from_dict(spec)
    assert said in refused.value.message and refused.value.hint
    if "cannot be read" in said or "has no" in said:
        takes = "rates" if spec["kind"] == "array" else "steps, peak_lr"
        assert takes in refused.value.hint


def test_a_warm_up_is_told_from_a_later_rise() -> None:
    warm = Schedule.wsd(100, 1e-3, 10, 20)
    cold = Schedule.wsd(100, 1e-3, 0, 20)
    assert warm.warms_up and not cold.warms_up
    assert warm.warmed_as(True) is warm and cold.warmed_as(False) is cold
    np.testing.assert_array_equal(warm.warmed_as(False).rates(), cold.rates())
    given = cold.warmed_as(True)
    assert given.warms_up and given.rates()[0] == 1e-6
    np.testing.assert_array_equal(given.rates()[1:], cold.rates()[1:])
    # rewarmed after a fall: that is no warm-up
    assert not cold.then(Schedule.constant(50, 1e-3, 10)).warms_up
