"""Wang et al. 2025: known truth recovered, conventions, replay forms, turning points, plans."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from fitting import FittingError
from fitting.curves import Schedule
from fitting.curves.continual import CONTINUAL_LAWS, Transfer, features_of
from fitting.curves.continual_fit import ContinualFit, fit_continual
from fitting.curves.continual_plan import forgetting, plan_continual, pretrained
from fitting.curves.ood import fit_out_of_domain
from tests.fitting.curves.simulated import (
    LAMBDA,
    PEAK,
    PRINTED,
    constant,
    replayed,
    runs,
    true_loss,
)


@pytest.fixture(scope="module")
def fits() -> dict[str, ContinualFit]:
    return {
        which: fit_continual(replayed(which, 0.003), domain=which, role=which,
                             law="continual_replay_convex", momentum=LAMBDA)
        for which in PRINTED
    }  # fmt: skip


def test_equation_4_by_hand() -> None:
    """The sums and the formula, written out with loops, with the momentum reset and carried."""
    l0, a, alpha, b, e, beta, c1, c2 = PRINTED["general"]
    before = Schedule.wsd(60, 2e-2, 10, 20, "linear", 0.5).rates()
    after = Schedule.cosine(30, 1e-2, 5, 0.1).rates()
    lam = 0.9

    def s2(rates: list[float], first: int) -> float:
        drops = [0.0] + [rates[i - 1] - rates[i] for i in range(1, len(rates))]
        return sum(
            drops[k] * lam ** (i - k) for i in range(first, len(rates)) for k in range(first, i + 1)
        )

    both = [*before, *after]
    carried_on = s2(both, 0) - s2(list(before), 0)
    reset = s2(both, len(before))
    for convention, second in (("reset", reset), ("carry", carried_on)):
        found = features_of(
            Schedule.array(after), Schedule.array(before), np.array([30]), lam, convention
        )
        assert found["s2"][0] == pytest.approx(second, rel=1e-10)
        assert found["s2_before"][0] == pytest.approx(s2(list(before), 0), rel=1e-10)
        s1 = after.sum()
        expected = (
            l0 + a * (before.sum() + s1) ** -alpha
            - c1 * found["s2_before"][0] - c2 * found["s2"][0]
            + b * (1 - (1 + e * s1) ** -beta)
        )  # fmt: skip
        law = CONTINUAL_LAWS["continual"]
        values = np.array([[l0, a, alpha, c1, c2, b * beta, e, beta]])
        assert law.formula(values, found)[0][0, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", [n for n in CONTINUAL_LAWS])
def test_the_jacobian_is_the_derivative(name: str) -> None:
    law = CONTINUAL_LAWS[name]
    found = features_of(
        Schedule.cosine(900, PEAK, 50), constant(2_000), np.array([10, 300, 900]), 0.99, "carry",
        0.6, 50.0, unknown=False,
    )  # fmt: skip
    values = np.array([float(np.mean(p.starts)) or 0.1 for p in law.params])
    slopes = law.formula(values[None], found)[1][0]
    for j in range(values.size):
        step = 1e-6 * max(abs(values[j]), 1e-2)
        up, down = values.copy(), values.copy()
        up[j], down[j] = values[j] + step, values[j] - step
        numeric = (law.formula(up[None], found)[0] - law.formula(down[None], found)[0]) / (2 * step)
        assert np.allclose(slopes[j], numeric[0], rtol=2e-4, atol=1e-7), law.param_names[j]


@pytest.mark.parametrize("which", PRINTED)
def test_the_printed_law_is_recovered(which: str) -> None:
    """Without noise, every coefficient; B beta in place of B."""
    found = fit_continual(runs(which), domain=which, role=which, momentum=LAMBDA, draws=0)
    l0, a, alpha, b, e, beta, c1, c2 = PRINTED[which]
    truth = {"L0": l0, "A": a, "alpha": alpha, "C1": c1, "C2": c2, "B_beta": b * beta, "E": e,
             "beta": beta}  # fmt: skip
    assert found.status == "converged"
    for name, value in truth.items():
        assert found.params[name] == pytest.approx(value, rel=2e-3), name


def test_lambda_is_fitted() -> None:
    found = fit_continual(runs("general", 0.002), draws=0)
    assert found.momentum == LAMBDA


@pytest.mark.parametrize("which", PRINTED)
def test_unseen_transfers_are_predicted(which: str, fits: dict[str, ContinualFit]) -> None:
    """Another start, schedule, peak rate and replay ratio than any fitted run's."""
    found = fits[which]
    before, schedule = constant(7_000), Schedule.cosine(4_000, 1.5e-4, 100, 0.0)
    steps = np.arange(200, 4_001, 200)
    for ratio in (0.0, 0.4):
        truth = true_loss(which, before, schedule, steps, ratio)
        p = found.predict(Transfer(before, schedule, ratio), steps)
        assert np.abs(p.value - truth).mean() < 0.003
        assert ((p.lower <= truth) & (truth <= p.upper)).mean() >= 0.8
        assert not p.flags
    flags = found.predict(Transfer(before, Schedule.constant(10, 1e-3), 0.9)).flags
    assert {one["code"] for one in flags} == {"peak_lr_outside", "replay_outside"}


