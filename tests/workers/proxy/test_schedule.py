"""Schedules against the formulas of their papers, written out."""

import math

import pytest

from workers.proxy.config import ConfigError, ScheduleConfig
from workers.proxy.schedule import lr_factor


def rates(**given: object) -> list[float]:
    schedule = ScheduleConfig(**given)  # type: ignore[arg-type]
    return [lr_factor(schedule, step) for step in range(1, schedule.steps + 1)]


def test_step_decay_is_a_staircase() -> None:
    """DeepSeek LLM (arXiv 2401.02954): 31.6% of the peak after 80% of the steps, 10% after 90%."""
    found = rates(kind="step", steps=20, warmup_steps=2, drops=[[16, 10**-0.5], [18, 0.1]])
    assert found == [0.5, 1.0] + [1.0] * 14 + [10**-0.5] * 2 + [0.1] * 2


def test_wsd_s_is_a_wsd_run_at_every_period_s_end() -> None:
    """Until the first period ends it *is* the WSD run of that length, with the same share of it
    cooled; then it warms up again and goes on."""
    found = rates(kind="wsd-s", steps=40, warmup_steps=4, cooldown_steps=8, periods=[20, 40])
    alone = rates(kind="wsd", steps=20, warmup_steps=4, cooldown_steps=4)
    assert found[:20] == alone
    assert found[20:24] == [0.25, 0.5, 0.75, 1.0]
    assert found[24:32] == [1.0] * 8
    assert found[32:] == pytest.approx([1 - math.sqrt(i / 8) for i in range(1, 9)])


def test_a_warm_up_rises_from_where_the_parent_was() -> None:
    found = rates(kind="cosine", steps=12, warmup_steps=4, initial_fraction=0.2)
    assert found[:4] == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert found[-1] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "step"}, "needs"),
        ({"kind": "step", "drops": [[5, 0.5], [5, 0.1]]}, "rising"),
        ({"kind": "cosine", "drops": [[5, 0.5]]}, "no other"),
        ({"kind": "wsd-s", "cooldown_steps": 2, "periods": [10, 19]}, "end with 20"),
        ({"kind": "wsd-s", "cooldown_steps": 2, "periods": [1, 20]}, "too short"),
        ({"kind": "wsd-s", "periods": [20]}, "cooldown_steps is 0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ScheduleConfig(steps=20, warmup_steps=1, **given)  # type: ignore[arg-type]
