"""Caballero et al. 2022, and the loss decelerations that Mircea et al. 2025 measured with it."""

import numpy as np
import pytest

from fitting import Law, Objective, Runs, get_law
from fitting.engine import Engine
from fitting.laws.broken import broken_law, broken_loss
from tests.fitting import data
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("broken")
TRUTH = {"a": 1.6, "b": 300.0, "c0": 0.13, "c1": 0.1, "d1": 1e20, "f1": 0.6}

# Mircea et al. 2025, table of decelerations: model, L_d, t_d, r_d, predicted and true final loss.
DECELERATIONS = [
    ("14M", 4.05, 5877, 0.013, 3.86, 3.88),
    ("37M", 3.60, 5907, 0.016, 3.39, 3.40),
    ("78M", 3.38, 5928, 0.020, 3.14, 3.15),
    ("144M", 3.25, 6074, 0.023, 2.98, 2.99),
    ("285M", 3.14, 5264, 0.025, 2.85, 2.87),
    ("472M", 3.16, 4644, 0.035, 2.77, 2.80),
    ("OLMo-1B", 2.86, 3717, 0.034, 2.39, 2.40),
    ("OLMo-7B", 2.64, 4627, 0.053, 2.04, 2.03),
]


def without_floor() -> Law:
    def loss(C, *, b, c0, c1, d1, f1):  # type: ignore[no-untyped-def]
        return broken_loss(C, 0.0, b, c0, [(c1, d1, f1)])

    return Law("no_floor", "", "", "", loss, LAW.inputs, LAW.params[1:], linear=("b",))


@pytest.mark.parametrize(("model", "L_d", "t_d", "r_d", "final", "true"), DECELERATIONS)
def test_loss_decelerations(
    model: str, L_d: float, t_d: int, r_d: float, final: float, true: float
) -> None:
    """Every printed digit of the eight models (t_d is cut to whole steps there)."""
    table = [r for r in data.rows("curves/zsl/zsl_smoothed_curves.csv") if r["model"] == model]
    step, smooth = data.column(table, "step"), data.column(table, "smoothed_loss")
    late = step > 100
    law = without_floor()
    runs = Runs({"C": step[late]}, smooth[late])
    found = Engine.of(law, runs, Objective("squares-log")).cold()
    p = dict(zip(law.param_names, found.values, strict=True))
    assert p["b"] * p["d1"] ** -p["c0"] == pytest.approx(L_d, abs=0.0051)
    assert int(p["d1"]) == t_d
    assert p["c0"] + p["c1"] == pytest.approx(r_d, abs=0.00051)
    assert law.evaluate({"C": step[-1]}, found.values)[0] == pytest.approx(final, abs=0.0065)
    assert smooth[-1] == pytest.approx(true, abs=0.0051)


def test_slopes_before_and_after_the_break() -> None:
    """On log-log paper, above the floor: -c0 first, -(c0 + c1) at last."""
    c = np.array([1e-30, 1e-29, 1e29, 1e30])
    y = np.log(LAW.loss({"C": c}, {**TRUTH, "a": 0.0, "d1": 1.0}))
    assert (y[1] - y[0]) / np.log(10) == pytest.approx(-0.13, rel=1e-9)
    assert (y[3] - y[2]) / np.log(10) == pytest.approx(-0.23, rel=1e-9)


def test_a_break_of_no_strength_is_no_break() -> None:
    two = get_law("broken_2")
    p = {**TRUTH, "c2": 0.0, "d2": 1e22, "f2": 0.3}
    c = np.geomspace(1e17, 1e24, 9)
    np.testing.assert_allclose(two.loss({"C": c}, p), LAW.loss({"C": c}, TRUTH), rtol=1e-14)


def test_any_number_of_breaks() -> None:
    assert len(broken_law(4).params) == 15


def test_agrees_with_scipy() -> None:
    agrees_with_scipy(LAW, TRUTH, points=120, noise=1e-3)
