"""The objectives as they are stored: one side for runs tuned badly, weights, points left out."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize

from fitting import LAWS, Fit, FittingError, Objective, Runs, fit
from fitting.objective import KINDS, ObjectiveKind

LAW = LAWS["chinchilla"]
assert LAW.published is not None
TRUTH = LAW.published.params


def badly_tuned(share: float = 0.45, most: float = 0.06) -> Runs:
    """48 runs of the published law, .1% of noise; some of them up to 6% above it, none below."""
    rng = np.random.default_rng(5)
    N = np.repeat(np.geomspace(1e7, 1e10, 8), 6)
    D = np.tile(np.geomspace(1e9, 1e12, 6), 8)
    above = np.where(rng.random(48) < share, most * rng.random(48), 0.0)
    loss = LAW.loss({"N": N, "D": D}, TRUTH) * np.exp(above + 1e-3 * rng.standard_normal(48))
    return Runs({"N": N, "D": D}, loss)


def off(found: Fit) -> float:
    """Mean distance of the fit from the true law, on the runs and at ten times the largest."""
    N, D = np.geomspace(1e7, 1e11, 9), np.geomspace(1e9, 1e13, 9)
    true = LAW.loss({"N": N, "D": D}, TRUTH)
    return float(np.abs(np.log(found.predict({"N": N, "D": D}).value / true)).mean())


def test_runs_that_were_tuned_badly_pull_a_one_sided_fit_less() -> None:
    runs = badly_tuned()
    one_sided = fit(LAW, runs, objective=Objective("one-sided-log", asymmetry=20.0), draws=0)
    two_sided = fit(LAW, runs, draws=0)
    squares = fit(LAW, runs, objective=Objective("squares-log"), draws=0)
    assert off(one_sided) < 0.5 * off(two_sided) and off(one_sided) < 0.5 * off(squares)


def test_the_one_sided_optimum_is_that_of_another_method() -> None:
    """Nelder-Mead from the optimum finds nothing lower on the penalty written out by hand."""
    runs = badly_tuned()
    found = fit(LAW, runs, objective=Objective("one-sided-log", asymmetry=20.0), draws=0)

    def by_hand(theta: np.ndarray) -> float:
        r = np.log(runs.loss) - np.log(LAW.evaluate(runs.inputs, LAW.from_line(theta)))
        size = np.abs(r)
        each = np.where(size <= 1e-3, r * r / 2, 1e-3 * (size - 5e-4))
        return 1e6 * float(np.where(r > 0, each / 20.0, each).sum())

    start = LAW.to_line(found.values)
    assert 1e6 * found.objective_value == pytest.approx(by_hand(start), rel=1e-12)
    options = {"maxfev": 3000, "xatol": 1e-12, "fatol": 1e-12}
    peer = minimize(by_hand, start + 1e-3, method="Nelder-Mead", options=options).fun
    assert 1e6 * found.objective_value <= peer * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_minimised_is_stored_with_the_fit(kind: ObjectiveKind) -> None:
    runs = badly_tuned()
    weights = np.where(np.arange(48) % 5 == 0, 2.0, 1.0)
    given = Runs(runs.inputs, runs.loss, weights=weights, masked={3: "diverged", 40: "a rerun"})
    found = fit(LAW, given, objective=Objective(kind, delta=2e-3, asymmetry=4.0), draws=0)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    stored = document["objective"]
    assert (stored["kind"], stored["delta"], stored["asymmetry"]) == (kind, 2e-3, 4.0)
    assert stored["reduction"] == "sum" and stored["weights"] == weights.tolist()
    assert stored["dropped"] == [{"row": 3, "reason": "diverged"}, {"row": 40, "reason": "a rerun"}]
    assert Fit.from_dict(document).to_dict() == document
    used = given.used
    value = Objective(kind, delta=2e-3, asymmetry=4.0).value(
        given.loss[used],
        LAW.evaluate({k: v[used] for k, v in given.inputs.items()}, found.values),
        weights[used],
    )
    assert stored["value"] == pytest.approx(float(value), rel=1e-9)


def test_one_side_is_the_lower_one() -> None:
    with pytest.raises(FittingError, match="asymmetry"):
        Objective("one-sided-log", asymmetry=0.5)
