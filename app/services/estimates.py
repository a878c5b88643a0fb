"""How long a plan takes: list scheduling on measured throughput. Pure.

Throughput is what finished runs of this database reached, at the size nearest in ln N. With none,
the reference below: one core of an x86-64 server, fp32, so a guess elsewhere.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.services.sweep_plan import PlannedRun, SweepPlan

# (N of the blocks, exact FLOP/s of one thread, forward and backward with the optimiser)
REFERENCE: tuple[tuple[float, float], ...] = (
    (23.6e3, 21.6e9),
    (100e3, 32e9),
    (301e3, 33e9),
    (973e3, 48e9),
    (3.16e6, 75e9),
)
# Muon costs 22% more CPU a step than AdamW at these sizes; evaluation and start-up come on top.
OVERHEAD = 1.3
STARTUP_SECONDS = 4.0


@dataclass(frozen=True)
class Throughput:
    """FLOP/s of one training process at a size. source: "measured" or "reference"."""

    points: tuple[tuple[float, float], ...]
    source: str

    def at(self, n_blocks: float) -> float:
        return min(self.points, key=lambda point: abs(math.log(point[0] / n_blocks)))[1]


REFERENCE_THROUGHPUT = Throughput(tuple((n, rate / OVERHEAD) for n, rate in REFERENCE), "reference")


@dataclass(frozen=True)
class Estimate:
    """seconds of wall clock with `processes` training at once; run_seconds is their sum."""

    seconds: float
    run_seconds: float
    processes: int
    source: str


def estimate(plan: SweepPlan, throughput: Throughput, processes: int) -> Estimate:
    """Longest runs first, a branch once its trunk has reached the step that it starts from."""
    seconds = {run.name: _seconds(run, throughput) for run in plan.runs}
    waiting = {run.name: run for run in plan.runs}
    ready_at = {run.name: 0.0 for run in plan.runs if run.parent is None}
    free = [0.0] * max(1, processes)
    heapq.heapify(free)
    end = 0.0
    while waiting:
        known = [run for run in waiting.values() if run.name in ready_at]
        now = max(free[0], min(ready_at[run.name] for run in known))
        startable = [run for run in known if ready_at[run.name] <= now]
        run = max(startable, key=lambda one: seconds[one.name])
        heapq.heappop(free)
        heapq.heappush(free, now + seconds[run.name])
        end = max(end, now + seconds[run.name])
        del waiting[run.name]
        for child in waiting.values():
            if child.parent == run.name and child.parent_step is not None:
                share = child.parent_step / run.steps
                ready_at[child.name] = now + share * seconds[run.name]
    return Estimate(end, sum(seconds.values()), len(free), throughput.source)


def measured(rates: Sequence[tuple[float, float]]) -> Throughput:
    """(n_blocks, FLOP/s) of finished runs -> throughput; the reference where there are none."""
    good = tuple((n, rate) for n, rate in rates if n > 0 and rate > 0 and math.isfinite(rate))
    return Throughput(good, "measured") if good else REFERENCE_THROUGHPUT


def _seconds(run: PlannedRun, throughput: Throughput) -> float:
    return STARTUP_SECONDS + run.new_flops / throughput.at(run.n["blocks"])
