"""Learning-rate schedules, as factors of the peak rate. Steps are 1-based: step 1 is the first.

constant  warm-up, then the peak
wsd       warm-up, constant, cool-down along 1 - sqrt (Hägele et al. 2024, arXiv 2405.18392, found
          it better than a linear one). Until its cool-down starts it equals `constant` exactly, so
          that a branch continues a trunk without a seam
wsd-s     several cool-downs in one run, each followed by a new warm-up from where it ended (Wen et
          al. 2024, arXiv 2410.05192): every `periods` step gives a cooled model
cosine, linear   from the peak after the warm-up to the last step
step      the peak times the factor of the last drop that is past. Two drops at 8/10 and 9/10 are
          the "8-1-1" that identifies an annealing law from one run
"""

import math

from workers.proxy.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, step: int) -> float:
    """Rate at `step` over the peak rate; `final_fraction` is reached at the last step."""
    if schedule.kind == "wsd-s":
        return _in_periods(schedule, step)
    if step <= schedule.warmup_steps:
        return _rise(schedule.initial_fraction, step / schedule.warmup_steps)
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "step":
        past = [factor for at, factor in schedule.drops if step > at]
        return past[-1] if past else 1.0
    start = schedule.warmup_steps
    if schedule.kind == "wsd":
        start = max(start, schedule.steps - schedule.cooldown_steps)
    if step <= start:
        return 1.0
    done = min(1.0, (step - start) / (schedule.steps - start))
    fallen = {
        "wsd": math.sqrt(done),
        "linear": done,
        "cosine": 0.5 * (1.0 - math.cos(math.pi * done)),
    }[schedule.kind]
    return 1.0 - (1.0 - schedule.final_fraction) * fallen


def _in_periods(schedule: ScheduleConfig, step: int) -> float:
    """Warm-up, constant, cool-down within the period that holds `step`."""
    begin, end = 0, schedule.periods[-1]
    for each in schedule.periods:
        if step <= each:
            end = each
            break
        begin = each
    if step <= begin + schedule.warmup_steps:
        low = schedule.final_fraction if begin else schedule.initial_fraction
        return _rise(low, (step - begin) / schedule.warmup_steps)
    cooldown = schedule.cooldown_before(end)
    done = max(0.0, (step - (end - cooldown)) / cooldown)
    return 1.0 - (1.0 - schedule.final_fraction) * math.sqrt(done)


def _rise(low: float, done: float) -> float:
    return low + (1.0 - low) * done
