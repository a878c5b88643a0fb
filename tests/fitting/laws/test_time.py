"""The time law is width_depth with D = time x throughput, and a fit of either gives the other."""

import numpy as np
import pytest

from fitting import Objective, Runs, get_law
from fitting.engine import Engine
from tests.fitting.laws.test_width_depth import KNOWN, gemstones

LAW = get_law("time")


def test_gemstones_by_the_clock() -> None:
    """The 22 shapes' losses by GPU-hours and throughput: the same optimum as by tokens."""
    runs = gemstones()
    per_hour = 1e9 / (1 + runs.inputs["width"] / 1000)  # any throughput will do: it cancels
    inputs = {k: runs.inputs[k] for k in ("width", "depth", "N")}
    inputs |= {"tokens_per_gpu_hour": per_hour, "gpu_hours": runs.inputs["D"] / per_hour}
    timed = Runs(inputs, runs.loss, run=runs.group)
    found = Engine.of(LAW, timed, Objective()).cold()
    p = dict(zip(LAW.param_names, found.values, strict=True))
    for name, value in KNOWN.items():
        assert p[name] == pytest.approx(value, abs=0.002), name


def test_it_is_width_depth() -> None:
    p = {"E": 1.5, "A_w": 2.9, "a": 0.2, "A_l": 0.8, "b": 0.5, "A_N": 500.0, "c": 0.37,
         "B": 4e4, "beta": 0.5}  # fmt: skip
    by_time = LAW.loss(
        {
            "width": [1024],
            "depth": [16],
            "N": [3e8],
            "gpu_hours": [50],
            "tokens_per_gpu_hour": [2e8],
        },
        p,
    )
    by_tokens = get_law("width_depth").loss(
        {"width": [1024], "depth": [16], "N": [3e8], "D": [1e10]}, p
    )
    np.testing.assert_allclose(by_time, by_tokens, rtol=1e-14)
