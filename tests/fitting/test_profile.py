"""Profile likelihood against lmfit's, and against the bootstrap where theory says they agree."""

import numpy as np
import pytest

from fitting import LAWS, FittingError, Objective, Runs, fit, profile
from fitting.profile import profiles, sandwich_intervals

TRUE = LAWS["chinchilla"].published


def runs_of(noise: float, seed: int, n: int = 6) -> Runs:
    rng = np.random.default_rng(seed)
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, n), np.geomspace(1e9, 1e12, n)))
    assert TRUE is not None
    loss = LAWS["chinchilla"].loss({"N": N, "D": D}, TRUE.params)
    return Runs({"N": N, "D": D}, loss * np.exp(noise * rng.standard_normal(N.size)))


def test_the_ends_are_those_of_lmfit() -> None:
    """lmfit refits with leastsq at every trial value and bisects on the F statistic."""
    lmfit = pytest.importorskip("lmfit")
    runs = runs_of(0.004, 1)
    found = fit(LAWS["chinchilla"], runs, objective=Objective("squares-log"), draws=0, level=0.9)
    mine = profiles(found, runs)
    N, D, target = runs.inputs["N"], runs.inputs["D"], np.log(runs.loss)

    def residual(p: dict[str, float]) -> np.ndarray:
        a = np.exp(p["lnA"] - p["alpha"] * np.log(N)) + np.exp(p["lnB"] - p["beta"] * np.log(D))
        return np.asarray(np.log(np.exp(p["lnE"]) + a) - target)

    start = lmfit.Parameters()
    for name in ("E", "A", "B"):
        start.add("ln" + name, np.log(found.params[name]))
    for name in ("alpha", "beta"):
        start.add(name, found.params[name])
    minimizer = lmfit.Minimizer(residual, start)
    best = minimizer.minimize("leastsq")
    theirs = lmfit.conf_interval(minimizer, best, sigmas=[0.9])
    for name in ("alpha", "beta", "E", "A", "B"):
        log = "ln" + name in theirs
        low, _, high = (value for _, value in theirs["ln" + name if log else name])
        if log:
            low, high = np.exp(low), np.exp(high)
        p = mine[name]
        width = high - low
        assert p.lower == pytest.approx(low, abs=0.01 * width)
        assert p.upper == pytest.approx(high, abs=0.01 * width)


@pytest.mark.parametrize("kind", ["squares-log", "huber-log"])
def test_profile_sandwich_and_bootstrap_agree_on_independent_normal_noise(kind: str) -> None:
    runs = runs_of(0.004, 2, n=9)
    found = fit(LAWS["chinchilla"], runs, objective=Objective(kind), draws=400)  # type: ignore[arg-type]
    shape, sandwich = profiles(found, runs), sandwich_intervals(found, runs)
    for name, (low, high) in found.intervals().items():
        p = shape[name]
        assert p.lower is not None and p.upper is not None
        assert 0.6 < (p.upper - p.lower) / (high - low) < 1.6
        # the sandwich reads the curvature of a Huber penalty from the few points inside it
        if kind == "squares-log":
            assert 0.6 < (sandwich[name][1] - sandwich[name][0]) / (high - low) < 1.6
        assert p.lower < found.params[name] < p.upper
        assert p.statistic.min() == 0.0 and p.values.min() <= p.lower < p.upper <= p.values.max()


def test_points_of_one_run_count_together_in_bootstrap_and_sandwich() -> None:
    """Four points share their run's luck: both methods widen, and alike."""
    quiet = runs_of(0.0, 0, n=12)
    rng = np.random.default_rng(8)
    label = rng.permutation(144) // 4
    luck = 0.004 * rng.standard_normal(36)[label] + 0.0005 * rng.standard_normal(144)
    kind = Objective("squares-log")
    widths = {}
    for name, run in (("runs", label), ("points", None)):
        runs = Runs(quiet.inputs, quiet.loss * np.exp(luck), run=run)
        found = fit(LAWS["chinchilla"], runs, objective=kind, draws=500)
        sandwich = sandwich_intervals(found, runs)
        widths[name] = [
            (sandwich[p][1] - sandwich[p][0], high - low)  # type: ignore[operator]
            for p, (low, high) in found.intervals().items()
        ]
        for by_sandwich, by_bootstrap in widths[name]:
            assert 0.75 < by_sandwich / by_bootstrap < 1.3
    assert len(widths["runs"]) == 5


def test_what_has_no_profile_says_why() -> None:
    exact = runs_of(0.0, 0)
    found = fit(LAWS["chinchilla"], exact, draws=0)
    with pytest.raises(FittingError, match="without noise"):
        profiles(found, exact)
    noisy = runs_of(0.004, 0)
    one_sided = fit(LAWS["chinchilla"], noisy, objective=Objective("one-sided-log"), draws=0)
    with pytest.raises(FittingError, match="two sides"):
        profiles(one_sided, noisy)


def test_a_valley_that_stays_open_has_no_end() -> None:
    """A floor of zero is as good as any small one where all runs are far above it."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e7, 5), np.geomspace(1e7, 1e8, 5)))
    rng = np.random.default_rng(3)
    loss = 0.05 + 400 * N**-0.35 + 2000 * D**-0.37
    runs = Runs({"N": N, "D": D}, loss * np.exp(0.02 * rng.standard_normal(25)))
    found = fit(LAWS["chinchilla"], runs, objective=Objective("squares-log"), draws=0)
    floor = profiles(found, runs)["E"]
    assert floor.lower is None or floor.lower < 0.05


def test_a_law_on_the_generic_path() -> None:
    runs = runs_of(0.004, 4)
    found = fit(LAWS["chinchilla"], runs, objective=Objective("squares-raw"), draws=0)
    raw = profiles(found, runs)
    logs = fit(LAWS["chinchilla"], runs, objective=Objective("squares-log"), draws=0)
    for name, p in profiles(logs, runs).items():
        assert p.lower is not None and p.upper is not None
        other = raw[name]
        assert other.lower is not None and other.upper is not None
        assert 0.5 < (other.upper - other.lower) / (p.upper - p.lower) < 2.0


def test_many_points_have_the_profile_that_the_law_itself_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kaplan's law on runs of Hoffmann et al.'s, which it cannot follow: on a surface, and not."""
    runs = runs_of(0.004, 5, n=35)
    found = fit(LAWS["kaplan"], runs, draws=0)
    engine, best = profile._again(found, runs)
    covariance = np.linalg.inv(best.hessian) / profile._scale(engine, best)
    assert profile._surface(engine, best, covariance) is not None
    quick = profiles(found, runs)
    monkeypatch.setattr(profile, "_surface", lambda *_: None)
    for name, slow in profiles(found, runs).items():
        one = quick[name]
        assert (one.lower, one.upper) == pytest.approx((slow.lower, slow.upper), rel=1e-6)
        np.testing.assert_allclose(one.values, slow.values, rtol=1e-12)
        np.testing.assert_allclose(one.statistic, slow.statistic, atol=1e-3)
