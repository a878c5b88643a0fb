"""Shape -> parameters, in every convention for N.

The model that is counted is the decoder-only transformer of the proxy trainer: RMSNorm without
gains, rotary positions (no parameters), attention with optional QK-norm gains, a SwiGLU (three
matrices) or two-matrix MLP, no biases, an untied or tied head. The options cover its relatives.
"""

from fitting.costs.shape import MLP_MATRICES, check_shape


def parameter_counts(
    *,
    d_model: int,
    n_layers: int,
    d_ff: int,
    vocab_size: int,
    n_heads: int,
    n_kv_heads: int | None = None,
    head_dim: int | None = None,
    mlp: str = "swiglu",
    tied: bool = False,
    qk_norm: bool = True,
    norm_gains: bool = False,
) -> dict[str, int]:
    """Exact parameter counts of the decoder-only transformer described above.

    Per layer, with h heads of size e and k key-value heads:
      attention  d (h e) queries + 2 d (k e) keys and values + (h e) d output
      mlp        3 d f (SwiGLU: gate, up, down) or 2 d f
      gains      2 e for QK-norm (one gain a head dimension, shared by the heads), 2 d for RMSNorm
    embedding is V d; head is another V d unless tied.

    Returns embedding, head, attention, mlp, gains, and the four conventions for N:
      total              everything that is stored
      non_embedding      total less the input embedding (a tied matrix counts as embedding)
      blocks             the layers alone (Kaplan et al.'s N)
      blocks_and_head    blocks + V d: what multiplies, whether the head is tied or not
    """
    kv, e = check_shape(d_model, n_layers, d_ff, vocab_size, n_heads, n_kv_heads, head_dim, mlp)
    d = d_model
    attention = n_layers * (d * n_heads * e + 2 * d * kv * e + n_heads * e * d)
    feed_forward = n_layers * MLP_MATRICES[mlp] * d * d_ff
    gains = n_layers * ((2 * e if qk_norm else 0) + (2 * d if norm_gains else 0))
    final = d if norm_gains else 0
    blocks = attention + feed_forward + gains + final
    embedding = vocab_size * d
    head = 0 if tied else embedding
    return {
        "embedding": embedding,
        "head": head,
        "attention": attention,
        "mlp": feed_forward,
        "gains": gains + final,
        "total": embedding + head + blocks,
        "non_embedding": head + blocks,
        "blocks": blocks,
        "blocks_and_head": blocks + embedding,
    }
