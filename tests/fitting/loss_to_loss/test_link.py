"""Links of made-up worlds with a known answer, second methods, and what is refused or flagged."""

import json

import numpy as np
import pytest
from scipy.optimize import curve_fit, least_squares

from fitting import FittingError, Runs, fit, get_law
from fitting.loss_to_loss import METHODS, Link, fit_link, linked_loss, pair
from fitting.loss_to_loss.formula import PARAMS, inverse
from fitting.loss_to_loss.latent import SHARED, fit_latent
from fitting.loss_to_loss.methods.odr import york
from fitting.loss_to_loss.methods.paper_ols import straight_line
from tests.fitting.loss_to_loss.truth import TRUE, grid, loss, simulated

KNOWN = {"kappa": 1.2, "K": 0.6, "E0": 2.0, "E1": 0.8}  # web -> code, see truth.py


def codes(link: Link) -> set[str]:
    return {w.code for w in link.warnings}


@pytest.mark.parametrize("method", METHODS)
def test_finds_a_known_link(method: str) -> None:
    sets = simulated(noise=1e-5)
    floors = {"paper_ols": (2.0, 0.8), "odr": (2.0, 0.8), "free_E1": (2.0, None)}
    E0, E1 = floors.get(method, (None, None))
    link = fit_link(
        pair(sets["web"], sets["code"]), method=method, E0=E0, E1=E1, kappa_prior=None, draws=0
    )
    assert link.status == "converged"
    for name in PARAMS:
        assert link.params[name] == pytest.approx(KNOWN[name], abs=0.01)


# Second methods


def test_free_floor_agrees_with_curve_fit() -> None:
    sets = simulated(noise=3e-3)
    pairs = pair(sets["web"], sets["code"])
    link = fit_link(pairs, method="free_E1", E0=2.0, draws=0)
    x, y = pairs.x[pairs.paired], pairs.y[pairs.paired]
    theirs, _ = curve_fit(
        lambda x, kappa, K, E1: K * (x - 2.0) ** kappa + E1, x, y, p0=(1, 1, 0.5),
        bounds=([0, 0, 0], [np.inf, np.inf, y.min()]), xtol=1e-15, ftol=1e-15, gtol=1e-15,
    )  # fmt: skip
    np.testing.assert_allclose(link.values[[0, 1, 3]], theirs, rtol=1e-5)


