"""Resamples found by asking a dozen points what all of them say, and certified by the law."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from fitting import LAWS, Objective, Runs, fit
from fitting import engine as engines
from fitting.engine import Engine
from fitting.generic import GenericProblem
from fitting.intervals import resample_counts
from fitting.simulate import simulate_runs
from fitting.surface import Surface


def many(law: str, points: int = 1200) -> Engine:
    published = LAWS[law].published
    assert published is not None
    runs = simulate_runs(LAWS[law], published.params, points=points, noise=0.01, seed=3)
    return Engine.of(LAWS[law], runs, Objective())


@pytest.mark.parametrize("law", ["kaplan", "over_training"])
def test_every_resample_ends_where_newton_on_the_law_ends(
    law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = many(law)
    best = engine.cold()
    counts = resample_counts(engine.group, 400, np.random.default_rng(1))
    made: list[Surface | None] = []
    of = Surface.of
    monkeypatch.setattr(Surface, "of", lambda *given: made.append(of(*given)) or made[-1])
    found = engine.warm(best.theta, counts)
    assert len(made) == 1 and made[0] is not None
    monkeypatch.setattr(engines, "SURFACE_POINTS", 10**9)
    plain = engine.warm(best.theta, counts)
    assert found.converged.all() and plain.converged.all()
    near = np.abs(found.f / plain.f - 1) < 1e-9
    assert near.mean() > 0.99  # Huber's objective has neighbouring minima
    spread = plain.theta.std(axis=0)
    assert (np.abs(found.theta - plain.theta)[near] < 0.01 * spread).all()


def test_a_simplex_from_there_finds_nothing_lower() -> None:
    """A second method, on the formula alone: scipy's Nelder and Mead."""
    engine = many("kaplan")
    counts = resample_counts(engine.group, 400, np.random.default_rng(2))
    found = engine.warm(engine.cold().theta, counts)
    for lane in (30, 200, 399):

        def objective(theta: np.ndarray, w: np.ndarray = counts[lane]) -> float:
            predicted = LAWS["kaplan"].evaluate(engine.inputs, LAWS["kaplan"].from_line(theta))
            r = np.log(engine.loss) - np.log(predicted)
            psi = np.clip(r, -1e-3, 1e-3)
            return float((w * psi * (r - 0.5 * psi)).sum())

        start = found.theta[lane]
        assert objective(start) == pytest.approx(found.f[lane], rel=1e-12)
        theirs = minimize(objective, start, method="Nelder-Mead", options={"maxfev": 400})
        assert theirs.fun >= found.f[lane] * (1 - 1e-9)


