"""Brandfonbrener et al. 2024: the authors' numbers from the authors' runs."""

import numpy as np
import pytest

from fitting.loss_to_loss import fit_link, pair
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
