"""What is built and how a step of it is run: the two things that decide what the step costs."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from fitting.errors import FittingError

MLP_MATRICES = {"swiglu": 3, "geglu": 3, "relu2": 2, "gelu": 2, "relu": 2}
ATTENTION = ("flash", "unfused")
OPTIMIZERS = ("adamw", "muon", "sgd")
T = TypeVar("T")


def check_shape(
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


# Wider or deeper is a wrong column: ways to share the heads are counted one by one.
MOST_WIDTH, MOST_LAYERS = 10_000_000, 1_000_000
MOST_GPUS = 100_000_000


def check_sizes(d_model: int, n_layers: int) -> None:
    """Refuse what is no width or depth before anything is counted."""
    for name, value, most in (("width", d_model, MOST_WIDTH), ("depth", n_layers, MOST_LAYERS)):
        if not 1 <= value <= most:
            raise FittingError(
                "bad_option", f"A {name} of {value:.6g}.", f"Give 1 to {most:,}: check the column."
            )


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer. n_kv_heads None: as many as heads; head_dim None: d_model /
    n_heads. qk_norm and norm_gains are the gains that `parameter_counts` adds."""

    d_model: int
    n_layers: int
    d_ff: int
    vocab_size: int
    n_heads: int
    seq_len: int
    n_kv_heads: int | None = None
    head_dim: int | None = None
    mlp: str = "swiglu"
    tied: bool = False
    qk_norm: bool = False
    norm_gains: bool = True

    def __post_init__(self) -> None:
        kv, e = check_shape(
            self.d_model, self.n_layers, self.d_ff, self.vocab_size, self.n_heads,
            self.n_kv_heads, self.head_dim, self.mlp,
        )  # fmt: skip
        check_sizes(self.d_model, self.n_layers)
        if self.seq_len < 1:
            raise FittingError("bad_option", f"seq_len is {self.seq_len}.", "It must be positive.")
        object.__setattr__(self, "n_kv_heads", kv)
        object.__setattr__(self, "head_dim", e)

    @property
    def kv_heads(self) -> int:
        """Heads of the keys (and of the values)."""
        assert self.n_kv_heads is not None
        return self.n_kv_heads

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        assert self.head_dim is not None
        return self.head_dim

    @property
    def label(self) -> str:
        """Width x depth, as the Gemstones are named."""
        return f"{self.d_model}x{self.n_layers}"

    def parameters(self, convention: str = "total") -> int:
        """N in one of the conventions of `parameter_counts`."""
        from fitting.costs.parameters import parameter_counts

        given = asdict(self)
        del given["seq_len"]
        return parameter_counts(**given)[convention]

    def resized(self, d_model: int, n_layers: int) -> "Shape":
        """The same family at another width and depth.

        The MLP keeps its ratio to the width, heads keep their dimension and key-value heads their
        share (as nearly as they divide the heads); the width is a multiple of the head dimension.
        """
        check_sizes(d_model, n_layers)
        e = self.head_width
        heads = max(1, round(d_model / e))
        wanted = heads * self.kv_heads / self.n_heads
        divisors = [k for k in range(1, heads + 1) if heads % k == 0]
        kv = min(divisors, key=lambda k: abs(math.log(k / wanted)))
        d_ff = max(1, round(self.d_ff / self.d_model * d_model / 16) * 16)
        return replace(
            self, d_model=d_model, n_layers=n_layers, d_ff=d_ff, n_heads=heads, n_kv_heads=kv
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "Shape":
        """Read it back; a FittingError names what is missing or unknown."""
        return _built(cls, document, "a shape")


@dataclass(frozen=True)
class Setup:
    """How a step is run.

    batch_tokens: of one optimizer step, over all GPUs. gpus: how many share it, by data
    parallelism. micro_batch_tokens: what one GPU takes through at a time; None: its whole share.
    attention: "flash" (scores never reach memory) or "unfused". causal: the kernel skips the
    future, which halves the FLOPs of attention. checkpointing: activations of a layer are made
    again in the backward pass. compute_bytes: of one activation or weight (2: bf16).
    """

    batch_tokens: float
    gpus: int = 1
    micro_batch_tokens: float | None = None
    attention: str = "flash"
    causal: bool = True
    checkpointing: bool = False
    optimizer: str = "adamw"
    compute_bytes: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.batch_tokens < math.inf:
            raise FittingError(
                "bad_option", f"batch_tokens is {self.batch_tokens}.", "It must be positive."
            )
        if not 1 <= self.gpus <= MOST_GPUS:
            raise FittingError(
                "bad_option", f"gpus is {self.gpus:.6g}.", f"Give 1 to {MOST_GPUS:,}."
            )
        if self.attention not in ATTENTION:
            raise FittingError(
                "bad_option", f"attention is {self.attention!r}.",
                f"Use one of {', '.join(ATTENTION)}.",
            )  # fmt: skip
        if self.optimizer not in OPTIMIZERS:
            raise FittingError(
                "bad_option", f"optimizer is {self.optimizer!r}.",
                f"Use one of {', '.join(OPTIMIZERS)}.",
            )  # fmt: skip
        if self.micro_batch_tokens is not None and not self.micro_batch_tokens > 0:
            raise FittingError(
                "bad_option", f"micro_batch_tokens is {self.micro_batch_tokens}.",
                "It must be positive.",
            )  # fmt: skip

    @property
    def micro_batches(self) -> float:
        """Micro-batches of a step, over all GPUs; at least one a GPU."""
        if self.micro_batch_tokens is None:
            return float(self.gpus)
        return max(float(self.gpus), self.batch_tokens / self.micro_batch_tokens)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "Setup":
        """Read it back; a FittingError names what is missing or unknown."""
        return _built(cls, document, "a setup")


def _built(kind: type[T], document: dict[str, Any], what: str) -> T:
    try:
        return kind(**document)
    except TypeError as error:
        raise FittingError("bad_document", f"This is not {what}: {error}.") from None
