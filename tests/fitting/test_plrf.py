"""The solvable model: exact against a simulated SGD, and its exponents against the theory."""

import numpy as np
import pytest

from fitting import FittingError, fit, get_law
from fitting.plrf import phase, simulate_plrf, student


def drawn(a: float, b: float, d: int, v: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """diag(j^-a) W and the target, as `student` draws them."""
    rng = np.random.default_rng([seed, 19, d, v])
    j = np.arange(1, v + 1.0)
    return rng.standard_normal((v, d)) / np.sqrt(d) * j[:, None] ** -a, j ** -(a + b)


def test_is_the_mean_of_simulated_sgd() -> None:
    """2,000 trainings of 60 steps, batch 2: every step's mean loss within 4 standard errors."""
    a, b, d, v, B, steps, trials = 1.0, 0.7, 10, 40, 2, 60, 2000
    s = student(a, b, d, v=v, batch=B, seed=3)
    scaled, target = drawn(a, b, d, v, seed=3)
    rng = np.random.default_rng(1)
    theta = np.zeros((trials, d))
    for r in range(steps + 1):
        losses = ((theta @ scaled.T - target) ** 2).sum(axis=1)
        error = losses.std() / np.sqrt(trials)
        assert abs(losses.mean() - s.loss(r)) <= 4 * error + 1e-12, r
        z = rng.standard_normal((trials, B, v))
        x, y = z @ scaled, z @ target
        miss = np.einsum("tbd,td->tb", x, theta) - y
        theta = theta - s.learning_rate * np.einsum("tbd,tb->td", x, miss)


def test_is_the_recursion() -> None:
    """q_j <- q_j (1 - 2 g B lam + g^2 B (B + 1) lam^2) + g^2 B lam^2 P, step by step."""
    a, b, d, v, B = 0.8, 0.4, 30, 120, 4
    s = student(a, b, d, v=v, batch=B, seed=1)
    scaled, target = drawn(a, b, d, v, seed=1)
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    lam, q, g = singular**2, (left.T @ target) ** 2, s.learning_rate
    losses = [s.floor + q.sum()]
    for _ in range(500):
        P = s.floor + q.sum()
        q = q * (1 - 2 * g * B * lam + g**2 * B * (B + 1) * lam**2) + g**2 * B * lam**2 * P
        losses.append(s.floor + q.sum())
    np.testing.assert_allclose(s.loss(np.arange(501)), losses, rtol=1e-11)
    assert losses[0] == pytest.approx(float(target @ target))


@pytest.mark.parametrize(
    ("a", "b", "name", "loss", "size"),
    [
        (1.0, 0.25, "Ia", 0.50, 0.33),
        (0.8, 0.4, "Ia", 0.54, 0.39),
        (1.0, 0.7, "II", 0.706, 0.41),
        (0.7, 0.6, "II", 0.615, 0.46),
        (0.7, 1.2, "III", 0.643, 0.50),
        (1.0, 1.5, "III", 0.750, 0.50),
        (0.4, 0.3, "Ib", 0.20, 0.50),
        (0.4, 0.8, "IVa", 0.400, 0.50),
        (0.27, 0.8, "IVb", 0.29, 0.59),
    ],
)
def test_phases(a: float, b: float, name: str, loss: float, size: float) -> None:
    found = phase(a, b)
    assert found.name == name
    assert found.loss_exponent == pytest.approx(loss, abs=0.006)
    assert found.size_exponent == pytest.approx(size, abs=0.006)


def test_phases_join() -> None:
    """Neighbouring phases agree on their common border."""
    h = 1e-9
    edge = 1 - np.sqrt(0.5)
    for one, other in [
        ((0.8, 0.5 - h), (0.8, 0.5 + h)),  # Ia, II
        ((0.9, 0.9 - h), (0.9, 0.9 + h)),  # II, III
        ((0.5 + h, 0.2), (0.5 - h, 0.2)),  # Ia, Ib
        ((0.5 + h, 0.9), (0.5 - h, 0.9)),  # III, IVa
        ((edge + h, 0.9), (edge - h, 0.9)),  # IVa, IVb
        ((0.25 + h, 0.9), (0.25 - h, 0.9)),  # IVb, Ic
    ]:
        p, q = phase(*one), phase(*other)
        assert p.name != q.name
        assert p.loss_exponent == pytest.approx(q.loss_exponent, abs=1e-7), (p, q)


@pytest.mark.parametrize(
    ("a", "b", "within"),
    [(1.0, 0.25, 0.08), (0.8, 0.4, 0.08), (1.0, 0.7, 0.08), (0.7, 1.2, 0.08), (0.7, 0.6, 0.16)],
)
def test_measured_loss_exponent(a: float, b: float, within: float) -> None:
    """Compute-optimal losses of d = 10..200 fall with the theory's exponent, up to finite size."""
    v = 800
    sizes = np.unique(np.geomspace(10, 200, 16).astype(int))
    rate = 0.5 / np.sum(np.arange(1, v + 1.0) ** (-2 * a))
    log_f = np.linspace(np.log(1e2), np.log(1e9), 300)
    log_loss = np.mean(
        [
            [
                np.log(
                    student(a, b, int(d), v=v, seed=s, learning_rate=rate).loss(np.exp(log_f) / d)
                )
                for d in sizes
            ]
            for s in range(3)
        ],
        axis=0,
    )
    x = np.log(sizes)
    best = log_loss.argmin(axis=0)
    depth = (x[best] - x[0]) / (x[-1] - x[0])
    rows = np.flatnonzero((depth > 0.25) & (depth < 0.75))
    lowest = []
    for i in rows:
        near = slice(best[i] - 3, best[i] + 4)
        c = np.polyfit(x[near], log_loss[near, i], 2)
        lowest.append(np.polyval(c, -c[1] / (2 * c[0])))
    slope = -np.polyfit(log_f[rows], lowest, 1)[0]
    assert slope == pytest.approx(phase(a, b).loss_exponent, rel=within)


def test_floor_falls_as_min_of_two_exponents() -> None:
    """The best loss of d features falls as d^-min(2a + 2b - 1, 2a)."""
    for a, b in ((1.0, 0.25), (0.7, 1.2)):
        d = np.array([12, 25, 50, 100])
        log_floor = [
            np.mean([np.log(student(a, b, k, v=800, seed=s).floor) for s in range(12)]) for k in d
        ]
        slope = -np.polyfit(np.log(d), log_floor, 1)[0]
        assert slope == pytest.approx(min(2 * a + 2 * b - 1, 2 * a), rel=0.12)


def test_a_fitter_predicts_the_larger_student() -> None:
    """Chinchilla, fitted to students of up to 100 features, forecasts 200 with 4x the samples. The
    truth has no irreducible loss, and the fit's floor must be near none."""
    samples = np.geomspace(3e3, 1e5, 8)
    runs = simulate_plrf(1.0, 0.7, [12, 18, 27, 40, 60, 100], samples, v=800)
    f = fit(get_law("chinchilla"), runs, draws=0)
    large = simulate_plrf(1.0, 0.7, [200], [4e5], v=800)
    got = f.predict(large.inputs)
    assert got.value[0] == pytest.approx(large.loss[0], rel=0.25)
    assert f.params["E"] < 0.25 * large.loss[0]


def test_same_seed_same_runs() -> None:
    one, two, other = (
        simulate_plrf(1.0, 0.7, [10, 20], [1e3, 1e4], noise=0.01, seed=s) for s in (5, 5, 6)
    )
    assert one.digest == two.digest != other.digest


def test_refuses_a_rate_that_diverges() -> None:
    with pytest.raises(FittingError, match="diverges"):
        student(1.0, 0.7, 20, learning_rate=5.0)
    with pytest.raises(FittingError, match="no power law"):
        phase(0.2, 0.2)