def test_the_form_of_replay_is_chosen_by_left_out_runs() -> None:
    """General loss convex in the new share, as measured: the printed concave form loses."""
    found = fit_continual(replayed("general", 0.003), momentum=LAMBDA, convention="reset", draws=0)
    assert found.law == "continual_replay_convex"
    assert found.scores["continual_replay_general"] > 2 * found.scores["continual_replay_convex"]
    assert found.params["a2"] == pytest.approx(4.0, abs=0.3)


def test_a_second_method_agrees() -> None:
    """scipy's TRF on the same objective, from the truth: no lower optimum than ours."""
    curves = runs("general", 0.003)
    found = fit_continual(curves, momentum=LAMBDA, convention="reset", draws=0)
    law = CONTINUAL_LAWS["continual"]
    from fitting.curves.continual_fit import problem_of, thinned

    used = []
    for c in curves:
        first = 100 if c.continual else max(2 * c.schedule.warmup_steps, c.schedule.steps // 20)
        used.append(thinned(c.where(c.step > first)))
    problem = problem_of(law, used, found.delta, LAMBDA, "reset")

    def residual(values: np.ndarray) -> np.ndarray:
        loss = np.concatenate([law.formula(values[None], f)[0][0] for f in problem.features])
        return np.sqrt(problem.weights) * (problem.log_loss - np.log(loss))

    l0, a, alpha, b, e, beta, c1, c2 = PRINTED["general"]
    start = np.array([l0, a, alpha, c1, c2, b * beta, e, beta])
    theirs = least_squares(
        residual, start, loss="huber", f_scale=found.delta, x_scale=np.abs(start)
    )
    assert found.objective <= theirs.cost * 1.02  # their weights sit inside the Huber loss


def test_turning_length_and_critical_point(fits: dict[str, ContinualFit]) -> None:
    """At a constant rate the general loss ends at L0 + B: recovered iff it started above."""
    l0, a, alpha, b, *_ = PRINTED["general"]
    exact = fit_continual(runs("general"), momentum=LAMBDA, draws=20)
    found = forgetting(exact, constant(8_000), PEAK)
    assert found.asymptote == pytest.approx(l0 + b, rel=1e-2)
    assert found.critical_step == pytest.approx((a / b) ** (1 / alpha) / PEAK, rel=0.05)
    early = constant(3_000)
    rises = forgetting(exact, early, PEAK)
    start = true_loss("general", None, early, np.array([3_000]))[0]
    steps = np.unique(np.geomspace(1, 80_000, 4_000).astype(int))
    curve = true_loss("general", early, Schedule.constant(80_000, PEAK), steps)
    back = steps[(curve <= start) & (steps > steps[int(np.argmax(curve))])]
    assert rises.recoverable and rises.turning_length is not None
    assert rises.turning_length == pytest.approx(back[0], rel=0.05)
    late = constant(60_000)
    assert forgetting(exact, late, PEAK).turning_length is None


def test_a_plan_finds_the_true_optimum(fits: dict[str, ContinualFit]) -> None:
    before = {p: pretrained(8_000, PEAK, 500, p) for p in (0.0, 0.5, 1.0)}
    peaks, ratios = (1e-4, 1.4e-4, 2e-4), (0.0, 0.25, 0.5, 0.75)
    for weight in (0.2, 0.8):
        found = plan_continual(
            fits["general"], fits["domain"], general_weight=weight, before=before,
            steps=[3_000], peak_lrs=peaks, replay_ratios=ratios,
        )  # fmt: skip

        def objective(p: float, peak: float, r: float, weight: float = weight) -> float:
            schedule = Schedule.wsd(3_000, peak, 0, 3_000, "cosine")
            both = [
                float(true_loss(w, before[p], schedule, np.array([3_000]), r)[0]) for w in PRINTED
            ]
            return weight * both[0] + (1 - weight) * both[1]

        truth = {(p, k, r): objective(p, k, r) for p in before for k in peaks for r in ratios}
        chosen = (found.best.loss_potential, found.best.peak_lr, found.best.replay_ratio)
        assert truth[chosen] <= min(truth.values()) + 0.004
        assert found.general_interval[0] <= found.best.general <= found.general_interval[1]
        assert set(found.chosen_interval) == {"loss_potential", "peak_lr", "replay_ratio", "steps"}
    capped = plan_continual(
        fits["general"], fits["domain"], general_weight=0.0, before=before, steps=[3_000],
        most_general_rise=0.02, peak_lrs=(*peaks, 1e-2), replay_ratios=(*ratios, 0.99),
    )  # fmt: skip
    assert capped.best.rise <= 0.02
    left_out = [w["message"] for w in capped.warnings if w["code"] == "left_out"]
    assert "1 peak rates" in left_out[0] and "1 replay ratios" in left_out[1]
    with pytest.raises(FittingError, match="inside the fitted"):
        plan_continual(
            fits["general"], fits["domain"], general_weight=0.5, before=constant(8_000),
            steps=[100], peak_lrs=(1.0,),
        )  # fmt: skip


def test_a_fit_survives_json(fits: dict[str, ContinualFit]) -> None:
    import json

    found = fits["general"]
    again = ContinualFit.from_dict(json.loads(json.dumps(found.to_dict())))
    transfer = Transfer(constant(5_000), Schedule.cosine(1_000, PEAK), 0.3)
    assert again.predict(transfer).to_dict() == found.predict(transfer).to_dict()


def test_open_weights_are_predicted_and_flagged() -> None:
    """Pre-training unknown and ended at rate 0: predictions hold, parameters are not offered."""
    annealed = Schedule.wsd(8_000, PEAK, 500, 2_000, "linear")
    curves = []
    for name, schedule in {
        "constant": Schedule.constant(4_000, PEAK, 100),
        "cosine": Schedule.cosine(4_000, PEAK, 100),
        "half": Schedule.cosine(4_000, PEAK / 2, 100),
    }.items():
        steps = np.arange(50, 4_001, 50)
        from fitting.curves.continual import ContinualCurve

        loss = true_loss("general", annealed, schedule, steps)
        curves.append(ContinualCurve.of(name, steps, loss, schedule, unknown=True))
    found = fit_continual(curves, draws=20)
    assert found.law == "continual_open"
    assert "pretraining_unknown" in {w["code"] for w in found.warnings}
    schedule = Schedule.wsd(4_000, PEAK, 100, 1_500, "linear")
    truth = true_loss("general", annealed, schedule, np.array([4_000]))[0]
    p = found.predict(Transfer(None, schedule))
    assert p.value[0] == pytest.approx(truth, abs=0.01)
    assert "pretraining_unknown" in {w["code"] for w in p.flags}


def test_out_of_domain_needs_its_constant() -> None:
    rng = np.random.default_rng(0)
    general, domain = 3 + 0.3 * rng.random(60), 2.5 + 0.5 * rng.random(60)
    truth = 0.6 * general + 0.3 * domain + 0.4
    run = np.repeat(np.arange(6), 10)
    found = fit_out_of_domain(general, domain, truth + 1e-3 * rng.standard_normal(60), run)
    assert (found.a, found.b, found.c) == pytest.approx((0.6, 0.3, 0.4), abs=0.01)
    value, lower, upper = found.predict([3.1], [2.7])
    assert lower[0] < 0.6 * 3.1 + 0.3 * 2.7 + 0.4 < upper[0] and value.shape == (1,)
