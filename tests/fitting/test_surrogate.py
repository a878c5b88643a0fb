"""Many predictions at once: interpolated quantiles against the exact ones of every draw."""

import numpy as np
import pytest

from fitting import LAWS, fit
from fitting.predict import draw_quantiles
from fitting.simulate import simulate_runs
from fitting.surrogate import TOLERANCE, WORTH_IT, interpolated


@pytest.mark.parametrize("name", ["chinchilla", "tied"])
def test_many_predictions_are_those_of_the_draws(name: str) -> None:
    law = LAWS[name]
    truth = LAWS["chinchilla"]
    assert truth.published is not None
    runs = simulate_runs(truth, truth.published.params, points=60, noise=4e-3, seed=1)
    found = fit(law, runs, draws=400)
    rng = np.random.default_rng(3)
    at = {"N": 10 ** rng.uniform(7, 12, WORTH_IT), "D": 10 ** rng.uniform(9, 13, WORTH_IT)}
    many = found.predict(at)
    some = {k: v[:500] for k, v in at.items()}
    few = found.predict(some)  # too few to interpolate: every draw at every point
    value = np.asarray(law.evaluate(some, found.values))
    low, high = draw_quantiles(found, some, value, 0.9)
    for end in ("lower", "upper"):
        off = np.abs(np.log(getattr(many, end)[:500] / getattr(few, end)))
        assert (off <= 1.5 * TOLERANCE * (high - low)).all()
    np.testing.assert_array_equal(many.value[:500], few.value)


def test_what_cannot_be_interpolated_is_computed() -> None:
    def exact(at):  # type: ignore[no-untyped-def]
        return -np.abs(np.sin(40 * np.log(at["N"]))), np.abs(np.cos(40 * np.log(at["N"])))

    rough = {"N": np.geomspace(1e6, 1e12, WORTH_IT)}
    assert interpolated(exact, rough) is None
    assert interpolated(exact, {"N": np.ones(10)}) is None
    assert interpolated(exact, {k: np.linspace(1, 9, WORTH_IT) for k in "NDU"}) is None
