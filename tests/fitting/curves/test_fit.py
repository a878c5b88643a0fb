"""What every curve fit promises: identifiability, intervals, documents, ranking, refusals."""

import json

import numpy as np
import pytest

from fitting import FittingError
from fitting.curves import (
    CURVE_LAWS,
    ENSEMBLE,
    Curve,
    CurveFit,
    Schedule,
    fit_curves,
    optimise_schedule,
    rank_schedules,
)
from fitting.curves.draws import block_weights, one_step, refitted
from fitting.curves.problem import CurveProblem

TRUTH = {"L0": 3.04, "A": 0.525, "alpha": 0.508, "B": 363.8, "C": 2.066, "beta": 0.583,
         "gamma": 0.641}  # fmt: skip
PEAK = 3e-4
STEP_DECAY = {"kind": "step", "steps": 16_000, "peak_lr": PEAK, "warmup_steps": 500,
              "boundaries": [12_800, 14_400], "factors": [0.3, 0.1]}  # fmt: skip
COSINE = {"kind": "cosine", "steps": 16_000, "peak_lr": PEAK, "warmup_steps": 500,
          "final_fraction": 0.1}  # fmt: skip


def simulated(spec: dict, noise: float = 5e-4, seed: int = 0, law: str = "multi_power") -> Curve:
    schedule = Schedule.from_dict(spec)
    step = np.arange(1_200, schedule.steps + 1, 100)
    loss = CURVE_LAWS[law].loss(TRUTH, schedule, step)
    loss = loss + noise * np.random.default_rng(seed).standard_normal(step.size)
    return Curve.of(str(spec["kind"]) + str(seed), step, loss, schedule)


@pytest.fixture(scope="module")
def fit() -> CurveFit:
    wsd = {"kind": "wsd", "steps": 16_000, "peak_lr": PEAK, "warmup_steps": 500,
           "cooldown_steps": 4_000, "decay": "linear"}  # fmt: skip
    return fit_curves(ENSEMBLE, [simulated(STEP_DECAY), simulated(COSINE), simulated(wsd)])


@pytest.mark.parametrize("law", ["annealing", "multi_power"])
def test_one_step_decay_curve_identifies_the_law_and_one_cosine_does_not(law: str) -> None:
    steps, cosine = simulated(STEP_DECAY), simulated(COSINE)
    good, bad = fit_curves(law, [steps]), fit_curves(law, [cosine])
    assert "annealing_not_identified" not in {w["code"] for w in good.warnings}
    assert bad.status == "degenerate"
    assert "annealing_not_identified" in {w["code"] for w in bad.warnings}
    assert "steps down early" in bad.message
    # and it is true: asked for the other schedule, one is right and the other is not
    target = Schedule.wsd(16_000, PEAK, 500, 3_200, "linear")
    truth = float(CURVE_LAWS["multi_power"].loss(TRUTH, target, [16_000])[0])
    errors = [abs(float(f.predict(target).value[0]) - truth) for f in (good, bad)]
    assert errors[0] < 0.02
    assert "degenerate" in {flag["code"] for flag in bad.predict(target).flags}


def test_a_fit_of_one_curve_is_strict_json() -> None:
    """Nothing can be left out of one short curve: what is unknown is null, not NaN."""
    found = fit_curves("annealing", [simulated(STEP_DECAY).where(np.arange(149) % 9 == 0)])
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert CurveFit.from_dict(json.loads(text)).status == found.status


def test_a_constant_rate_alone_does_not_either() -> None:
    constant = {"kind": "constant", "steps": 16_000, "peak_lr": PEAK, "warmup_steps": 500}
    assert fit_curves("annealing", [simulated(constant)]).status == "degenerate"


def test_the_truth_is_recovered_without_noise() -> None:
    curves = [simulated(STEP_DECAY, 0.0), simulated(COSINE, 0.0)]
    found = fit_curves("multi_power", curves, draws=0)
    target = Schedule.wsd(24_000, PEAK, 500, 4_800, "sqrt")
    truth = float(CURVE_LAWS["multi_power"].loss(TRUTH, target, [24_000])[0])
    assert found.predict(target).value[0] == pytest.approx(truth, abs=2e-3)


