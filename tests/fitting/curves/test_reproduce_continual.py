"""Continual pre-training on our own runs: what the fit has not seen, and what noise allows.

The runs are in docs/examples/continual (made by scripts/make_cpt_curves.py): general "english",
new domain "code", a model of 0.13 M parameters; losses in nats per byte.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import curve_fit

from app.importers.loss_curves import ContinualData, read_continual, read_schedules
from fitting.curves import ContinualFit, Schedule, Transfer, fit_continual

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "continual"
ROLES = {"english": "general", "code": "domain"}
MOST = 0.05  # nats/byte, mean absolute error after step 100 on a held-out run


@cache
def data() -> ContinualData:
    return read_continual(EXAMPLES / "curves.csv", read_schedules(EXAMPLES / "schedules.json"))


@cache
def fitted(domain: str) -> ContinualFit:
    return fit_continual(data().of(domain), domain=domain, role=ROLES[domain])


def test_the_design() -> None:
    """At least 6 fitted and 3 held-out runs; another start, schedule and replay ratio held out."""
    fit = [c for c in data().of("code") if c.continual]
    out = data().of("code", "held_out")
    assert len(fit) >= 6 and len(out) >= 3
    ratios = {round(1 - c.new_share, 6) for c in fit}
    unseen = {round(1 - c.new_share, 6) for c in out} - ratios
    assert unseen and min(ratios) < min(unseen) and max(unseen) < max(ratios)
    starts = {c.before.steps for c in fit if c.before}
    assert {c.before.steps for c in out if c.before} - starts


@pytest.mark.parametrize("domain", ROLES)
def test_held_out_runs(domain: str) -> None:
    found = fitted(domain)
    assert found.status == "converged" and found.momentum < 0.999
    for curve in data().of(domain, "held_out"):
        after = curve.where(curve.step > 100)
        p = found.predict(Transfer(curve.before, curve.schedule, 1 - curve.new_share), after.step)
        assert np.abs(p.value - after.loss).mean() <= MOST, curve.name
        assert ((p.lower <= after.loss) & (after.loss <= p.upper)).mean() >= 0.7, curve.name
        assert not p.flags


@pytest.mark.parametrize("domain", ROLES)
def test_better_than_a_power_law_that_is_blind_to_the_rate(domain: str) -> None:
    """The peer sees the held-out run itself until half way, and extrapolates to its end; ours has
    seen nothing of it."""
    ours, blind = [], []

    def power(t: np.ndarray, floor: float, a: float, b: float) -> np.ndarray:
        return floor + a * t**-b

    for curve in data().of(domain, "held_out"):
        seen = curve.where((curve.step > 100) & (curve.step <= curve.schedule.steps // 2))
        late = curve.where(curve.step > curve.schedule.steps // 2)
        start = (float(seen.loss.min()) * 0.9, 0.5, 0.2)
        try:
            best, _ = curve_fit(power, seen.step, seen.loss, start, maxfev=20_000)
        except RuntimeError:
            best = np.array([float(seen.loss[-1]), 0.0, 1.0])
        blind.append(np.abs(power(late.step, *best) - late.loss).mean())
        p = fitted(domain).predict(
            Transfer(curve.before, curve.schedule, 1 - curve.new_share), late.step
        )
        ours.append(np.abs(p.value - late.loss).mean())
    assert np.mean(ours) < np.mean(blind)
    print(f"{domain}: ours {np.mean(ours):.4f}, blind {np.mean(blind):.4f}")


@pytest.mark.parametrize("domain", ROLES)
def test_errors_beside_the_noise_of_a_seed(domain: str) -> None:
    """Two runs that differ in their seed alone: no law can be nearer than that."""
    repeats = data().of(domain, "repeat")
    if not repeats:
        pytest.skip("the sample has no repeats")
    every = {c.name: c for c in data().of(domain)}
    noise = []
    for curve in repeats:
        twin = next(
            c for c in every.values()
            if c.continual and c.schedule == curve.schedule and c.before == curve.before
            and c.new_share == curve.new_share
        )  # fmt: skip
        both, mine, theirs = np.intersect1d(curve.step, twin.step, return_indices=True)
        late = both > 100
        noise.append(np.abs(curve.loss[mine][late] - twin.loss[theirs][late]).mean())
    assert 0 < np.mean(noise) < MOST
    print(f"{domain}: mean difference between repeats {np.mean(noise):.4f}")


def test_the_form_of_replay_on_real_runs() -> None:
    """Forgetting falls faster than the share of new data: the printed concave form is rejected."""
    scores = fitted("english").scores
    assert fitted("english").law == "continual_replay_convex"
    assert fitted("english").params["a2"] > 1
    assert scores["continual_replay_general"] > 2 * scores["continual_replay_convex"]


@pytest.mark.parametrize("domain", ROLES)
def test_a_pre_training_that_is_told_without_its_warm_up(domain: str) -> None:
    """It is 4,000 steps at a constant rate either way; the measured end lies in the interval."""
    curve = next(c for c in data().of(domain) if c.name == "replay25-4k")
    before = Schedule.constant(4_000, 3e-3)
    found = fitted(domain).predict(Transfer(before, curve.schedule, 0.25))
    assert found.lower[0] <= curve.loss[-1] <= found.upper[0]
    assert [flag["code"] for flag in found.flags] == ["warmup_unlike"]
