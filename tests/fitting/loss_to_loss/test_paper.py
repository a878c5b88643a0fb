"""Brandfonbrener et al. 2024: the authors' numbers from the authors' runs."""

import numpy as np
import pytest

from fitting.loss_to_loss import fit_link, pair
from fitting.loss_to_loss.methods.estimator import above_floors
from fitting.loss_to_loss.methods.paper_ols import straight_line
from tests.fitting.loss_to_loss import sweep


def test_thirty_links_with_the_published_floors() -> None:
    errors = []
    for g in sweep.golden()["train_to_train"]:
        pairs = pair(sweep.losses(g["a"]), sweep.losses(g["b"]), names=(g["a"], g["b"]))
        assert pairs.n_pairs == g["n"]
        link = fit_link(pairs, method="paper_ols", E0=g["E0"], E1=g["E1"], draws=0)
        assert link.params["kappa"] == pytest.approx(g["kappa"], abs=1e-6)
        assert link.params["K"] == pytest.approx(g["K"], abs=1e-6)
        assert link.r2 > 0.99 or link.r2_log > 0.99
        big = sweep.big()
        value = link.predict(big[g["a"]]).value[0]
        errors.append(100 * (value / big[g["b"]] - 1))
        assert errors[-1] == pytest.approx(g["err_pct"], abs=1e-6)
    assert len(errors) == 30
    assert np.abs(errors).mean() == pytest.approx(0.92, abs=0.005)
    assert np.abs(errors).max() == pytest.approx(2.07, abs=0.005)


def test_train_to_test_table() -> None:
    """66 links from a training loss to a task's loss; printed for FineWeb-Edu in the paper."""
    printed = {  # kappa, K, E1
        "hellaswag": (1.08, 0.93, 2.12),
        "arc_easy": (0.36, 4.68, 0.07),
        "mmlu_humanities": (0.96, 1.14, 2.79),
        "mmlu_stem": (0.53, 2.35, 1.41),
    }
    seen = 0
    for g in sweep.golden()["train_to_test"]:
        column = f"eval/downstream_ce_loss/{g['test']}_test_ce_loss"
        x, y = sweep.losses(g["data"]), sweep.losses(g["data"], column)
        pairs = pair(x, y)
        used, _ = above_floors(pairs, g["E0"], g["E1"])
        line = straight_line(
            pairs.x[used], pairs.y[used], np.array([g["E0"]]), np.array([g["E1"]]),
            np.ones((1, int(used.sum()))),
        )[0]  # fmt: skip
        assert line[0] == pytest.approx(g["kappa"], abs=0.005)
        assert line[1] == pytest.approx(g["K"], abs=0.005)
        if g["data"] == "fineweb-edu-100b" and g["test"] in printed:
            found = np.array([line[0], line[1], g["E1"]])
            np.testing.assert_allclose(found, printed[g["test"]], atol=0.0051)
            seen += 1
    assert seen == len(printed)


def test_pairs_below_the_sciq_floor_are_counted() -> None:
    """SlimPajama -> SciQ: one small model's loss lies below the fitted floor."""
    g = next(
        g
        for g in sweep.golden()["train_to_test"]
        if (g["data"], g["test"]) == ("slimpajama-chunk1", "sciq")
    )
    column = "eval/downstream_ce_loss/sciq_test_ce_loss"
    pairs = pair(sweep.losses(g["data"]), sweep.losses(g["data"], column))
    link = fit_link(pairs, "train_to_test", method="paper_ols", E0=g["E0"], E1=g["E1"], draws=0)
    assert {"below_floor", "low_r2"} <= {w.code for w in link.warnings}
    assert link.params["kappa"] == pytest.approx(g["kappa"], abs=1e-6)


def test_test_to_test_links() -> None:
    """Every seventh of the 330 links between two models' losses on one task."""
    for g in sweep.golden()["test_to_test"][::7]:
        column = f"eval/downstream_ce_loss/{g['test']}_test_ce_loss"
        pairs = pair(sweep.losses(g["a"], column), sweep.losses(g["b"], column))
        used, _ = above_floors(pairs, g["E0"], g["E1"])
        line = straight_line(
            pairs.x[used], pairs.y[used], np.array([g["E0"]]), np.array([g["E1"]]),
            np.ones((1, int(used.sum()))),
        )[0]  # fmt: skip
        assert line[0] == pytest.approx(g["kappa"], abs=0.005)
        assert line[1] == pytest.approx(g["K"], rel=0.005)


def test_intervals_hold_at_twenty_times_the_compute() -> None:
    """Ten of the 30 pairs by the default method; tests/benchmarks/links.py has all and the others.

    A plain bootstrap with fixed floors covers 2 of 30 at a nominal 90 %.
    """
    big = sweep.big()
    inside, half, error = [], [], []
    for k, a in enumerate(sweep.SETS):
        for b in (sweep.SETS[(k + 1) % 6], sweep.SETS[(k + 4) % 6])[: 2 if k < 4 else 1]:
            link = fit_link(pair(sweep.losses(a), sweep.losses(b)), draws=60)
            assert link.method == "joint"
            p = link.predict(big[a], flops=sweep.BIG_FLOPS)
            assert p.reach["compute"][0] == pytest.approx(20.66, abs=0.01)
            inside.append(p.lower[0] <= big[b] <= p.upper[0])
            half.append(0.5 * (p.upper[0] - p.lower[0]) / p.value[0])
            error.append(abs(p.value[0] / big[b] - 1))
    assert len(inside) == 10
    assert np.mean(inside) >= 0.85
    assert 100 * np.median(half) <= 3.0
    assert 100 * np.mean(error) <= 1.0
