"""Three made-up data sets on one latent scale, with known floors, K and kappa."""

import numpy as np

from fitting import Runs

A, ALPHA, B, BETA = 300.0, 0.4, 900.0, 0.38
TRUE = {
    "web": {"E": 2.0, "K": 1.0, "kappa": 1.0},
    "code": {"E": 0.8, "K": 0.6, "kappa": 1.2},
    "maths": {"E": 1.3, "K": 0.7, "kappa": 0.9},
}


def grid(budgets: int = 7, sizes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """N and D of an isoFLOP grid, 2e17 to 5e19 FLOPs."""
    C = np.repeat(np.geomspace(2e17, 5e19, budgets), sizes)
    D_over_N = np.tile(np.geomspace(3.0, 150.0, sizes), budgets)
    N = np.sqrt(C / 6 / D_over_N)
    return N, C / 6 / N


def loss(name: str, N: np.ndarray, D: np.ndarray, luck: float | np.ndarray = 1.0) -> np.ndarray:
    """luck: a factor on z, of the recipe or the seed."""
    z = (A * N**-ALPHA + B * D**-BETA) * luck
    t = TRUE[name]
    return np.asarray(t["E"] + t["K"] * z ** t["kappa"])


def simulated(noise: float = 1e-3, shared: float = 0.0, seed: int = 0) -> dict[str, Runs]:
    """Runs of all three sets; shared: luck that all sets of one cell have in common."""
    rng = np.random.default_rng(seed)
    N, D = grid()
    luck = np.exp(shared * rng.standard_normal(N.size))
    return {
        name: Runs(
            {"N": N, "D": D},
            loss(name, N, D, luck) * np.exp(noise * rng.standard_normal(N.size)),
        )
        for name in TRUE
    }