def test_odr_agrees_with_fitting_every_true_x() -> None:
    """Least squares over kappa, log K and all 49 true log(x - E0)."""
    sets = simulated(noise=5e-3)
    pairs = pair(sets["web"], sets["code"])
    link = fit_link(pairs, method="odr", E0=1.98, E1=0.78, draws=0)
    x, y = pairs.x, pairs.y
    u, v = np.log(x - 1.98), np.log(y - 0.78)
    su, sv = x / (x - 1.98), y / (y - 0.78)

    def residual(theta: np.ndarray) -> np.ndarray:
        true = theta[2:]
        return np.concatenate([(u - true) / su, (v - theta[1] - theta[0] * true) / sv])

    out = least_squares(residual, [1.0, 0.0, *u], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert link.params["kappa"] == pytest.approx(out.x[0], rel=1e-6)
    assert link.params["K"] == pytest.approx(np.exp(out.x[1]), rel=1e-6)


def test_odr_is_straight_where_least_squares_shrinks() -> None:
    """2 % noise in both losses, floors well below: OLS loses hundredths of kappa, ODR does not."""
    floors = np.array([1.8]), np.array([0.66])
    shrunk, straight = [], []
    for seed in range(60):
        sets = simulated(noise=0.02, seed=seed)
        data = (sets["web"].loss, sets["code"].loss, *floors, np.ones((1, 49)))
        shrunk.append(straight_line(*data)[0, 0])
        straight.append(york(*data)[0][0, 0])
    N, D = grid()
    x, y = loss("web", N, D), loss("code", N, D)
    exact = np.polyfit(np.log(x - 1.8), np.log(y - 0.66), 1)[0]
    assert np.mean(shrunk) < exact - 0.02
    assert abs(np.mean(straight) - exact) < 0.6 * abs(np.mean(shrunk) - exact)


def test_joint_agrees_with_scipy() -> None:
    """The engine's optimum of the whitened squares against least_squares on the same residuals."""
    sets = simulated(noise=2e-3, shared=0.01)
    latent = fit_latent(pair(sets["web"], sets["code"], others={"maths": sets["maths"]}))
    problem = latent.problem
    roots = np.linalg.cholesky(problem.precision)
    free = np.flatnonzero(latent.lower < latent.upper)

    def residual(part: np.ndarray) -> np.ndarray:
        theta = latent.theta.copy()
        theta[free] = part
        r = problem.logs - problem.model(theta[None]).log_loss[0].T
        return np.einsum("cij,ci->cj", roots, r).ravel()

    start = latent.theta[free] + 0.02 * np.random.default_rng(0).standard_normal(free.size)
    out = least_squares(residual, start, x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    ours = problem.evaluate(latent.theta[None], None)[0][0]
    assert ours == pytest.approx(out.cost, rel=1e-8)
    E = [SHARED + 3 * i for i in range(3)]
    np.testing.assert_allclose(
        latent.theta[E], out.x[[int(np.flatnonzero(free == j)[0]) for j in E]], atol=1e-5
    )


def test_derivatives_of_the_joint_model() -> None:
    """Gradient and Gauss-Newton matrix, of lanes with weights, from differences of the losses; of
    three sets, one of which has no run in some cells."""
    sets = simulated()
    few = sets["maths"].select(np.arange(len(sets["maths"])) % 3 > 0)
    latent = fit_latent(
        pair(sets["web"], sets["code"], others={"maths": few}), kappa_prior=(1.0, 0.066)
    )
    problem, rng = latent.problem, np.random.default_rng(1)
    theta = latent.theta + 1e-3 * rng.standard_normal((2, latent.theta.size))
    weights = rng.poisson(1.0, (2, problem.points)).astype(float)
    f, g, h = problem.evaluate(theta, weights)
    for lane in range(2):
        J = np.empty((theta.shape[1], problem.points, problem.sets))
        for j in range(theta.shape[1]):
            step = np.zeros(theta.shape[1])
            step[j] = 1e-6
            ends = theta[lane] + np.array([[1.0], [-1.0]]) * step
            up, down = problem.model(ends).log_loss
            J[j] = ((up - down) / 2e-6).T
        r = problem.logs - problem.model(theta[lane : lane + 1]).log_loss[0].T
        P = problem.precision * weights[lane, :, None, None]
        prior, off = (1 / 0.066**2) * np.eye(theta.shape[1]), theta[lane] - 1.0
        kappas = np.isin(np.arange(off.size), [SHARED + 5, SHARED + 8])
        prior[~kappas] = 0.0
        mine = 0.5 * np.einsum("ci,cik,ck->", r, P, r) + 0.5 * off @ prior @ off
        assert f[lane] == pytest.approx(mine, rel=1e-9)
        slope = -np.einsum("jci,cik,ck->j", J, P, r) + prior @ off
        np.testing.assert_allclose(g[lane], slope, atol=1e-6 * np.abs(slope).max())
        curved = np.einsum("jci,cik,lck->jl", J, P, J) + prior
        np.testing.assert_allclose(h[lane], curved, atol=1e-6 * curved.max())


def test_inverse_undoes_the_link() -> None:
    back = dict(zip(PARAMS, inverse(np.array([KNOWN[p] for p in PARAMS])), strict=True))
    x = np.array([2.1, 2.5, 3.3])
    np.testing.assert_allclose(linked_loss(linked_loss(x, **KNOWN), **back), x, rtol=1e-12)


# Pairing


def test_frontier_pairs_sets_that_share_no_cell() -> None:
    N, D = grid(budgets=9, sizes=9)
    other = N * 1.07, D / 1.07
    web = Runs({"N": N, "D": D}, loss("web", N, D))
    code = Runs({"N": other[0], "D": other[1]}, loss("code", *other))
    with pytest.raises(FittingError, match="frontier"):
        pair(web, code)
    pairs = pair(web, code, "frontier")
    assert pairs.n_pairs == 9
    link = fit_link(pairs, E0=2.0, draws=20)
    assert link.method == "free_E1"
    x, truth = (loss(s, np.array([3e9]), np.array([5e10])) for s in ("web", "code"))
    assert link.predict(x).value[0] == pytest.approx(truth[0], rel=0.01)


def test_bits_per_byte_moves_units_alone() -> None:
    sets = simulated()
    plain = fit_link(pair(sets["web"], sets["code"]), E0=2.0, E1=0.8, method="paper_ols", draws=0)
    a, b = 0.24 / np.log(2), 0.31 / np.log(2)
    bits = fit_link(
        pair(sets["web"], sets["code"], unit="bits/byte", tokens_per_byte=(0.24, 0.31)),
        E0=2.0 * a, E1=0.8 * b, method="paper_ols", draws=0,
    )  # fmt: skip
    assert bits.unit == "bits/byte"
    assert bits.params["kappa"] == pytest.approx(plain.params["kappa"], rel=1e-9)
    assert bits.predict(2.3 * a).value[0] == pytest.approx(b * plain.predict(2.3).value[0])


def test_order_of_rows_moves_nothing() -> None:
    sets = simulated()
    link = fit_link(pair(sets["web"], sets["code"]), draws=10)
    shuffle = np.random.default_rng(1).permutation(len(sets["code"]))
    again = fit_link(pair(sets["web"], sets["code"].select(shuffle)), draws=10)
    assert link.to_dict() == again.to_dict()


# Predictions


@pytest.fixture(scope="module")
def link() -> Link:
    sets = simulated()
    return fit_link(pair(sets["web"], sets["code"], names=("web", "code")), draws=100)


def test_a_predicted_source_loss_costs_width(link: Link) -> None:
    known = link.predict(2.2)
    guessed = link.predict(2.2, measured=False)
    told = link.predict(2.2, measured=False, source_interval=(2.15, 2.25))
    drawn = link.predict(2.2, source_draws=2.2 + 0.03 * np.linspace(-1, 1, 101), measured=False)
    assert (known.source, guessed.source) == ("measured", "predicted")
    for wide in (guessed, told, drawn):
        assert wide.lower[0] < known.lower[0] < known.upper[0] < wide.upper[0]
        assert wide.value[0] == known.value[0]
        assert wide.variance.shares()["source_law"][0] > known.variance.shares()["source_law"][0]
    assert sum(v[0] for v in known.variance.shares().values()) == pytest.approx(1.0)


def test_takes_a_laws_prediction_whole(link: Link) -> None:
    law = fit(get_law("chinchilla"), simulated()["web"], draws=50)
    forecast = law.predict({"N": 3e9, "D": 5e10})
    p = link.predict(forecast, flops=9e20)
    assert p.source == "predicted"
    truth = loss("code", np.array([3e9]), np.array([5e10]))[0]
    assert p.lower[0] <= truth <= p.upper[0]


def test_the_interval_grows_with_distance(link: Link) -> None:
    half = [
        p.upper[0] / p.lower[0] for f in (5e19, 5e20, 5e21) if (p := link.predict(2.2, flops=f))
    ]
    assert half == sorted(half) and half[0] < half[2]


def test_document_reads_back(link: Link) -> None:
    again = Link.from_dict(json.loads(json.dumps(link.to_dict())))
    assert again.to_dict() == link.to_dict()
    assert again.predict(2.2).to_dict() == link.predict(2.2).to_dict()
    with pytest.raises(FittingError, match="not a link"):
        Link.from_dict({"kappa": 1.0})


def test_the_same_seed_gives_the_same_link() -> None:
    sets = simulated()
    documents = [fit_link(pair(sets["web"], sets["code"]), draws=20).to_dict() for _ in range(2)]
    assert documents[0] == documents[1]


@pytest.mark.parametrize("resample", ["cell", "budget"])
def test_resamples_of_cells_and_of_budgets(resample: str) -> None:
    sets = simulated(noise=3e-3)
    pairs = pair(sets["web"], sets["code"])
    low, high = fit_link(pairs, draws=60, resample=resample).intervals()["E1"]
    assert low < KNOWN["E1"] + 0.05 and high > KNOWN["E1"] - 0.05 and high - low > 0.002


@pytest.mark.parametrize("target_runs", [49, 7])
def test_intervals_hold_in_known_worlds(target_runs: int) -> None:
    """Six worlds, noise .3 %, luck of 2 % that both sets share: the true loss at 20 times the
    compute, nominal 90 %."""
    N, D = np.array([3309980160.0]), np.array([50352769083.0])
    x, truth = loss("web", N, D), loss("code", N, D)[0]
    inside = []
    for seed in range(6):
        sets = simulated(noise=3e-3, shared=0.02, seed=seed)
        target = sets["code"]
        if target_runs == 7:
            target = target.select(np.arange(3, 49, 7))
        p = fit_link(pair(sets["web"], target), draws=24, seed=seed).predict(x, flops=1e21)
        inside.append(p.lower[0] <= truth <= p.upper[0])
    assert np.mean(inside) >= 0.85


# Refused or flagged


def test_fewer_than_three_pairs_are_refused() -> None:
    sets = simulated()
    with pytest.raises(FittingError, match="2 pairs") as error:
        pair(sets["web"], sets["code"].select([0, 30]))
    assert error.value.kind == "too_few_points" and "spread over the budgets" in error.value.hint


def test_a_floor_at_its_bound_is_degenerate() -> None:
    """Losses whose best floor would be below zero."""
    web = simulated(noise=0.0)["web"]
    bent = Runs(dict(web.inputs), np.maximum(0.5 * (web.loss - 2.0) ** 0.9 - 0.01, 1e-3))
    link = fit_link(pair(web, bent), method="free_E1", E0=2.0, draws=0)
    assert link.status == "degenerate" and "floor_at_bound" in codes(link)
    assert link.params["E1"] == 0.0 and "ran to its bound" in link.message


def test_pairs_below_a_floor_are_dropped_aloud() -> None:
    sets = simulated()
    x = np.sort(sets["web"].loss)
    link = fit_link(
        pair(sets["web"], sets["code"]), method="paper_ols", E0=float(x[3]), E1=0.8, draws=0
    )
    (said,) = [w for w in link.warnings if w.code == "below_floor"]
    assert "4 of 49 pairs" in said.message and "not clipped" in said.message
    with pytest.raises(FittingError, match="at or below a floor"):
        fit_link(pair(sets["web"], sets["code"]), method="paper_ols", E0=float(x[-2]), E1=0.8)


def test_a_source_loss_below_the_floor_is_refused(link: Link) -> None:
    with pytest.raises(FittingError, match="at or below the floor E0") as error:
        link.predict([2.3, 1.9])
    assert error.value.details["row"] == 1
    assert np.isnan(linked_loss(1.9, **KNOWN))


def test_low_r2_is_flagged() -> None:
    rng = np.random.default_rng(0)
    sets = simulated(noise=0.0)
    noisy = Runs(
        dict(sets["code"].inputs), sets["code"].loss * np.exp(0.06 * rng.standard_normal(49))
    )
    link = fit_link(
        pair(sets["web"], noisy), "train_to_test", method="paper_ols", E0=2.0, E1=0.6, draws=0
    )
    assert link.r2_log < 0.96 and "low_r2" in codes(link)


def test_reach_beyond_the_backtests_is_flagged(link: Link) -> None:
    tested = max(o.ratio for o in link.backtest)
    largest = link.data.compute[1]
    near, far = (link.predict(2.1, flops=largest * tested * f) for f in (2.9, 3.1))
    assert "beyond_backtest" not in {w.code for w in near.warnings}
    assert "beyond_backtest" in {w.code for w in far.warnings}


def test_tokenizers_that_differ_are_flagged_but_for_bits_per_byte() -> None:
    sets = simulated()
    names = ("gpt2", "llama")
    flagged = pair(sets["web"], sets["code"], tokenizers=names)
    assert "tokenizers_differ" in {w.code for w in flagged.warnings}
    assert "tokenizers_differ" in codes(fit_link(flagged, draws=0))
    fine = pair(sets["web"], sets["code"], tokenizers=names, unit="bits/byte",
                tokens_per_byte=(0.24, 0.31))  # fmt: skip
    assert fine.warnings == ()


def test_a_mixture_that_changed_on_the_way_is_flagged() -> None:
    sets = simulated()
    labels = ["web"] * 40 + ["web, then code"] * 9
    link = fit_link(pair(sets["web"], sets["code"], mixtures=(labels, None)), draws=0)
    assert "mixture_changed" in codes(link)
    pure = fit_link(pair(sets["web"], sets["code"], mixtures=(["web"] * 49, None)), draws=0)
    assert "mixture_changed" not in codes(pure)
    told = pure.predict(2.2, mixture="web, annealed on code")
    assert "mixture_changed" in {w.code for w in told.warnings}
    assert pure.predict(2.2, mixture="web").warnings == ()


def test_mixed_units_and_bad_options_are_refused() -> None:
    sets = simulated()
    bits = Runs(dict(sets["code"].inputs), sets["code"].loss, loss_unit="bits/byte")
    with pytest.raises(FittingError, match="mix loss_unit"):
        pair(sets["web"], bits)
    pairs = pair(sets["web"], sets["code"])
    for options in ({"method": "guess"}, {"kind": "up"}, {"level": 2.0}, {"draws": -1},
                    {"E0": -1.0, "method": "odr"}, {"resample": "rows"}):  # fmt: skip
        with pytest.raises(FittingError):
            fit_link(pairs, **options)  # type: ignore[arg-type]


def test_few_target_runs_without_a_law_of_their_own_say_what_to_do() -> None:
    sets = simulated()
    pairs = pair(sets["web"], sets["code"].select(np.arange(3, 49, 10)))
    with pytest.raises(FittingError, match="joint"):
        fit_link(pairs, method="paper_ols")
    link = fit_link(pairs, draws=20)
    assert link.method == "joint" and TRUE["code"]["E"] == pytest.approx(link.params["E1"], abs=0.1)


def test_numbers_that_are_none_are_refused() -> None:
    sets = simulated(noise=1e-3)
    pairs = pair(sets["web"], sets["code"])
    for floor in (float("nan"), float("inf"), -1.0):
        for name in ("E0", "E1"):
            with pytest.raises(FittingError, match=name):
                fit_link(pairs, draws=0, **{name: floor})
    for sd in (1e-300, 1e308, float("inf")):
        with pytest.raises(FittingError, match="kappa_prior"):
            fit_link(pairs, kappa_prior=(1.0, sd), draws=0)
    link = fit_link(pairs, draws=20)
    for flops in (float("nan"), float("inf"), 0.0, -1.0):
        with pytest.raises(FittingError, match="flops"):
            link.predict(2.6, flops=flops)
    for ends in ((float("nan"), 2.7), (-1.0, 2.7), (2.5, float("inf"))):
        with pytest.raises(FittingError, match="interval"):
            link.predict(2.6, measured=False, source_interval=ends)


def test_a_given_floor_above_losses_is_refused_not_fitted_around() -> None:
    """With E0 above some source losses the joint fit gave an answer without a word."""
    sets = simulated(noise=1e-3)
    pairs = pair(sets["web"], sets["code"])
    middle = float(np.median(pairs.x[pairs.paired]))
    with pytest.raises(FittingError, match="at or below it"):
        fit_link(pairs, method="joint", E0=middle, draws=0)
    assert "below_floor" in codes(fit_link(pairs, method="paper_ols", E0=middle, draws=0))


def test_losses_and_factors_out_of_any_range_are_refused() -> None:
    """Losses of 1e300 ended in a linear-algebra error; bytes per token were taken for tokens."""
    sets = simulated(noise=1e-3)
    web, code = sets["web"], sets["code"]
    for factor in (1e50, 1e-50):
        with pytest.raises(FittingError, match="A loss of source"):
            pair(Runs(web.inputs, web.loss * factor), code)
    with pytest.raises(FittingError, match="bytes per token"):
        pair(web, code, unit="bits/byte", tokens_per_byte=(4.2, 0.3))


def test_runs_that_agree_in_nine_digits_share_a_cell_and_are_averaged() -> None:
    N = np.array([1e8, 3e8, 1e9, 9.9999999997e7, 3e8, 4e9])
    D, loss = np.full(6, 2e10), np.array([3.0, 2.8, 2.6, 3.2, 2.9, 2.4])
    other = Runs({"N": N[:3] * (1 + 1e-11), "D": D[:3]}, 1.1 * loss[:3])
    found = pair(Runs({"N": N, "D": D}, loss), other)
    assert found.N.tolist() == [1e8, 3e8, 1e9, 4e9]
    np.testing.assert_allclose(found.x, [3.1, 2.85, 2.6, 2.4])
    np.testing.assert_allclose(found.y, [3.3, 3.08, 2.86, np.nan])
