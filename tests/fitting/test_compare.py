"""Ranking laws by their forecasts of larger runs."""

import numpy as np
import pytest

from fitting import LAWS, FittingError, Runs, fit
from fitting.compare import Stack, candidates, choose, compare, stack
from tests.fitting.data import column, rows

POWER_LAWS = [
    LAWS[name] for name in ("chinchilla", "tied", "coupled", "kaplan_size", "kaplan_data")
]


def grid(law: str, noise: float, seed: int, sizes: int = 6, budgets: int = 6) -> Runs:
    """Runs of a law at its published constants: sizes a factor of 16 about C^0.5, 4 decades."""
    rng = np.random.default_rng(seed)
    C = np.repeat(np.logspace(18, 21, budgets), sizes)
    N = np.sqrt(C / 120) * np.tile(np.logspace(-0.6, 0.6, sizes), budgets)
    inputs = {"N": N, "D": C / (6 * N)}
    published = LAWS[law].published
    assert published is not None
    loss = LAWS[law].loss(inputs, published.params)
    return Runs(inputs, loss * np.exp(noise * rng.standard_normal(len(N))))


@pytest.mark.parametrize("seed", range(2))
def test_the_true_law_forecasts_best_or_as_well_as_the_best(seed: int) -> None:
    found = compare(grid("chinchilla", 0.003, seed), POWER_LAWS)
    scores = {one.law: one.score for one in found.ranked}
    assert scores["chinchilla"] <= 1.25 * min(scores.values())
    assert scores["chinchilla"] < 0.01 < scores["kaplan_size"]


def test_without_noise_the_truth_is_exact_and_first() -> None:
    found = compare(grid("chinchilla", 0.0, 0), POWER_LAWS)
    assert found.ranked[0].law == "chinchilla" and found.ranked[0].error < 1e-6


def test_laws_of_compute_alone_bend_only_where_nothing_else_is_known() -> None:
    wide, alone = ({law.name for law in candidates(known)} for known in ("NDC", "C"))
    assert {"chinchilla", "kaplan_compute", "henighan_compute"} <= wide
    assert {"broken", "broken_2"} == alone - wide


def test_the_law_chosen_moves_with_both_if_one_can_be_judged() -> None:
    many = choose(grid("chinchilla", 0.003, 0), candidates("NDC"))
    assert {"N", "D"} <= set(LAWS[many.best("NDC")].input_names)
    assert all({"N", "D"} <= set(LAWS[one.law].input_names) for one in many.ranked)
    few = choose(grid("chinchilla", 0.003, 0).select(np.arange(36) % 5 == 0), candidates("NDC"))
    assert few.ranked and few.best("NDC") == few.ranked[0].law


def test_eight_runs_do_not_let_a_law_of_many_parameters_win() -> None:
    for seed in range(3):
        few = grid("chinchilla", 0.005, seed, sizes=4, budgets=2)
        found = compare(few, POWER_LAWS)
        assert found.ranked[0].n_params <= 4
        assert "coupled" in found.skipped or found.ranked[0].law != "coupled"


def test_points_of_one_run_stay_on_one_side() -> None:
    runs = grid("chinchilla", 0.003, 1)
    curves = Runs(runs.inputs, runs.loss, run=np.repeat(np.arange(12), 3))
    for trained, predicted in compare(curves, POWER_LAWS).held_out:
        assert trained % 3 == 0 and trained + predicted == 36


def test_laws_that_need_what_is_not_there_are_skipped_with_the_reason() -> None:
    found = compare(grid("chinchilla", 0.003, 2), [*POWER_LAWS, LAWS["data_constrained"]])
    assert "U" in found.skipped["data_constrained"]
    assert len(found.ranked) == len(POWER_LAWS)


def test_too_few_runs_for_any_law_is_refused() -> None:
    with pytest.raises(FittingError, match="No law can be judged"):
        compare(Runs({"N": [1e8, 2e8], "D": [1e9, 2e9]}, [3.0, 2.9]), POWER_LAWS)


