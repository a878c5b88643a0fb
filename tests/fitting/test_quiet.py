"""Runs that leave a law open divide by zero and overflow inside; nothing of that gets out."""

import warnings

import numpy as np
import pytest

from fitting import FittingError, Objective, Runs, fit, get_law

LAW = get_law("chinchilla")
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
SIZES, TOKENS = np.geomspace(1e7, 1e9, 12), np.geomspace(1e9, 1e11, 12)
DESIGNS = {
    "one size": (np.full(12, 1e8), TOKENS),
    "one ratio": (SIZES, 20 * SIZES),
    "six runs": (SIZES[::2], TOKENS[::-2]),
}


@pytest.mark.parametrize("kind", ["huber-log", "lad-log", "huber-raw"])
@pytest.mark.parametrize("design", DESIGNS)
def test_no_numeric_warning_escapes(design: str, kind: str) -> None:
    n, d = DESIGNS[design]
    loss = LAW.loss({"N": n, "D": d}, TRUTH)
    for losses in (loss, loss - 1.75, np.ones(n.size)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = fit(LAW, Runs({"N": n, "D": d}, losses), draws=10,
                            objective=Objective(kind))  # type: ignore[arg-type]  # fmt: skip
            except FittingError:
                continue  # refused: an answer too
            assert np.isfinite(found.predict({"N": [1e10], "D": [1e12]}).value).all()
