"""What must not change a fit: the unit of an input, the order of rows, duplicates for weights."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitting import LAWS, Law, Objective, Runs, fit
from fitting.engine import Engine
from fitting.simulate import simulate_runs
from tests.fitting.test_every_law import truth

# Inputs whose unit is a matter of taste; bits, shares, layers and experts are numbers as such.
SCALED = {"N", "D", "C", "S", "U"}
# Quick to fit, for the tests that try many cases.
SMALL = ("chinchilla", "tied", "kaplan", "kaplan_floor", "henighan_size", "over_training")
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
quick = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def predictions(law: Law, runs: Runs, at: dict[str, np.ndarray]) -> np.ndarray:
    """What the least-squares fit to `runs` says `at` these inputs."""
    found = Engine.of(law, runs, Objective("squares-log")).cold()
    return np.asarray(law.evaluate(at, found.values), dtype=float)


def rescaled(inputs: dict[str, np.ndarray], unit: float) -> dict[str, np.ndarray]:
    return {k: v / unit if k in SCALED else v for k, v in inputs.items()}


@laws
def test_millions_or_units(law: Law) -> None:
    """N in millions, D in millions, C in 1e6 FLOPs: the same predictions at the same runs."""
    if not SCALED & set(law.input_names) or any(i.kind != "number" for i in law.inputs):
        pytest.skip(f"{law.name} has no input whose unit is free")
    runs = simulate_runs(law, truth(law), points=60, noise=1e-3, seed=11)
    in_millions = Runs(rescaled(runs.inputs, 1e6), runs.loss)
    one = predictions(law, runs, runs.inputs)
    other = predictions(law, in_millions, in_millions.inputs)
    np.testing.assert_allclose(other, one, rtol=2e-5)


@quick
@given(name=st.sampled_from(SMALL), exponent=st.floats(-9, 9), seed=st.integers(0, 10**6))
def test_any_unit(name: str, exponent: float, seed: int) -> None:
    law = LAWS[name]
    runs = simulate_runs(law, truth(law), points=30, noise=3e-3, seed=seed)
    other = Runs(rescaled(runs.inputs, 10.0**exponent), runs.loss)
    np.testing.assert_allclose(
        predictions(law, other, other.inputs), predictions(law, runs, runs.inputs), rtol=1e-6
    )


@quick
@given(name=st.sampled_from(SMALL), seed=st.integers(0, 10**6))
def test_the_order_of_rows(name: str, seed: int) -> None:
    law = LAWS[name]
    runs = simulate_runs(law, truth(law), points=30, noise=3e-3, seed=seed)
    shuffled = runs.select(np.random.default_rng(seed).permutation(30))
    np.testing.assert_allclose(
        predictions(law, shuffled, runs.inputs), predictions(law, runs, runs.inputs), rtol=1e-7
    )


@quick
@given(name=st.sampled_from(SMALL), seed=st.integers(0, 10**6))
def test_weights_are_repeats(name: str, seed: int) -> None:
    """A weight of 3 is the same row given three times; a weight of 0 is no row."""
    law = LAWS[name]
    runs = simulate_runs(law, truth(law), points=30, noise=3e-3, seed=seed)
    times = np.random.default_rng(seed).integers(0, 4, 30)
    times[:12] = np.maximum(times[:12], 1)  # enough rows to fit
    weighted = Runs(runs.inputs, runs.loss, weights=times.astype(float))
    repeated = runs.select(np.repeat(np.arange(30), times))
    np.testing.assert_allclose(
        predictions(law, weighted, runs.inputs),
        predictions(law, repeated, runs.inputs),
        rtol=1e-7,
    )


@pytest.mark.parametrize("name", SMALL)
def test_every_row_twice_doubles_the_objective_and_moves_nothing(name: str) -> None:
    """For Huber too: its sum doubles, its minimum stays."""
    law = LAWS[name]
    runs = simulate_runs(law, truth(law), points=40, noise=3e-3, seed=2)
    twice = runs.select(np.tile(np.arange(40), 2))
    one, two = fit(law, runs, draws=0), fit(law, twice, draws=0)
    assert two.objective_value == pytest.approx(2 * one.objective_value, rel=1e-9)
    np.testing.assert_allclose(
        two.predict(runs.inputs).value, one.predict(runs.inputs).value, rtol=1e-6
    )
