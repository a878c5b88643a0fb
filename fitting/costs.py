"""What a run costs: shape -> parameters, FLOPs; hardware and money -> a budget in FLOPs.

The model that is counted is the decoder-only transformer of the proxy trainer: RMSNorm without
gains, rotary positions (no parameters), attention with optional QK-norm gains, a SwiGLU (three
matrices) or two-matrix MLP, no biases, an untied or tied head. The options cover its relatives.

A matrix of a x b costs 2 a b FLOPs a token forward (a multiplication and an addition each entry).
Norms, softmax, rotations and other elementwise work are left out, as everywhere in the field.
"""

from fitting.errors import FittingError

MLP_MATRICES = {"swiglu": 3, "geglu": 3, "relu2": 2, "gelu": 2, "relu": 2}
FLOPS_CONVENTIONS = ("exact", "6nd", "palm")


def _shape(
    d_model: int,
    n_layers: int,
    d_ff: int,
    vocab_size: int,
    n_heads: int,
    n_kv_heads: int | None,
    head_dim: int | None,
    mlp: str,
) -> tuple[int, int]:
    """(key-value heads, head dimension), checked."""
    sizes = {
        "d_model": d_model,
        "n_layers": n_layers,
        "d_ff": d_ff,
        "vocab_size": vocab_size,
        "n_heads": n_heads,
    }
    for name, value in sizes.items():
        if value < 1:
            raise FittingError("bad_option", f"{name} is {value}.", "It must be at least 1.")
    if mlp not in MLP_MATRICES:
        raise FittingError(
            "bad_option", f"mlp is {mlp!r}.", f"Use one of {', '.join(MLP_MATRICES)}."
        )
    kv = n_heads if n_kv_heads is None else n_kv_heads
    if kv < 1 or n_heads % kv:
        raise FittingError("bad_option", f"{n_heads} heads cannot share {kv} key-value heads.")
    if head_dim is None:
        if d_model % n_heads:
            raise FittingError(
                "bad_option",
                f"d_model {d_model} is not a multiple of n_heads {n_heads}.",
                "Give head_dim.",
            )
        head_dim = d_model // n_heads
    return kv, head_dim


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
    kv, e = _shape(d_model, n_layers, d_ff, vocab_size, n_heads, n_kv_heads, head_dim, mlp)
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


def budget_flops(
    *,
    gpu_hours: float | None = None,
    dollars: float | None = None,
    hours: float | None = None,
    gpus: float | None = None,
    peak_flops_per_second: float,
    utilisation: float,
    dollars_per_gpu_hour: float | None = None,
) -> float:
    """FLOPs that time or money buys: GPU-hours x 3600 x peak x utilisation (MFU, in (0, 1]).

    Give exactly one of gpu_hours; dollars with dollars_per_gpu_hour; hours with gpus.
    """
    given = [gpu_hours is not None, dollars is not None, hours is not None or gpus is not None]
    if sum(given) != 1:
        raise FittingError(
            "bad_option",
            f"{sum(given)} budgets were given.",
            "Give one of: gpu_hours; dollars and dollars_per_gpu_hour; hours and gpus.",
        )
    if dollars is not None:
        if not dollars_per_gpu_hour or dollars_per_gpu_hour <= 0:
            raise FittingError("bad_option", "dollars needs dollars_per_gpu_hour, positive.")
        gpu_hours = dollars / dollars_per_gpu_hour
    elif gpu_hours is None:
        if hours is None or gpus is None:
            raise FittingError("bad_option", "hours and gpus go together.", "Give both.")
        gpu_hours = hours * gpus
    if not 0 < utilisation <= 1:
        raise FittingError("bad_option", f"utilisation is {utilisation}.", "Give one in (0, 1].")
    if not (gpu_hours > 0 and peak_flops_per_second > 0):
        raise FittingError("bad_option", "Hours and peak FLOPs per second must be positive.")
    return float(gpu_hours) * 3600.0 * peak_flops_per_second * utilisation
