"""A model whose scaling law is known: power-law random features under one-pass SGD.

Paquette et al. 2024, "4+3 Phases of Compute-Optimal Neural Scaling Laws" (arXiv 2405.15074).
Inputs x_j = j^-a z_j (z Gaussian, j = 1..v), target <x, w> with w_j = j^-b; the student sees d
random features W'x, W [v, d] Gaussian with variance 1/d, and learns by SGD on fresh batches:

    P(theta) = E (<W'x, theta> - <x, w>)^2,  theta <- theta - g * (sum of the batch's gradients)

Why it is here: every loss is exact, without a training run, and the compute-optimal exponents are
known (`phase`), so that a fitter can be held against the truth. What it shows is sobering: at
d <= 1600 the measured exponents are 5 to 20% off their limits with no noise at all.

How it is exact. With K = W' diag(j^-2a) W = sum lam_j u_j u_j' and q_j = lam_j <u_j, theta -
theta*>^2, the expectation over the data obeys q <- M q + s P_inf with M = diag(m) + s 1',
m = 1 - 2 g B lam + g^2 B (B + 1) lam^2, s = g^2 B lam^2. Dividing by sqrt(s) makes M symmetric; one
eigendecomposition then gives the loss after any number of steps, with no step taken.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fitting.errors import FittingError
from fitting.links import Floats
from fitting.runs import Runs


@dataclass(frozen=True)
class Phase:
    """Asymptotics at the best size for a compute f = batch * steps * d: the loss falls as
    f^-loss_exponent and the best d grows as f^size_exponent."""

    name: str
    loss_exponent: float
    size_exponent: float


def phase(a: float, b: float) -> Phase:
    """The phase of data complexity a and target complexity b (Paquette et al. 2024, table 2).

    a: x_j has standard deviation j^-a. b: the target's coefficients are j^-b. Without a power law
    (a + b <= 1/2) it is a FittingError.
    """
    if not (a > 0 and b >= 0 and a + b > 0.5):
        raise FittingError(
            "bad_option", f"a = {a}, b = {b}: there is no power law.", "Choose a + b above 1/2."
        )
    s = 2 * a + 2 * b - 1
    if 2 * b < 1:
        if 2 * a > 1:
            return Phase("Ia", s / (2 * a + 1), 1 / (2 * a + 1))
        return Phase("Ib", a + b - 0.5, 0.5)
    if 2 * a > 1:
        if b < a:
            return Phase("II", s / (2 * (a + b)), b / (a + b))
        return Phase("III", 1 - 1 / (4 * a), 0.5)
    if a > 1 - np.sqrt(0.5):
        return Phase("IVa", a, 0.5)
    if a > 0.25:
        below = 2 * b - a - 2 * a * b
        return Phase("IVb", (1 - 2 * a) * s / (2 * below), (b - a) / below)
    return Phase(
        "Ic",
        a * s / (2 * b - 1 - a * (2 * b - 3)),
        (1 - 2 * (a + b)) / (2 * (a * (2 * b - 3) - 2 * b + 1)),
    )


@dataclass(frozen=True)
class Student:
    """One student of d features, its data drawn and its SGD solved.

    floor: the loss of the best theta. excess, rates [d]: P(r) = floor + noise + sum_i excess_i
    (1 - rates_i)^r, where noise is what SGD's step size keeps adding.
    """

    d: int
    batch: int
    learning_rate: float
    floor: float
    noise: float
    excess: Floats
    rates: Floats

    def loss(self, steps: ArrayLike) -> Floats:
        """The expected loss after so many steps (any shape; need not be whole numbers)."""
        r = np.asarray(steps, dtype=float)
        decay = np.exp(np.multiply.outer(r, np.log1p(-self.rates)))
        return np.asarray(self.floor + self.noise + decay @ self.excess)

    def flops(self, steps: ArrayLike) -> Floats:
        """Compute in the paper's unit: batch * steps * d."""
        return np.asarray(steps, dtype=float) * self.batch * self.d


def student(
    a: float,
    b: float,
    d: int,
    *,
    v: int | None = None,
    batch: int = 1,
    learning_rate: float | None = None,
    seed: int = 0,
) -> Student:
    """Draw W for a student of d features of v inputs (default 4 d), and solve its SGD.

    learning_rate: default 1 / (trace K + (batch + 1) lam_max), which is always stable. A rate at
    which the loss would grow without bound is a FittingError.
    """
    v = 4 * d if v is None else v
    if not 1 <= d <= v:
        raise FittingError("bad_option", f"d = {d} with v = {v}.", "Choose 1 <= d <= v.")
    rng = np.random.default_rng([seed, 19, d, v])
    j = np.arange(1, v + 1, dtype=float)
    W = rng.standard_normal((v, d)) / np.sqrt(d)
    scaled = W * j[:, None] ** -a
    target = j ** -(a + b)
    # K = scaled' scaled; its spectrum by SVD keeps the small eigenvalues exact
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    lam = singular**2
    along = left.T @ target
    q0 = along**2  # lam_j <u_j, theta*>^2, since theta starts at zero
    floor = float(np.sum((target - left @ along) ** 2))
    g = learning_rate
    if g is None:
        g = 1.0 / float(lam.sum() + (batch + 1) * lam.max())
    B = float(batch)
    root = g * np.sqrt(B) * lam
    drop = 2 * g * B * lam - g**2 * B * (B + 1) * lam**2
    rates, V = np.linalg.eigh(np.diag(drop) - np.outer(root, root))
    if rates.min() <= 0 or rates.max() >= 2:
        raise FittingError(
            "infeasible",
            f"SGD diverges at a learning rate of {g:.3g}.",
            f"Take less than {1.0 / float(lam.sum() + (batch + 1) * lam.max()):.3g}.",
            learning_rate=g,
        )
    heights = V.T @ root
    still = heights / rates * floor  # the fixed point, in eigen-coordinates
    return Student(
        d=d,
        batch=batch,
        learning_rate=float(g),
        floor=floor,
        noise=float(heights @ still),
        excess=heights * (V.T @ (q0 / root) - still),
        rates=np.minimum(rates, 1.0 - 1e-16),
    )


def simulate_plrf(
    a: float,
    b: float,
    sizes: ArrayLike,
    samples: ArrayLike,
    *,
    v: int | None = None,
    batch: int = 1,
    noise: float = 0.0,
    seed: int = 0,
) -> Runs:
    """Runs of every size at every number of samples: N = d features, D = batch * steps samples.

    v: inputs, the same for all (default: four times the largest size). noise: standard deviation
    of a log-normal error on each loss. flops are batch * steps * d, the paper's unit, so `Runs`
    carries them as they are.
    """
    d_all = np.asarray(sizes, dtype=int)
    D_all = np.asarray(samples, dtype=float)
    v = 4 * int(d_all.max()) if v is None else v
    rng = np.random.default_rng([seed, 23])
    losses = [student(a, b, int(d), v=v, batch=batch, seed=seed).loss(D_all / batch) for d in d_all]
    N = np.repeat(d_all.astype(float), D_all.size)
    D = np.tile(D_all, d_all.size)
    loss = np.concatenate(losses) * np.exp(noise * rng.standard_normal(N.size))
    run = np.repeat(np.arange(d_all.size), D_all.size)
    return Runs({"N": N, "D": D}, loss, run=run, flops=N * D)
