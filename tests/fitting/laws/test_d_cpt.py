"""D-CPT: the formula by hand, and predictions of unseen shares from made-up runs."""

import numpy as np
import pytest

from fitting import Objective, Runs, fit, get_law

TRUTH = {"E": 1.2, "A": 300.0, "B": 800.0, "C": 0.2, "alpha": 0.35, "beta": 0.33, "eta": 0.2,
         "gamma": 0.5, "epsilon": 0.1}  # fmt: skip


def test_the_formula() -> None:
    law = get_law("d_cpt")
    found = law.formula(np.array([1e9]), np.array([1e10]), np.array([0.25]), **TRUTH)
    by_hand = 1.2 + 300 / 1e9**0.35 + 800 * 0.25**0.2 / 1e10**0.33 + 0.2 / 0.35**0.5
    assert found[0] == pytest.approx(by_hand, rel=1e-12)


def test_an_unseen_share_is_predicted() -> None:
    law = get_law("d_cpt")
    N, D, r = (a.ravel() for a in np.meshgrid([2e8, 1e9, 4e9], [2e9, 1e10, 5e10],
                                              [0.1, 0.2, 0.5, 0.75, 1.0]))  # fmt: skip
    loss = law.formula(N, D, r, **TRUTH)
    found = fit(law, Runs({"N": N, "D": D, "r": r}, loss), objective=Objective("squares-log"),
                draws=0)  # fmt: skip
    target = {"N": np.array([1e9]), "D": np.array([1e10]), "r": np.array([0.35])}
    truth = law.formula(*target.values(), **TRUTH)[0]
    assert found.predict(target).value[0] == pytest.approx(truth, rel=2e-3)