def test_what_witnesses_certify_the_law_certifies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many points a thousand are asked; all of them agree that no step gains more."""
    engine = many("kaplan", 4000)
    best = engine.cold()
    counts = resample_counts(engine.group, 120, np.random.default_rng(4))
    asked: list[int] = []
    gradient = GenericProblem.gradient

    def counting(self: GenericProblem, theta: np.ndarray, w: np.ndarray) -> object:
        asked.append(len(theta) * self.points)
        return gradient(self, theta, w)

    monkeypatch.setattr(GenericProblem, "gradient", counting)
    found = engine.warm(best.theta, counts)
    assert found.converged.all()
    assert sum(asked) < 0.5 * counts.size  # most resamples need no more than their witnesses
    f, g, h = engine.problem().evaluate(found.theta, counts)
    np.testing.assert_allclose(found.f, f, rtol=1e-7)
    gain = np.vecdot(np.linalg.solve(h, g[:, :, None])[:, :, 0], g) / f
    assert (gain < 2e-10).all()


def test_a_point_that_was_left_out_and_came_near_is_seen() -> None:
    engine = many("over_training")
    best = engine.cold()
    counts = resample_counts(engine.group, 120, np.random.default_rng(3))
    exact = engine.warm(best.theta, counts).theta
    surface = Surface.of(engine.problem(), best.theta + 1.3 * (exact - best.theta), 1e-10)
    assert surface is not None
    near, _ = surface.apart(counts)
    assert not near.strayed(exact).any()
    # 3% lower everywhere: points far below the law come near it
    away = best.values * np.where(
        np.isin(LAWS["over_training"].param_names, ["E", "a", "b"]), 0.97, 1
    )
    theta = np.stack([best.theta, engine.theta(away)])
    assert near.strayed(theta).tolist() == [False, True]


def test_its_derivatives_are_those_of_the_law() -> None:
    engine = many("over_training")
    best = engine.cold()
    counts = resample_counts(engine.group, 40, np.random.default_rng(3))
    exact = engine.warm(best.theta, counts)
    around = best.theta + 1.3 * (exact.theta - best.theta)
    surface = Surface.of(engine.problem(), around, 1e-10)
    assert surface is not None and surface.parts.shape[1] < 25
    f, g, h = engine.problem().evaluate(exact.theta, counts)
    own, slope, bend = surface.evaluate(exact.theta, counts)
    scale = np.sqrt(np.einsum("bii->bi", h))
    # points that stay far off are a sum made once
    near, weights = surface.apart(counts)
    assert near.points < 0.8 * surface.points
    lanes = np.array([3, 17, 30])
    same, steep, bent = near.evaluate(exact.theta[lanes], weights, lanes)
    size = scale[lanes] * np.sqrt(f[lanes])[:, None]
    np.testing.assert_allclose(same, own[lanes], rtol=1e-12)
    np.testing.assert_allclose(steep / size, slope[lanes] / size, atol=1e-10)
    np.testing.assert_allclose(bent, bend[lanes], rtol=1e-9, atol=1e-9 * np.abs(bend).max())
    assert np.abs(own / f - 1).max() < 1e-5
    assert (np.abs(slope - g) / (scale * np.sqrt(f)[:, None])).max() < 1e-4
    assert np.median(np.abs(bend - h) / (scale[:, :, None] * scale[:, None, :])) < 1e-4


def test_there_is_none_where_combinations_are_not_true() -> None:
    """Places e-folds apart, and too few of them: they do not say what happens between."""
    engine = many("kaplan")
    theta = engine.cold().theta
    wide = theta + np.random.default_rng(4).standard_normal((20, theta.size)) * [3, 3, 0.05, 0.05]
    assert Surface.of(engine.problem(), wide, 1e-10) is None


def test_a_fit_of_many_runs_finds_the_truth_and_counts_its_starts() -> None:
    """Above twice the sample, starts are tried on the sample; the optimum is of all points."""
    law = LAWS["kaplan"]
    assert law.published is not None
    runs = simulate_runs(law, law.published.params, points=4000, noise=0.01, seed=5)
    best = Engine.of(law, runs, Objective("squares-log")).cold()
    assert best.converged and best.agree >= 6
    truth = law.values(law.published.params)
    assert np.abs(np.log(best.values / truth))[2:].max() < 0.02
    everything = Runs({k: np.array(v) for k, v in runs.inputs.items()}, np.array(runs.loss))
    r = np.log(everything.loss) - np.log(law.evaluate(runs.inputs, best.values))
    assert best.objective == pytest.approx(0.5 * float((r * r).sum()), rel=1e-12)


def test_many_points_without_an_optimum_are_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each resample would be looked for as long, and in vain: minutes for a law of two breaks."""
    law = LAWS["kaplan"]
    assert law.published is not None
    runs = simulate_runs(law, law.published.params, points=1200, noise=0.01, seed=5)
    cold = Engine.cold
    monkeypatch.setattr(Engine, "cold", lambda *a, **k: replace(cold(*a, **k), converged=False))
    found = fit(law, runs, draws=100)
    assert found.status == "not_converged"
    assert "no_resamples" in {one.code for one in found.warnings}
    assert found.interval_method == "sandwich" and len(found.draws) > 0