def test_on_the_published_figure_two_terms_beat_one() -> None:
    """Hoffmann et al.'s own runs need N and D both: either alone forecasts several times worse."""
    used = [row for row in rows("parametric/epoch_chinchilla.csv") if row["epoch_used"] == "True"]
    runs = Runs({"N": column(used, "N"), "D": column(used, "D")}, column(used, "loss"))
    errors = {one.law: one.error for one in compare(runs, POWER_LAWS).ranked}
    assert errors["chinchilla"] < 0.015
    assert min(errors["kaplan_size"], errors["kaplan_data"]) > 3 * errors["chinchilla"]


def test_the_stack_forecasts_about_as_well_as_the_best_law() -> None:
    """Trained on the smaller two thirds, held against the truth of the larger third."""
    whole, quiet = grid("chinchilla", 0.003, 3), grid("chinchilla", 0.0, 3)
    small = np.arange(len(whole)) < 24
    runs = whole.select(small)
    found = compare(runs, POWER_LAWS)
    assert sum(one.weight for one in found.ranked) == pytest.approx(1.0)
    assert found.ranked[0].weight == max(one.weight for one in found.ranked)
    several = stack(runs, found, draws=40)
    assert len(several.fits) == sum(one.weight > 0 for one in found.ranked)
    at = {name: column[~small] for name, column in whole.inputs.items()}
    p = several.predict(at)
    assert (p.lower < p.value).all() and (p.value < p.upper).all()

    def error(value: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.log(value / quiet.loss[~small]) ** 2)))

    alone = [error(one.predict(at).value) for one in several.fits]
    assert error(p.value) <= max(alone) and error(p.value) < 0.02


def test_the_first_law_has_the_weight_and_a_stack_of_several_lies_between_them() -> None:
    """Averaging lost to the first of the ranking on simulated truths (decision 0043)."""
    runs = grid("chinchilla", 0.003, 3)
    found = compare(runs, POWER_LAWS)
    assert [one.weight for one in found.ranked] == [1.0] + [0.0] * (len(found.ranked) - 1)
    at = {"N": [1e10], "D": [1e12]}
    fits = tuple(fit(LAWS[name], runs, draws=40) for name in ("chinchilla", "tied"))
    first, second = (float(one.predict(at).value[0]) for one in fits)
    p = Stack(fits, (0.25, 0.75)).predict(at)
    assert float(p.value[0]) == pytest.approx(first**0.25 * second**0.75, rel=1e-12)
    apart = np.sqrt(0.25 * 0.75) * abs(np.log(first / second))
    assert np.log(p.upper[0] / p.value[0]) > apart and np.log(p.value[0] / p.lower[0]) > apart


def test_auto_takes_a_law_of_n_and_d_where_both_are_known() -> None:
    """Runs on one path (D = 20 N) follow a law of compute exactly; the question is of N and D."""
    C = np.logspace(18, 21, 24)
    N = np.sqrt(C / 120)
    runs = Runs({"N": N, "D": 20 * N}, 1.7 + 1100 * C**-0.16)
    found = compare(runs, [LAWS["henighan_compute"], *POWER_LAWS])
    assert found.best(["N", "D"]) in {"chinchilla", "tied", "coupled"}
    alone = compare(runs, [LAWS["henighan_compute"]])
    assert alone.best(["N", "D"]) == "henighan_compute"


def test_laws_of_compute_take_it_from_flops_or_from_six_n_d() -> None:
    runs = grid("chinchilla", 0.003, 1)
    found = fit(LAWS["henighan_compute"], runs, draws=0)
    assert found.data.inputs["C"][1] == pytest.approx(
        6 * (runs.inputs["N"] * runs.inputs["D"]).max()
    )
    assert found.data.digest == runs.digest
    double = Runs(runs.inputs, runs.loss, flops=12 * runs.inputs["N"] * runs.inputs["D"])
    assert fit(LAWS["henighan_compute"], double, draws=0).data.inputs["C"][1] == pytest.approx(
        2 * found.data.inputs["C"][1]
    )
    assert "broken" in {one.law for one in compare(runs, [LAWS["broken"], *POWER_LAWS]).ranked}
