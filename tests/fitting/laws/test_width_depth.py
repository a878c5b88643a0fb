"""McLeish et al. 2025: 22 shapes, each predicted by a law that has not seen it."""

import json

import numpy as np
import pytest

from fitting import Objective, Runs, get_law
from fitting.engine import Engine
from tests.fitting import data
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("width_depth")
# Fitted elsewhere to the same rows, printed for width / 1024, depth / 16, N / 1e8, D / 1e10.
KNOWN = {"E": 1.50, "a": 0.206, "b": 0.479, "c": 0.371, "beta": 0.498}
AT_SCALE = {"A_w": (0.69, 1024, "a"), "A_l": (0.213, 16, "b")}
AT_SCALE |= {"A_N": (0.537, 1e8, "c"), "B": (0.416, 1e10, "beta")}


def gemstones() -> Runs:
    """The shapes' losses from 10B tokens on."""
    lines = data.path("time/gemstones_hot_100bplus_477.jsonl").read_text().splitlines()
    table = [row for row in map(json.loads, lines) if row["tokens"] >= 1e10]
    names = {"width": "width", "depth": "depth", "N": "params_active_precise", "D": "tokens"}
    inputs = {k: np.array([float(row[v]) for row in table]) for k, v in names.items()}
    loss = [row["final_loss"] for row in table]
    return Runs(inputs, loss, run=[row["run_name"] for row in table])


def test_fit_and_leave_one_shape_out() -> None:
    """Train error .36%; a shape left out .44% on average, .78% at most (Chinchilla: .97%, 5.5%)."""
    runs = gemstones()
    out = np.arange(runs.group.max() + 1)[:, None] == runs.group[None, :]
    assert out.shape[0] == 22
    errors = {}
    for law in (LAW, get_law("chinchilla")):
        engine = Engine.of(law, runs, Objective())
        whole = engine.cold()
        each = engine.values(engine.warm(whole.theta, (~out).astype(float)).theta)
        miss = 100 * np.abs(np.asarray(law.evaluate(runs.inputs, each)) / runs.loss - 1)
        left_out = (miss * out).sum(axis=1) / out.sum(axis=1)
        train = 100 * np.abs(law.evaluate(runs.inputs, whole.values) / runs.loss - 1).mean()
        errors[law.name] = (train, left_out.mean(), left_out.max())
        if law is LAW:
            p = dict(zip(law.param_names, whole.values, strict=True))
    assert errors["width_depth"] == pytest.approx((0.36, 0.44, 0.78), abs=0.02)
    assert errors["chinchilla"][1:] == pytest.approx((0.97, 5.5), rel=0.01)
    for name, value in KNOWN.items():
        assert p[name] == pytest.approx(value, abs=0.002), name
    for name, (value, unit, exponent) in AT_SCALE.items():
        assert p[name] * unit ** -p[exponent] == pytest.approx(value, abs=0.003), name


def test_agrees_with_scipy() -> None:
    truth = dict(KNOWN)
    for name, (value, unit, exponent) in AT_SCALE.items():
        truth[name] = value * unit ** KNOWN[exponent]
    agrees_with_scipy(LAW, {k: truth[k] for k in LAW.param_names}, points=150, noise=1e-3)
