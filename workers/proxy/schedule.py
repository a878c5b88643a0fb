"""Learning-rate schedules, as factors of the peak rate. Steps are 1-based: step 1 is the first.

`wsd` is warm-up, constant, cool-down along 1 - sqrt (Hägele et al. 2024, arXiv 2405.18392, found
it better than a linear one). Until its cool-down starts it equals `constant` exactly, so that a
branch continues a trunk without a seam.
"""

import math

from workers.proxy.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, step: int) -> float:
    """Rate at `step` over the peak rate; `final_fraction` is reached at the last step."""
    if step <= schedule.warmup_steps:
        return step / schedule.warmup_steps
    if schedule.kind == "constant":
        return 1.0
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
