"""Learning rate and batch size from published laws. They are theirs, measured on their models.

Step Law (Li et al. 2025, arXiv 2503.04715), for models on some 1e8-1e9 parameters, context 2048:
    lr = 1.79 N^-.713 D^.307        batch tokens = .58 D^.571
On the authors' own 17 grids of (N, D) the law costs .096% of loss on average and .31% at most
against the best setting found. Its exponents are not settled: the best cells alone
give lr ~ N^-.82 D^.29, batch ~ D^.50. N leaves the embeddings out.

DeepSeek LLM (Bi et al. 2024, arXiv 2401.02954, eq. 1), of compute C = M D:
    lr = .3118 C^-.1250             batch tokens = .2920 C^.3271
with M = 72 n d^2 + 12 n d s FLOPs a token (their eq. 2; no vocabulary in it).
"""

from typing import Any

from fitting.costs.shape import Shape

STEP_LAW_REGRET = 0.00096
STEP_LAW_WORST = 0.0031


def step_law(N: float, D: float) -> dict[str, float]:
    """{"lr", "batch_tokens"} for N parameters without embeddings on D tokens."""
    return {"lr": 1.79 * N**-0.713 * D**0.307, "batch_tokens": 0.58 * D**0.571}


def deepseek(C: float) -> dict[str, float]:
    """{"lr", "batch_tokens"} for C = M D FLOPs, M as DeepSeek counts."""
    return {"lr": 0.3118 * C**-0.125, "batch_tokens": 0.2920 * C**0.3271}


def deepseek_flops_per_token(shape: Shape) -> float:
    """M = 72 n d^2 + 12 n d s."""
    n, d = shape.n_layers, shape.d_model
    return 72.0 * n * d * d + 12.0 * n * d * shape.seq_len


def published_settings(shape: Shape, D: float) -> list[dict[str, Any]]:
    """What each published law would set, with its source and what is known of its worth."""
    return [
        {
            "law": "step_law",
            **step_law(float(shape.parameters("blocks")), D),
            "source": "Li et al. 2025, arXiv 2503.04715",
            "note": f"theirs: AdamW, cosine; costs {STEP_LAW_REGRET:.2%} of loss on average and "
            f"{STEP_LAW_WORST:.2%} at most on the authors' own grids",
        },
        {
            "law": "deepseek",
            **deepseek(deepseek_flops_per_token(shape) * D),
            "source": "Bi et al. 2024, arXiv 2401.02954, eq. 1",
            "note": "theirs: AdamW, multi-step schedule; no regret has been measured here",
        },
    ]
