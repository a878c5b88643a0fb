"""Accuracy from loss: Gadre et al.'s forecasts, known truths, refusals."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from fitting import FittingError, Objective, Runs, fit, get_law
from fitting.loss_to_loss import fit_link, pair
from fitting.tasks import CURVES, TaskFit, fit_task
from tests.fitting import data
from tests.fitting.loss_to_loss import sweep

LOSSES = np.linspace(4.0, 2.4, 40)
TRUTH = {
    "sigmoid": {"chance": 0.25, "top": 0.9, "k": 4.0, "L0": 3.0},
    "decay": {"eps": 0.75, "k": 2.2, "gamma": 0.7},
    "softmin": {"e": 0.75, "b": 0.5, "a": 0.8, "c": 1.9, "d": 0.1},
    "threshold": {"chance": 0.25, "b": 0.5, "eta": 3.2},
}


def gadre(name: str) -> tuple[Runs, np.ndarray, np.ndarray]:
    """Runs with C4 loss, errors averaged over the 17 tasks, and tokens per parameter."""
    rows = [r for r in data.rows("loss_to_loss/gadre_scaling_testbed.csv")
            if r["dataset_name"] == name]  # fmt: skip
    inputs = {k: data.column(rows, k) for k in ("N", "D")}
    runs = Runs(inputs, data.column(rows, "loss_c4_val"))
    return runs, data.column(rows, "err_avg_subset"), data.column(rows, "tok_mult")


def test_redpajama_as_published() -> None:
    """Five runs give the loss of two large ones to .7103 % and .7320 %, six their 17-task error
    to 3.6365 % and .0464 %."""
    runs, error, M = gadre("rpj")
    N = runs.inputs["N"]
    small = (np.isclose(M, 20) & (N < 5e8)) | (np.isclose(M, 320) & (N < 2e7))
    assert small.sum() == 5
    law = fit(get_law("over_training"), runs.select(small), objective=Objective("squares-raw"),
              draws=0)  # fmt: skip
    large = [int(np.flatnonzero((N > 1e9) & np.isclose(M, 640))[0]), int(np.argmax(N))]
    predicted = law.predict({k: v[large] for k, v in runs.inputs.items()}).value
    np.testing.assert_allclose(
        100 * np.abs(predicted / runs.loss[large] - 1), [0.7103, 0.7320], atol=0.01
    )
    six = small | (np.isclose(M, 20) & (N > 1e9) & (N < 2e9))
    task = fit_task(runs.loss[six], 1 - error[six], "decay", draws=0)
    for name, value in (("eps", 0.857), ("k", 2.2065), ("gamma", 0.7146)):
        assert task.params[name] == pytest.approx(value, rel=1e-3)
    off = 100 * np.abs((1 - task.predict(predicted).accuracy) / error[large] - 1)
    np.testing.assert_allclose(off, [3.6365, 0.0464], atol=0.01)


@pytest.mark.parametrize(("name", "eps", "k", "gamma"), [
    ("c4_original", 0.850, 2.08, 0.756), ("rw_original", 0.865, 2.21, 0.707),
])  # fmt: skip
def test_other_sets_of_gadre(name: str, eps: float, k: float, gamma: float) -> None:
    runs, error, M = gadre(name)
    N = runs.inputs["N"]
    six = (np.isclose(M, 20) & (N < 2e9)) | (np.isclose(M, 320) & (N < 2e7))
    found = fit_task(runs.loss[six], 1 - error[six], "decay", draws=0).params
    assert found["eps"] == pytest.approx(eps, abs=0.001)
    assert found["k"] == pytest.approx(k, abs=0.01)
    assert found["gamma"] == pytest.approx(gamma, abs=0.001)


@pytest.mark.parametrize("form", CURVES)
def test_finds_a_known_curve(form: str) -> None:
    y = CURVES[form].formula(LOSSES, **TRUTH[form])
    assert ((y >= 0) & (y <= 1)).all()
    noisy = y + 1e-4 * np.random.default_rng(0).standard_normal(y.size)
    task = fit_task(LOSSES, noisy, form, chance=0.25, draws=20)
    assert task.grade == "A"
    np.testing.assert_allclose(task.accuracy(LOSSES), y, atol=1e-3)
    if form != "softmin":  # whose shift and exponent trade over this range
        for name, value in TRUTH[form].items():
            assert task.params[name] == pytest.approx(value, rel=0.02)


@pytest.mark.parametrize("form", ["sigmoid", "threshold"])
def test_auto_tells_a_bend_from_a_corner(form: str) -> None:
    y = CURVES[form].formula(LOSSES, **TRUTH[form])
    noisy = y + 2e-3 * np.random.default_rng(1).standard_normal(y.size)
    assert fit_task(LOSSES, noisy, chance=0.25, draws=0).curve.name == form


def test_agrees_with_curve_fit() -> None:
    y = CURVES["sigmoid"].formula(LOSSES, **TRUTH["sigmoid"])
    y = y + 0.01 * np.random.default_rng(2).standard_normal(y.size)

    def ladder(L: np.ndarray, a: float, k: float, x0: float, b: float) -> np.ndarray:
        return a / (1 + np.exp(-k * (L - x0))) + b  # OLMo ladder's letters: a < 0

    (a, k, x0, b), _ = curve_fit(
        ladder, LOSSES, y, p0=(-0.6, 3, 3, 0.9), bounds=([-1, 0, 0, 0], [0, 50, 9, 1])
    )
    task = fit_task(LOSSES, y, "sigmoid", draws=0)
    np.testing.assert_allclose(task.accuracy(LOSSES), ladder(LOSSES, a, k, x0, b), atol=1e-5)


@pytest.mark.parametrize("form", ["sigmoid", "decay"])
def test_interval_holds_beyond_the_data(form: str) -> None:
    inside = []
    beyond = np.array([2.3, 2.1, 1.9])
    truth = CURVES[form].formula(beyond, **TRUTH[form])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = CURVES[form].formula(LOSSES, **TRUTH[form]) + 0.01 * rng.standard_normal(LOSSES.size)
        p = fit_task(LOSSES, y, form, chance=0.25, draws=40, seed=seed).predict(beyond)
        inside.append((p.lower <= truth) & (truth <= p.upper))
    assert np.mean(inside) >= 0.85


def test_refuses_below_the_threshold() -> None:
    rng = np.random.default_rng(3)
    flat = np.clip(0.25 + 0.01 * rng.standard_normal(LOSSES.size), 0, 1)
    with pytest.raises(FittingError, match="below its threshold"):
        fit_task(LOSSES, flat, chance=0.25)
    with pytest.raises(FittingError, match="below its threshold"):
        fit_task(LOSSES, 0.25 + 0.004 * (4.0 - LOSSES), chance=0.25, questions=500)


def test_at_chance_a_prediction_says_so() -> None:
    y = CURVES["threshold"].formula(LOSSES, **TRUTH["threshold"])
    p = fit_task(LOSSES, y, "threshold", chance=0.25, draws=0).predict([3.8, 2.5])
    assert p.below_threshold.tolist() == [True, False]


def test_softmin_has_no_value_below_its_floor() -> None:
    y = CURVES["softmin"].formula(LOSSES, **TRUTH["softmin"])
    task = fit_task(LOSSES, y, "softmin", chance=0.25, loss_floor=1.9, draws=0)
    with pytest.raises(FittingError, match="at or below the floor"):
        task.predict(1.8)


def test_an_uncertain_loss_widens() -> None:
    y = CURVES["sigmoid"].formula(LOSSES, **TRUTH["sigmoid"])
    task = fit_task(LOSSES, y, "sigmoid", chance=0.25, draws=20)
    known, guessed = task.predict(2.8), task.predict(2.8, interval=(2.7, 2.9))
    assert guessed.lower[0] < known.lower[0] and known.upper[0] < guessed.upper[0]
    assert (known.source, guessed.source) == ("measured", "predicted")


def test_document_reads_back() -> None:
    y = CURVES["sigmoid"].formula(LOSSES, **TRUTH["sigmoid"])
    task = fit_task(LOSSES, y, chance=0.25, draws=10)
    assert TaskFit.from_dict(task.to_dict()).to_dict() == task.to_dict()
    with pytest.raises(FittingError, match="not a task law"):
        TaskFit.from_dict({"form": "sigmoid"})


@pytest.mark.parametrize(("loss", "accuracy", "said"), [
    ([1.0, 2.0, 3.0], [0.2, 50.0, 0.3], "divide percent"),
    ([1.0, -2.0, 3.0], [0.2, 0.3, 0.4], "row 2"),
    ([2.0, 2.0, 2.0], [0.2, 0.3, 0.4], "All losses"),
    ([2.0, 3.0], [0.2, 0.3], "at least three"),
    ([2.0, 3.0, 4.0], [0.2, 0.3], "one of each"),
])  # fmt: skip
def test_unusable_points_are_refused(loss: list, accuracy: list, said: str) -> None:
    with pytest.raises(FittingError, match=said):
        fit_task(loss, accuracy, "decay")


def test_two_steps_reach_a_real_large_run() -> None:
    """FineWeb-Edu loss -> HellaSwag loss -> HellaSwag accuracy of the 3.3B run, from the sweep."""
    name, step = "fineweb-edu-100b", "eval/downstream_ce_loss/hellaswag_test_ce_loss"
    score = "eval/downstream/hellaswag_test_len_norm"
    task_loss, accuracy = sweep.losses(name, step), sweep.losses(name, score)
    link = fit_link(pair(sweep.losses(name), task_loss), "train_to_test", draws=40)
    task = fit_task(task_loss.loss, accuracy.loss, chance=0.25, draws=40)
    assert link.r2_log > 0.99 and task.grade in "AB"
    p = task.predict(link.predict(sweep.big()[name], flops=sweep.BIG_FLOPS))
    actual = sweep.big(score)[name]
    assert p.source == "predicted"
    assert p.lower[0] <= actual <= p.upper[0]
    assert abs(p.accuracy[0] - actual) < 0.04


def test_a_curve_that_runs_past_one_is_not_sure_of_it() -> None:
    """The decay has no top: far below its data it passes 1, where its interval was 0 wide."""
    truth = CURVES["sigmoid"].formula(LOSSES, **TRUTH["sigmoid"])
    task = fit_task(LOSSES, truth, "decay", chance=0.25)
    far = task.predict(0.8)
    assert far.accuracy[0] == 1.0 and far.lower[0] < 0.97 < far.upper[0]
    assert "past_perfect" in {w.code for w in far.warnings}


def test_an_interval_holds_its_loss_and_a_floor_its_points() -> None:
    task = fit_task(LOSSES, CURVES["sigmoid"].formula(LOSSES, **TRUTH["sigmoid"]), "sigmoid",
                    chance=0.25, draws=10)  # fmt: skip
    for ends in ((float("nan"), 3.0), (2.9, 3.1), (3.0, 2.0), (-1.0, 3.0)):
        with pytest.raises(FittingError, match="interval"):
            task.predict(2.5, interval=ends)
    for floor in (float("nan"), float("inf"), 2.4, -1.0):
        with pytest.raises(FittingError, match="loss_floor"):
            fit_task(LOSSES, task.accuracy(LOSSES), "softmin", loss_floor=floor, draws=0)