def test_intervals_hold_the_truth(fit: CurveFit) -> None:
    inside = []
    for seed, kind in enumerate(["linear", "sqrt", "cosine"]):
        for steps in (12_000, 24_000):
            target = Schedule.wsd(steps, PEAK, 500, steps // (3 + seed), kind)
            truth = float(CURVE_LAWS["multi_power"].loss(TRUTH, target, [steps])[0])
            p = fit.predict(target)
            assert p.lower[0] < p.value[0] < p.upper[0]
            inside.append(p.lower[0] <= truth <= p.upper[0])
    assert np.mean(inside) >= 0.8
    far = fit.predict(Schedule.wsd(160_000, PEAK, 500, 32_000))
    near = fit.predict(Schedule.wsd(16_000, PEAK, 500, 3_200))
    assert far.upper[0] - far.lower[0] > near.upper[0] - near.lower[0]
    assert far.reach["steps"] == pytest.approx(10) and "far" in {w["code"] for w in far.flags}


def test_one_step_resamples_agree_with_refitted_ones() -> None:
    curves = [simulated(STEP_DECAY), simulated(COSINE)]
    law = CURVE_LAWS["annealing"]
    problem = CurveProblem.of(law, curves, 1e-3)
    found, best = problem.best()
    weights = block_weights(problem.curve, 60, np.random.default_rng(0))
    quick = one_step(problem, found.theta[best], weights)
    slow = refitted(problem, found.theta[best], weights)
    target = law.features(Schedule.wsd(24_000, PEAK, 500, 4_800), np.array([24_000]), None,
                          law.options)  # fmt: skip
    a, b = (law.formula(v, target)[0][:, 0] for v in (quick, slow))
    assert np.corrcoef(a, b)[0, 1] > 0.9
    assert a.std() == pytest.approx(b.std(), rel=0.35)


def test_a_fit_survives_json(fit: CurveFit) -> None:
    again = CurveFit.from_dict(json.loads(json.dumps(fit.to_dict())))
    target = Schedule.cosine(20_000, PEAK, 500)
    assert again.predict(target).to_dict() == fit.predict(target).to_dict()
    assert again.digest == fit.digest
    with pytest.raises(FittingError):
        CurveFit.from_dict({"law": "annealing"})


def test_ranking_orders_schedules_and_refuses_peaks(fit: CurveFit) -> None:
    some = {
        "cosine": Schedule.cosine(20_000, PEAK, 500, 0.1),
        "wsd": Schedule.wsd(20_000, PEAK, 500, 5_000, "linear", 0.03),
        "constant": Schedule.constant(20_000, PEAK, 500),
    }
    law = CURVE_LAWS["multi_power"]
    truth = {n: float(law.loss(TRUTH, s, [20_000])[0]) for n, s in some.items()}
    found = rank_schedules(fit, some)
    assert [one.name for one in found.ranked] == sorted(truth, key=lambda n: truth[n])
    assert found.by == ("multi_power", "functional")
    assert found.ranked[0].behind == 0.0 and not found.ranked[-1].tied
    assert {"peak_lr_not_chosen", "gain_overstated"} <= {w["code"] for w in found.warnings}
    with pytest.raises(FittingError, match="peak"):
        rank_schedules(fit, {**some, "hot": Schedule.cosine(20_000, 2 * PEAK, 500)})
    with pytest.raises(FittingError, match="peak"):
        optimise_schedule(fit, 20_000, 10 * PEAK)


def test_the_optimum_of_the_small_family(fit: CurveFit) -> None:
    found = optimise_schedule(fit, 16_000, PEAK, 500)
    assert found.grid == 504
    assert found.best["hold"] > 0.4 and all(gain > -1e-9 for gain in found.against.values())
    law = CURVE_LAWS["multi_power"]
    truth = [float(law.loss(TRUTH, s, [16_000])[0])
             for s in (found.schedule, Schedule.cosine(16_000, PEAK, 500, 0.1))]  # fmt: skip
    assert truth[0] < truth[1]


def test_a_million_points_roll_up_to_the_same_fit() -> None:
    schedule = Schedule.wsd(300_000, PEAK, 2_000, 60_000, "linear", 0.1)
    step = np.arange(1, 300_001)
    law = CURVE_LAWS["multi_power"]
    some = np.unique(np.geomspace(6_000, 300_000, 500).astype(int))
    grid = np.unique(np.r_[some, np.arange(240_000, 300_001, 200)])
    smooth = np.interp(step, grid, law.loss(TRUTH, schedule, grid))
    noisy = smooth + 0.03 * np.random.default_rng(0).standard_normal(step.size)
    curve = Curve.of("long", step, noisy, schedule).usable(6_000)
    small, count = curve.rolled_up()
    assert len(small) <= 450 and count.sum() == len(curve)
    truth = law.loss(TRUTH, schedule, small.step)
    assert np.sqrt(np.average((small.loss - truth) ** 2, weights=count)) < 2e-3


def test_sizes_together() -> None:
    law = CURVE_LAWS["annealing_n"]
    truth = {"L0": 1.8, "A": 0.5, "alpha": 0.5, "C": 0.2, "B": 60.0, "beta": 0.25, "gamma": 0.06}
    curves = []
    for size in (2e7, 1e8, 4e8):
        for spec in (STEP_DECAY, COSINE):
            schedule = Schedule.from_dict(spec)
            step = np.arange(1_200, 16_001, 200)
            loss = law.loss(truth, schedule, step, size)
            curves.append(Curve.of(f"{spec['kind']} {size:g}", step, loss, schedule, size))
    found = fit_curves("annealing_n", curves, draws=50)
    target = Schedule.wsd(20_000, PEAK, 500, 4_000, "linear")
    expected = float(law.loss(truth, target, [20_000], 1e9)[0])
    assert found.predict(target, size=1e9).value[0] == pytest.approx(expected, abs=5e-3)
    with pytest.raises(FittingError):
        found.predict(target)
    with pytest.raises(FittingError):
        fit_curves("annealing_n", curves[:4])


@pytest.mark.parametrize(
    "make",
    [
        lambda: fit_curves("annealing", []),
        lambda: fit_curves("nothing", [simulated(COSINE)]),
        lambda: fit_curves("annealing", [simulated(COSINE), simulated(COSINE)]),
        lambda: Curve.of("x", [1, 2], [1.0, -1.0], Schedule.constant(5, 1e-3)),
        lambda: Curve.of("x", [1, 20], [1.0, 1.0], Schedule.constant(5, 1e-3)),
    ],
)
def test_unusable_input_is_refused(make) -> None:
    with pytest.raises(FittingError):
        make()


@pytest.mark.parametrize("warm", [0, 500])
def test_a_warm_up_left_out_does_not_move_a_prediction(fit: CurveFit, warm: int) -> None:
    """The truth is the law with its warm-up, however the question leaves it out."""
    asked = {"kind": "wsd", "steps": 16_000, "peak_lr": PEAK, "cooldown_steps": 3_200}
    whole = Schedule.from_dict({**asked, "warmup_steps": 500})
    truth = float(CURVE_LAWS["multi_power"].loss(TRUTH, whole, [16_000])[0])
    found = fit.predict(Schedule.from_dict({**asked, "warmup_steps": warm}))
    assert float(found.value[0]) == pytest.approx(truth, abs=0.01)
    said = {flag["code"] for flag in found.flags}
    assert ("warmup_unlike" in said) == (warm == 0)


def test_runs_whose_warm_up_is_known_and_runs_whose_is_not_are_told_apart() -> None:
    """A CSV that begins after the warm-up does not say that there was one; a schedule does."""
    known = [simulated(STEP_DECAY), simulated(COSINE, seed=1)]
    drawn = Schedule.from_points(known[1].step, known[1].schedule.rates()[known[1].step - 1])
    unknown = Curve.of("drawn", known[1].step, known[1].loss, drawn)

    def said(law: str, curves: list[Curve]) -> list[str]:
        found = fit_curves(law, curves, draws=0)
        return [w["message"] for w in found.warnings if w["code"] == "warmups_mixed"]

    assert said("annealing", known) == said("annealing", [unknown]) == []
    for law in ("annealing", ENSEMBLE):
        (message,) = said(law, [known[0], unknown])
        assert "1 of 2 runs" in message and "(drawn)" in message
