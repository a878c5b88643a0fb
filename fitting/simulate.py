"""Runs with a known truth, to test what a fit recovers. `plrf` makes them from a solvable model."""

from collections.abc import Mapping

import numpy as np

from fitting.law import Law
from fitting.runs import Runs


def simulate_runs(
    law: Law,
    params: Mapping[str, float],
    *,
    points: int = 60,
    noise: float = 0.0,
    seed: int = 0,
    span: Mapping[str, tuple[float, float]] | None = None,
) -> Runs:
    """Runs of `law` at `params`: inputs log-uniform over each input's typical range (or `span`),
    losses with log-normal noise of standard deviation `noise`."""
    rng = np.random.default_rng([seed, 17])
    inputs = {}
    for i in law.inputs:
        low, high = (span or {}).get(i.name, i.typical)
        u = rng.random(points)
        inputs[i.name] = low * (high / low) ** u if low > 0 else low + (high - low) * u
    loss = law.loss(inputs, params) * np.exp(noise * rng.standard_normal(points))
    return Runs(inputs, loss)
