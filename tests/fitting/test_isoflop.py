"""Approaches 1, 2 and 3: published exponents, and biases that are known without noise."""

import numpy as np
import pytest

from fitting import FittingError, Runs, fit, get_law
from fitting.isoflop import (
    Frontier,
    budgets,
    envelope,
    interpolated,
    parabola,
    parabola_bias,
    parametric,
    side_by_side,
)
from tests.fitting import data

CHINCHILLA = get_law("chinchilla")
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
SYMMETRIC = {"E": 1.69, "A": 400.0, "B": 400.0, "alpha": 0.31, "beta": 0.31}
ASYMMETRIC = {"E": 1.69, "A": 400.0, "B": 400.0, "alpha": 0.465, "beta": 0.155}


def grid(params: dict[str, float], factor: float, sizes: int = 15) -> Runs:
    """Noise-free isoFLOP runs: 1e17 to 1e21, each budget `factor` wide on each side of its D*."""
    C = np.geomspace(1e17, 1e21, 5)
    best = parametric(CHINCHILLA, params, C).D
    D = (best[:, None] * np.geomspace(1 / factor, factor, sizes)).ravel()
    N = np.repeat(C, sizes) / 6 / D
    return Runs({"N": N, "D": D}, CHINCHILLA.loss({"N": N, "D": D}, params))


@pytest.mark.parametrize(
    ("params", "factor", "percent"),
    [
        (SYMMETRIC, 16, 0.0),
        (HOFFMANN, 2, -0.3),
        (HOFFMANN, 16, -5.1),
        (ASYMMETRIC, 2, -1.7),
        (ASYMMETRIC, 16, -23.0),
    ],
)
def test_the_parabolas_bias_is_the_published_one(
    params: dict[str, float], factor: float, percent: float
) -> None:
    """Open-Athena, scaling-law-analysis: D* at 1e24 from noise-free budgets 1e17-1e21."""
    runs = grid(params, factor)
    bias = 100 * parabola_bias(runs, CHINCHILLA, params, at=1e24)
    assert bias == pytest.approx(percent, abs=0.15)
    cubic = 100 * parabola_bias(runs, CHINCHILLA, params, at=1e24, degree=3)
    assert abs(cubic) <= abs(bias) + 1e-6


def test_approach_3_is_the_closed_form() -> None:
    """a = beta / (alpha + beta), N* = G (C / 6)^a (Hoffmann et al., eq. 4)."""
    p = HOFFMANN
    found = parametric(CHINCHILLA, p, np.geomspace(1e18, 1e25, 8))
    total = p["alpha"] + p["beta"]
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total)
    assert found.N_exponent == pytest.approx(p["beta"] / total, rel=1e-7)
    np.testing.assert_allclose(found.N, G * (found.C / 6) ** (p["beta"] / total), rtol=1e-6)
    assert found.N_exponent + found.D_exponent == pytest.approx(1.0, abs=1e-12)


def porian(**config: str) -> Runs:
    table = [
        row
        for row in data.rows("parametric/porian_isoflop_points.csv")
        if all(row[k] == v for k, v in config.items())
    ]
    inputs = {k: data.column(table, k) for k in ("N", "D")}
    return Runs(inputs, data.column(table, "loss"), flops=data.column(table, "C"))


@pytest.mark.parametrize(
    ("hparams", "warmup", "decay", "count", "val", "exponent"),
    [
        ("base", "long", "kaplan", "kaplan", "train", 0.834),
        ("base", "long", "kaplan", "standard", "val", 0.701),
        ("base", "short", "kaplan", "standard", "val", 0.604),
        ("base", "short", "chinchilla", "standard", "val", 0.571),
        ("tuned", "short", "const", "standard", "val", 0.497),
    ],
)
def test_porians_chain_of_corrections(
    hparams: str, warmup: str, decay: str, count: str, val: str, exponent: float
) -> None:
    """From Kaplan's exponent to Hoffmann's. The authors take the median over 1,000 resamples with
    noise, this the optimum itself: they differ by at most .002."""
    runs = porian(
        file="summary_df",
        dataset="rw",
        hparams=hparams,
        warmup=warmup,
        decay=decay,
        param_count=count,
        val=val,
    )
    assert interpolated(runs).N_exponent == pytest.approx(exponent, abs=0.0025)


def test_budgets_gather_rounded_computes() -> None:
    C = np.array([1e18, 1.04e18, 0.97e18, 1e19, 1.05e19, 1e20])
    N = np.array([1e7, 2e7, 4e7, 1e8, 2e8, 1e9])
    found = budgets(Runs({"N": N, "D": C / 6 / N}, np.full(6, 3.0), flops=C))
    assert [b.N.size for b in found] == [3, 2, 1]


def test_envelope_of_curves() -> None:
    """Approach 1 on whole training curves: the exponent of the law that made them."""
    sizes = np.geomspace(1e7, 1e10, 25)
    N = np.repeat(sizes, 60)
    D = (sizes[:, None] * np.geomspace(0.5, 500, 60)).ravel()
    loss = CHINCHILLA.loss({"N": N, "D": D}, HOFFMANN)
    found = envelope(Runs({"N": N, "D": D}, loss, run=np.repeat(np.arange(25), 60)))
    assert found.N_exponent == pytest.approx(0.28 / 0.62, abs=0.01)
    assert found.D_exponent == pytest.approx(0.34 / 0.62, abs=0.01)


def test_side_by_side() -> None:
    """Epoch's optimum by every approach; the parabola says how biased it is."""
    runs = grid(ASYMMETRIC, 8)
    f = fit(CHINCHILLA, runs, draws=0)
    found = side_by_side(runs, f)
    assert list(found) == ["envelope", "interpolated", "parabola", "cubic", "parametric"]
    for name in ("interpolated", "parabola", "cubic", "parametric"):
        frontier = found[name]
        assert isinstance(frontier, Frontier), name
        assert frontier.N_exponent == pytest.approx(0.25, abs=0.03), name
        assert frontier.to_dict()["optima"][0]["C"] == pytest.approx(1e17, rel=1e-6)
    flagged = found["parabola"]
    assert isinstance(flagged, Frontier)
    assert flagged.notes[-1].code == "parabola_bias" and "%" in flagged.notes[-1].message


def test_refuses_what_has_no_optimum() -> None:
    """Only sizes far below the optimum: every budget's best is its largest model."""
    C = np.repeat([1e19, 1e20, 1e21], 4)
    N = np.tile(np.geomspace(1e6, 8e6, 4), 3)
    runs = Runs({"N": N, "D": C / 6 / N}, CHINCHILLA.loss({"N": N, "D": C / 6 / N}, HOFFMANN))
    with pytest.raises(FittingError, match="0 budgets"):
        parabola(runs)
    found = side_by_side(runs)
    assert isinstance(found["interpolated"], FittingError)
