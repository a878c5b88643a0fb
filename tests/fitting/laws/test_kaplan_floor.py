"""Brandfonbrener et al. 2024: the authors' six fits on their own sweep, every digit."""

import json

import numpy as np
import pytest

from fitting import Objective, Runs, get_law
from fitting.engine import Engine
from tests.fitting import data
from tests.fitting.second_method import agrees_with_scipy

LAW = get_law("kaplan_floor")
VALIDATION = {
    "fineweb-100b": "fineweb_100b",
    "fineweb-edu-100b": "fineweb_edu_100b",
    "proof-pile-2": "proof_pile_2",
    "slimpajama-chunk1": "slimpajama",
    "smollm-corpus": "smollm",
    "starcoder": "starcoder",
}


def sweep(name: str) -> Runs:
    loss = f"eval/{VALIDATION[name]}_val/CrossEntropyLoss"
    table = [
        row
        for row in data.rows("loss_to_loss/l2l_sweep.csv")
        if row["data"] == name and row[loss] not in ("", "nan", "NaN") and float(row[loss]) > 0
    ]
    inputs = {"N": data.column(table, "params"), "D": data.column(table, "tokens")}
    return Runs(inputs, data.column(table, loss))


@pytest.mark.parametrize("name", VALIDATION)
@pytest.mark.parametrize("form", ["kaplan", "chinchilla"])
def test_reproduces_the_authors_fit(name: str, form: str) -> None:
    golden = next(
        g
        for g in json.loads(data.path("loss_to_loss/golden.json").read_text())["nd_fits"]
        if g["form"] == form and g["data"] == name
    )
    law = LAW if form == "kaplan" else get_law("chinchilla")
    runs = sweep(name)
    found = Engine.of(law, runs, Objective()).cold()
    assert found.objective / len(runs) == pytest.approx(golden["loss"], rel=1e-9)
    for param, value in zip(law.param_names, found.values, strict=True):
        assert value == pytest.approx(golden[param], rel=1e-4), param
    large = {"N": 3309980160.0, "D": 50352769083.264435}  # 3.3B parameters at 1e21 FLOPs
    assert law.evaluate(large, found.values)[0] == pytest.approx(golden["pred"], rel=1e-6)


@pytest.mark.parametrize(("below", "above", "percent"), [(1e20, 3e20, 2.14), (3e20, 1e21, 1.59)])
def test_held_out_error(below: float, above: float, percent: float) -> None:
    assert data.held_out_percent(LAW, below, above) == pytest.approx(percent, abs=0.006)


def test_agrees_with_scipy() -> None:
    assert LAW.published is not None
    agrees_with_scipy(LAW, LAW.published.params)


def test_is_kaplan_plus_a_constant() -> None:
    """With A = N_c and B = D_c and no floor it is equation 1.5 of Kaplan et al."""
    kaplan = get_law("kaplan")
    assert kaplan.published is not None
    p = kaplan.published.params
    at = {"N": np.array([1e8, 1e9]), "D": np.array([1e10, 1e10])}
    q = {"A": p["N_c"], "B": p["D_c"], "alpha": p["alpha_N"], "beta": p["alpha_D"]}
    np.testing.assert_allclose(LAW.loss(at, {"E": 0.5, **q}) - 0.5, kaplan.loss(at, p), rtol=1e-12)
