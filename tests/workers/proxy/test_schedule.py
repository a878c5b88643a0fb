"""Schedules against the formulas of their papers, written out."""

import math

import pytest
import torch

from workers.proxy.config import ConfigError, ScheduleConfig
from workers.proxy.schedule import lr_factor


def rates(**given: object) -> list[float]:
    schedule = ScheduleConfig(**given)  # type: ignore[arg-type]
    return [lr_factor(schedule, step) for step in range(1, schedule.steps + 1)]


def test_step_decay_is_a_staircase() -> None:
    """DeepSeek LLM (arXiv 2401.02954): 31.6% of the peak after 80% of the steps, 10% after 90%."""
    found = rates(kind="step", steps=20, warmup_steps=2, drops=[[16, 10**-0.5], [18, 0.1]])
    assert found == [0.5, 1.0] + [1.0] * 14 + [10**-0.5] * 2 + [0.1] * 2


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_falling_rates_are_torch_s(kind: str) -> None:
    """After a warm-up of 5: torch's own schedulers over the 20 steps that are left, to a tenth."""
    found = rates(kind=kind, steps=25, warmup_steps=5, final_fraction=0.1)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedulers = torch.optim.lr_scheduler
    theirs: torch.optim.lr_scheduler.LRScheduler
    if kind == "cosine":
        theirs = schedulers.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    else:
        theirs = schedulers.LinearLR(optimizer, 1.0, 0.1, total_iters=20)
    expected = []
    for _ in range(20):
        optimizer.step()
        theirs.step()
        expected.append(theirs.get_last_lr()[0])
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[5:] == pytest.approx(expected)


def test_wsd_cools_along_one_minus_the_root() -> None:
    """Hägele et al. 2024 (arXiv 2405.18392), equation 1, to a fifth; until then it is the trunk."""
    found = rates(kind="wsd", steps=30, warmup_steps=4, cooldown_steps=9, final_fraction=0.2)
    trunk = rates(kind="constant", steps=30, warmup_steps=4)
    assert found[:21] == trunk[:21] == [0.25, 0.5, 0.75] + [1.0] * 18
    assert found[21:] == pytest.approx([1 - 0.8 * (i / 9) ** 0.5 for i in range(1, 10)])
    assert found[-1] == pytest.approx(0.2)


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
