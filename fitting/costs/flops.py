"""FLOPs a token in the field's three conventions: what a run is said to have cost.

A matrix of a x b costs 2 a b FLOPs a token forward (a multiplication and an addition each entry).
Norms, softmax, rotations and other elementwise work are left out, as everywhere in the field.
What a step takes is counted op by op in `ops`.
"""

from fitting.costs.parameters import parameter_counts
from fitting.errors import FittingError

FLOPS_CONVENTIONS = ("exact", "6nd", "palm")


def flops_per_token(
    *,
    d_model: int,
    n_layers: int,
    d_ff: int,
    vocab_size: int,
    n_heads: int,
    seq_len: int,
    n_kv_heads: int | None = None,
    head_dim: int | None = None,
    mlp: str = "swiglu",
    tied: bool = False,
    qk_norm: bool = True,
    norm_gains: bool = False,
    convention: str = "exact",
) -> float:
    """Training FLOPs a token (forward and backward; the backward pass costs twice the forward).

    exact  3 x forward, with forward = 2 x (attention and MLP matrices) + 2 V d (head)
           + attention itself: the token at position t meets t keys, (T + 1) / 2 on average over
           1..T; each costs 2 h e for the score and 2 h e for the sum of values, so 2 h e (T + 1)
           a layer. The embedding is a lookup and costs nothing.
    6nd    6 N with N = total, as in C = 6 N D.
    palm   6 N + 12 L h e T with N = blocks and head (PaLM, Chowdhery et al. 2022, appendix B:
           attention over all T positions, not only the past).
    """
    counts = parameter_counts(
        d_model=d_model, n_layers=n_layers, d_ff=d_ff, vocab_size=vocab_size, n_heads=n_heads,
        n_kv_heads=n_kv_heads, head_dim=head_dim, mlp=mlp, tied=tied, qk_norm=qk_norm,
        norm_gains=norm_gains,
    )  # fmt: skip
    if seq_len < 1:
        raise FittingError("bad_option", f"seq_len is {seq_len}.", "It must be at least 1.")
    width = n_heads * (d_model // n_heads if head_dim is None else head_dim)
    if convention == "exact":
        matrices = counts["attention"] + counts["mlp"] + vocab_size * d_model
        forward = 2.0 * matrices + n_layers * 2.0 * width * (seq_len + 1)
        return 3.0 * forward
    if convention == "6nd":
        return 6.0 * counts["total"]
    if convention == "palm":
        return 6.0 * counts["blocks_and_head"] + 12.0 * n_layers * width * seq_len
    raise FittingError(
        "bad_option",
        f"convention {convention!r} is not known.",
        f"Use one of {', '.join(FLOPS_CONVENTIONS)}.",
    )
