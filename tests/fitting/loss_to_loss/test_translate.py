"""A law carried over: the authors' R2, and an allocation that does not change."""

import numpy as np
import pytest

from fitting import AllocationProblem, Fit, FittingError, allocate, fit, get_law
from fitting.loss_to_loss import fit_link, linked_loss, pair, translate
from tests.fitting.loss_to_loss import sweep
from tests.fitting.loss_to_loss.truth import simulated

LARGE = {"N": np.array([3.3e9, 1e10]), "D": np.array([5e10, 1e11])}


def test_r2_of_translated_laws_is_the_authors() -> None:
    """5 to 9 target runs, E_1 free, mean over the five sources, on the target's whole sweep."""
    fits = {s: fit(get_law("kaplan_floor"), sweep.losses(s), draws=0) for s in sweep.SETS}
    for golden in sweep.golden()["translate_R2"]:
        target = golden["target"]
        runs = sweep.losses(target)
        few = runs.select(sweep.compute_optimal(target))
        r2 = []
        for source in (s for s in sweep.SETS if s != target):
            pairs = pair(sweep.losses(source), few, names=(source, target))
            link = fit_link(pairs, method="free_E1", E0=fits[source].params["E"], draws=0)
            moved = translate(fits[source], link)
            assert moved.form == "closed" and moved.fit.law.name == "kaplan_floor"
            off = runs.loss - moved.fit.law.evaluate(runs.inputs, moved.fit.values)
            r2.append(1 - (off**2).sum() / ((runs.loss - runs.loss.mean()) ** 2).sum())
        assert np.mean(r2) == pytest.approx(golden["ours"], abs=0.001)


@pytest.mark.parametrize("law", ["kaplan_floor", "chinchilla"])
@pytest.mark.parametrize("own_floor", [True, False])
def test_translation_is_the_link_of_the_law_and_keeps_the_optimum(
    law: str, own_floor: bool
) -> None:
    sets = simulated()
    source = fit(get_law(law), sets["web"], draws=20)
    E0 = source.params["E"] if own_floor else source.params["E"] - 0.05
    link = fit_link(pair(sets["web"], sets["code"]), E0=E0, draws=20)
    moved = translate(source, link)
    assert moved.form == ("closed" if own_floor else "composition")
    x = source.law.evaluate(LARGE, source.values)
    np.testing.assert_allclose(
        moved.fit.law.evaluate(LARGE, moved.fit.values), linked_loss(x, **link.params), rtol=1e-9
    )
    for flops in (1e20, 1e22):
        before = allocate(AllocationProblem(fit=source, budget_flops=flops)).to_dict()["optimal"]
        after = allocate(AllocationProblem(fit=moved.fit, budget_flops=flops)).to_dict()["optimal"]
        assert after["N"] == pytest.approx(before["N"], rel=1e-4)
        assert after["D"] == pytest.approx(before["D"], rel=1e-4)
    if own_floor:
        assert Fit.from_dict(moved.fit.to_dict()).params == moved.fit.params
    p, q = moved.fit.predict(LARGE), source.predict(LARGE)
    assert (p.lower < p.value).all() and (p.value < p.upper).all()
    assert (p.upper / p.lower > 1.0).all() and p.reach.keys() == q.reach.keys()


def test_floors_that_disagree_are_said() -> None:
    sets = simulated()
    source = fit(get_law("chinchilla"), sets["web"], draws=0)
    link = fit_link(pair(sets["web"], sets["code"]), E0=source.params["E"] - 0.1, draws=0)
    assert "floors_disagree" in {w.code for w in translate(source, link).fit.warnings}


def test_refuses_a_law_without_a_floor_and_another_unit() -> None:
    sets = simulated()
    link = fit_link(pair(sets["web"], sets["code"]), draws=0)
    with pytest.raises(FittingError, match="without a floor"):
        translate(fit(get_law("kaplan"), sets["web"], draws=0), link)
    bits = pair(sets["web"], sets["code"], unit="bits/byte", tokens_per_byte=(0.25, 0.3))
    with pytest.raises(FittingError, match="bits/byte"):
        translate(fit(get_law("chinchilla"), sets["web"], draws=0), fit_link(bits, draws=0))
