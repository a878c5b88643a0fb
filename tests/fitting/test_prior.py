"""A prior holds what the data leave open, and gives way to them. Second method: SciPy's BFGS."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from fitting import Law, Objective, Prior, Runs, fit, get_law
from fitting.engine import Engine

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def held(law: Law, name: str, mean: float, sd: float) -> Law:
    params = tuple(replace(p, prior=Prior(mean, sd)) if p.name == name else p for p in law.params)
    return replace(law, params=params)


def runs(points: int) -> Runs:
    rng = np.random.default_rng(4)
    n, d = 10 ** rng.uniform(7, 9, points), 10 ** rng.uniform(9, 11, points)
    loss = get_law("chinchilla").loss({"N": n, "D": d}, TRUTH)
    return Runs({"N": n, "D": d}, loss * np.exp(0.004 * rng.standard_normal(points)))


@pytest.mark.parametrize("kind", ["huber-log", "squares-log"])
@pytest.mark.parametrize("name", ["alpha", "E"])
def test_the_optimum_is_that_of_the_sum_with_the_prior(kind: str, name: str) -> None:
    mean = {"alpha": 0.3, "E": np.log(1.7)}[name]
    law = held(get_law("chinchilla"), name, mean, 0.02)
    sample, objective = runs(30), Objective(kind)  # type: ignore[arg-type]
    found = Engine.of(law, sample, objective).cold()
    j = law.param_names.index(name)

    def value(line: np.ndarray) -> float:
        z = (line[j] - mean) / 0.02
        with np.errstate(all="ignore"):
            predicted = law.evaluate(sample.inputs, law.from_line(line))
        return float(objective.value(sample.loss, predicted)) + 0.5 * (0.01 * z) ** 2

    line = law.to_line(found.values)
    np.testing.assert_allclose(found.objective, value(line), rtol=1e-9)
    # from the optimum and from beside it, in centred coordinates, SciPy finds nothing lower
    middle = {k: np.log(sample.inputs[k]).mean() for k in ("N", "D")}
    back = np.eye(5)  # E, A, B, alpha, beta
    back[1, 3], back[2, 4] = middle["N"], middle["D"]
    for beside in (0.0, 0.02):
        start = np.linalg.solve(back, line) + beside
        peer = minimize(lambda t: 1e4 * value(back @ t), start, method="Nelder-Mead",
                        options={"maxfev": 3000, "fatol": 1e-13, "xatol": 1e-10})  # fmt: skip
        assert found.objective <= 1e-4 * peer.fun * (1 + 1e-9)


def test_it_holds_what_the_data_leave_open_and_gives_way_to_many() -> None:
    law = held(get_law("chinchilla"), "alpha", 0.3, 0.01)
    free = [Engine.of(get_law("chinchilla"), runs(n), Objective()).cold() for n in (8, 4000)]
    tied = [Engine.of(law, runs(n), Objective()).cold() for n in (8, 4000)]
    j = law.param_names.index("alpha")
    assert abs(tied[0].values[j] - 0.3) < 0.01 < abs(free[0].values[j] - 0.3)
    assert abs(tied[1].values[j] - 0.35) < 0.01


def test_it_is_stored_with_the_fit() -> None:
    found = fit(held(get_law("chinchilla"), "alpha", 0.3, 0.01), runs(30), draws=20)
    stored = found.to_dict()["objective"]
    assert stored["priors"] == {"alpha": {"mean": 0.3, "sd": 0.01}}
    assert stored["prior_weight"] == 0.01
    assert "priors" not in fit(get_law("chinchilla"), runs(30), draws=0).to_dict()["objective"]
