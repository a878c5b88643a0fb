"""Kaplan et al. 2020, "Scaling Laws for Neural Language Models", equation 1.6: L(N, S_min).

The loss after S_min steps at a batch far above the critical one, with data that never repeats.
Beside the law: the critical batch size and what the paper derives from the two (section 6, app. B).
"""

from typing import Any

from fitting.law import Input, Law, Param, Published
from fitting.laws.kaplan_compute import PF_DAY
from fitting.links import LOG, bounded

B_STAR = 2.0e8  # tokens; Kaplan et al. 2020, eq. 5.3 (figure 10 has 2.1e8)
ALPHA_B = 0.21  # ibid.


def loss(N: Any, S: Any, *, N_c: Any, S_c: Any, alpha_N: Any, alpha_S: Any) -> Any:
    return (N_c / N) ** alpha_N + (S_c / S) ** alpha_S


LAW = Law(
    name="kaplan_steps",
    title="Kaplan L(N, S): model size and steps",
    latex=r"L(N, S_{\min}) = \left(\frac{N_c}{N}\right)^{\alpha_N}"
    r" + \left(\frac{S_c}{S_{\min}}\right)^{\alpha_S}",
    source="Kaplan et al. 2020, arXiv 2001.08361, eq. 1.6",
    about="S counts the steps that a batch far above the critical one would need: "
    "`minimum_steps` converts. N leaves the embeddings out.",
    formula=loss,
    inputs=(
        Input("N", "parameters", "model size, without embeddings", (1e6, 1e10)),
        Input("S", "steps", "optimizer steps, at a batch far above the critical", (1e3, 1e6)),
    ),
    params=(
        Param("N_c", "size at which the first term would be 1 nat", (1e9, 1e17), LOG),
        Param("S_c", "steps at which the second term would be 1 nat", (1e1, 1e6), LOG),
        Param("alpha_N", "how fast a larger model helps", (0.03, 0.3), bounded(0.0, 3.0)),
        Param("alpha_S", "how fast more steps help", (0.2, 1.5), bounded(0.0, 3.0)),
    ),
    published=Published(
        {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76},
        at={"N": 1e9, "S": 1e5},
        loss=2.40051,
        source="Kaplan et al. 2020, table 3",
        rtol=1e-4,
    ),
)


def critical_batch(L: Any, *, B_star: Any = B_STAR, alpha_B: Any = ALPHA_B) -> Any:
    """B* / L^(1/alpha_B) tokens (eq. 5.3): beyond such a batch, a larger one saves few steps."""
    return B_star / L ** (1.0 / alpha_B)


def minimum_steps(S: Any, batch_tokens: Any, L: Any) -> Any:
    """S_min = S / (1 + B_crit / B) (eq. 5.4): the steps that an endless batch would have taken."""
    return S / (1.0 + critical_batch(L) / batch_tokens)


def minimum_compute(C: Any, batch_tokens: Any, L: Any) -> Any:
    """C_min = C / (1 + B / B_crit) (eq. 5.5): the compute that a tiny batch would have taken."""
    return C / (1.0 + batch_tokens / critical_batch(L))


def compute_exponent(*, alpha_N: Any, alpha_S: Any, alpha_B: Any = ALPHA_B) -> Any:
    """alpha_C = 1 / (1/alpha_S + 1/alpha_B + 1/alpha_N): how L falls with C_min at the optimum
    (eq. 6.4).

    The shares of C in N, B and S are then alpha_C over alpha_N, alpha_B and alpha_S.
    """
    return 1.0 / (1.0 / alpha_S + 1.0 / alpha_B + 1.0 / alpha_N)


def optimal_allocation(C: Any) -> dict[str, Any]:
    """The paper's own measured trends (appendix A) at C FLOPs, its C_min.

    N parameters without embeddings, batch tokens, S_min steps, D tokens. They are
    printed rounded: 6 N batch S gives C back only to some ten per cent.
    """
    c = C / PF_DAY
    return {
        "N": 1.3e9 * c**0.73,
        "batch_tokens": 2.0e6 * c**0.24,
        "S": 5.4e3 * c**0.03,
        "D": 2.0e10 * c**0.27,
    }
