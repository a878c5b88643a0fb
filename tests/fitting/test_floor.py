"""Runs that show no floor: the interval reaches up to what a floor would give."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from fitting import Fit, Objective, Runs, fit, get_law
from fitting.floor import FLOOR_SHARE

LAW = get_law("chinchilla")
# Kaplan et al.'s warm-up as Porian et al. 2024 found it, in tokens; GPT-2's untrained loss.
WARM_UP, UNTRAINED = 1.6e9, float(np.log(50257))


def trained(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Floor 1.8, about Besiroglu et al.'s law; a warm-up of fixed length wastes its tokens, and no
    run is worse than an untrained one."""
    D = D * D / (WARM_UP + D)
    full = 1.8 + 0.35 * (N / 1e9) ** -0.35 + 0.36 * (D / 2e10) ** -0.37
    return (full**-3 + UNTRAINED**-3) ** (-1 / 3)


def sweep(tokens: tuple[float, float], law: Callable[..., np.ndarray] = trained) -> Runs:
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 7), np.geomspace(*tokens, 7)))
    noise = 0.003 * np.random.default_rng(3).standard_normal(N.size)
    return Runs({"N": N, "D": D}, law(N, D) * np.exp(noise))


@pytest.fixture(scope="module")
def short() -> tuple[Runs, Fit]:
    runs = sweep((2e7, 3e9))
    return runs, fit(LAW, runs, draws=100)


LARGE = {"N": np.array([1e10, 3e10]), "D": np.array([1e11, 5e11])}


def test_runs_inside_their_warm_up_show_no_floor_and_the_interval_holds(
    short: tuple[Runs, Fit],
) -> None:
    """The law falls to half of the true loss: what the draws say of it is not its error."""
    found = short[1]
    p, truth = found.predict(LARGE), trained(LARGE["N"], LARGE["D"])
    assert found.status == "degenerate" and found.params["E"] < 1e-3
    assert (truth > 1.6 * p.value).all()
    assert (truth < p.upper).all() and (p.lower < p.value).all()
    assert (truth > np.quantile([LAW.evaluate(LARGE, d) for d in found.draws], 0.95, axis=0)).all()
    assert p.warnings[0]["code"] == "floor_unknown"
    assert f"{FLOOR_SHARE:.0%}" in p.warnings[0]["message"]


def test_beyond_runs_in_their_warm_up_the_prediction_repeats_the_remedy(
    short: tuple[Runs, Fit],
) -> None:
    """Of the runs without the 30% of fewest tokens, most are past the warm-up: the same law is
    closer to them by far than to all runs, and the warning says by how much."""
    runs, found = short
    (said,) = [w.to_dict() for w in found.warnings if w.code == "exponent_moves_with_the_cut"]
    assert said in found.predict(LARGE).warnings
    assert not found.predict({"N": 1e8, "D": 1e8}).warnings
    D = runs.inputs["D"]
    longer = fit(LAW, runs.select(np.quantile(D, 0.3) * (1 - 1e-9) <= D), draws=0)
    assert f"scatter by {longer.calibration.noise:.2%}" in said["message"]
    assert f"not {found.calibration.noise:.2%}" in said["message"]


def test_the_law_with_a_floor_is_the_best_one(short: tuple[Runs, Fit]) -> None:
    """Nelder & Mead on the same objective, with the floor held."""
    runs, found = short
    E = FLOOR_SHARE * float(runs.loss.min())
    assert found.with_floor[0] == pytest.approx(E, rel=1e-9)

    def value(x: np.ndarray) -> float:
        a, b, alpha, beta = x
        N, D = runs.inputs["N"], runs.inputs["D"]
        loss = E + np.exp(a - alpha * np.log(N / 1e8)) + np.exp(b - beta * np.log(D / 1e9))
        r = np.abs(np.log(runs.loss / loss))
        return float(np.where(r < 1e-3, 0.5 * r * r, 1e-3 * (r - 5e-4)).sum())

    A, B, alpha, beta = found.with_floor[1:]
    ours = np.array([np.log(A) - alpha * np.log(1e8), np.log(B) - beta * np.log(1e9), alpha, beta])
    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-8, "fatol": 1e-14, "adaptive": True}
    for start in (ours, np.array([0.0, 0.5, 0.3, 0.3])):
        other = minimize(value, start, method="Nelder-Mead", options=options)
        assert value(ours) <= other.fun * (1 + 1e-6)


def test_the_document_keeps_it(short: tuple[Runs, Fit]) -> None:
    found = short[1]
    again = Fit.from_dict(found.to_dict())
    assert again.with_floor == found.with_floor
    np.testing.assert_array_equal(again.predict(LARGE).upper, found.predict(LARGE).upper)


def test_on_raw_loss_the_floor_is_held_as_well() -> None:
    runs = sweep((2e7, 3e9))
    found = fit(LAW, runs, objective=Objective("huber-raw"), draws=40)
    assert found.with_floor[0] == pytest.approx(FLOOR_SHARE * float(runs.loss.min()), rel=1e-6)


def test_runs_that_show_their_floor_are_left_alone() -> None:
    def law(N: np.ndarray, D: np.ndarray) -> np.ndarray:
        return np.asarray(1.8 + 0.35 * (N / 1e9) ** -0.35 + 0.36 * (D / 2e10) ** -0.37)

    found = fit(LAW, sweep((1e9, 1e11), law), draws=60)
    assert found.status == "converged" and found.with_floor == ()
    assert "with_floor" not in found.to_dict()
    assert not found.predict(LARGE).warnings
