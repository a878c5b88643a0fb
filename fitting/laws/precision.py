"""Kumar et al. 2024, "Scaling Laws for Precision": training, and quantising, in few bits.

Training in P_w, P_a, P_kv bits (weights, activations, key-value cache) makes a model behave like a
smaller one: L = E + A / N_eff^alpha + B / D^beta, N_eff = N prod_x (1 - exp(-P_x / gamma_x)).
Quantising the weights to P_post bits afterwards adds C_T D^gamma_D / N^gamma_N exp(-P_post /
gamma_post): the longer the training, the more it costs.

The paper's constants are not given here: our copy of them is from memory.
"""

from typing import Any

import numpy as np

from fitting.law import Input, Law, Param
from fitting.links import LOG, bounded


def effective_size(
    N: Any, P_w: Any, P_a: Any, P_kv: Any, *, gamma_w: Any, gamma_a: Any, gamma_kv: Any
) -> Any:
    """N_eff: the full-precision size that a model trained in so few bits is worth."""
    kept = np.expm1(-P_w / gamma_w) * np.expm1(-P_a / gamma_a) * np.expm1(-P_kv / gamma_kv)
    return -N * kept


def loss(
    N: Any,
    D: Any,
    P_w: Any,
    P_a: Any,
    P_kv: Any,
    *,
    E: Any,
    A: Any,
    B: Any,
    alpha: Any,
    beta: Any,
    gamma_w: Any,
    gamma_a: Any,
    gamma_kv: Any,
) -> Any:
    n = effective_size(N, P_w, P_a, P_kv, gamma_w=gamma_w, gamma_a=gamma_a, gamma_kv=gamma_kv)
    return E + A * n**-alpha + B * D**-beta


def quantised_loss(
    N: Any,
    D: Any,
    P_post: Any,
    *,
    E: Any,
    A: Any,
    B: Any,
    alpha: Any,
    beta: Any,
    C_T: Any,
    gamma_D: Any,
    gamma_N: Any,
    gamma_post: Any,
) -> Any:
    damage = C_T * D**gamma_D * N**-gamma_N * np.exp(-P_post / gamma_post)
    return E + A * N**-alpha + B * D**-beta + damage


_SIZE = Input("N", "parameters", "model size", (1e7, 1e11))
_DATA = Input("D", "tokens", "training tokens", (1e9, 1e13))
_CHINCHILLA = (
    Param("E", "loss of an infinite model on infinite data", (0.3, 3.0), LOG),
    Param("A", "what a small model loses, at N = 1", (1.0, 1e6), LOG),
    Param("B", "what little data loses, at D = 1", (1.0, 1e7), LOG),
    Param("alpha", "how fast a larger model helps", (0.1, 1.0), bounded(0.0, 3.0)),
    Param("beta", "how fast more data helps", (0.1, 1.0), bounded(0.0, 3.0)),
)


def _scale(name: str, about: str) -> Param:
    return Param(name, about, (0.5, 5.0), bounded(0.05, 50.0, log=True))


LAW = (
    Law(
        name="precision",
        title="Precision: training in few bits",
        latex=r"L = E + \frac{A}{N_{\mathrm{eff}}^{\alpha}} + \frac{B}{D^{\beta}},\quad "
        r"N_{\mathrm{eff}} = N \prod_{x \in \{w, a, kv\}} \left(1 - e^{-P_x / \gamma_x}\right)",
        source="Kumar et al. 2024, arXiv 2411.04330, eq. 3",
        about="Which precision to train in. Vary each of the three precisions by itself, or their "
        "gammas cannot be told apart.",
        formula=loss,
        inputs=(
            _SIZE,
            _DATA,
            Input("P_w", "bits", "precision of the weights in training", (3, 16)),
            Input("P_a", "bits", "precision of the activations", (3, 16)),
            Input("P_kv", "bits", "precision of the key-value cache", (3, 16)),
        ),
        params=(
            *_CHINCHILLA,
            _scale("gamma_w", "bits of weight that matter"),
            _scale("gamma_a", "bits of activation that matter"),
            _scale("gamma_kv", "bits of key-value cache that matter"),
        ),
        linear=("E", "A", "B"),
    ),
    Law(
        name="precision_post",
        title="Precision: quantising after training",
        latex=r"L = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}"
        r" + C_T \frac{D^{\gamma_D}}{N^{\gamma_N}} e^{-P_{\mathrm{post}} / \gamma_{\mathrm{post}}}",
        source="Kumar et al. 2024, arXiv 2411.04330, eq. 2",
        about="What quantising the trained weights will cost. The damage grows with the tokens: "
        "there is a point beyond which more training makes the quantised model worse.",
        formula=quantised_loss,
        inputs=(
            _SIZE,
            _DATA,
            Input("P_post", "bits", "precision of the weights after training", (3, 16)),
        ),
        params=(
            *_CHINCHILLA,
            Param("C_T", "how much quantising costs, at N = D = 1", (1e-4, 1e2), LOG),
            Param("gamma_D", "how the damage grows with tokens", (0.1, 1.0), bounded(0.0, 3.0)),
            Param("gamma_N", "how the damage falls with size", (0.1, 1.0), bounded(0.0, 3.0)),
            _scale("gamma_post", "bits that matter after training"),
        ),
        linear=("E", "A", "B", "C_T"),
    ),
)
