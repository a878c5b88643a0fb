"""What one training step does, op by op: FLOPs and elements moved through memory.

Notation: T tokens of the step, s context, d width, n layers, h heads of e channels, k key-value
heads, f MLP width, V vocabulary. A product (m x k)(k x n) costs 2 m k n FLOPs and moves
m k + k n + m n elements if nothing stays in cache: the *memory copies* of Inbar & Sernau 2024
(arXiv 2406.18922). What grows with T is counted as activations, what does not as weights: weights
move once a micro-batch, and so cost more the smaller the micro-batch.

Forward, one layer:

| op | FLOPs | activations | weights |
|---|---|---|---|
| queries, keys, values | 2 T d (h + 2 k) e | T (d + (h + 2 k) e) | d (h + 2 k) e |
| scores and their sum of values | 4 T s h e (half if causal) | T (2 h + 2 k) e | 0 |
| ... unfused: scores written and read, twice | | + 4 T s h | 0 |
| output projection | 2 T h e d | T (h e + d) | h e d |
| MLP, SwiGLU | 6 T d f | T (2 d + 3 f), elementwise + 3 T f | 3 d f |
| MLP, two matrices | 4 T d f | 2 T (d + f), elementwise + 2 T f | 2 d f |
| norms and residual sums | 0 | 8 T d | 0 |

SwiGLU reads its input once for gate and up (one fused matrix) and writes d: 2 d; gate and up are
written, their product is read back: 3 f; the elementwise product reads two f and writes one: 3 f.
Norms and sums: two norms read and write d each, two sums read two d and write one; fused norm and
sum save a third of that, so 8 d a layer is a middle count.

Once: the embedding is a lookup, 2 T d (read and write); the head is 2 T d V FLOPs, T d + T V
activations and 2 T V more for the normaliser and its gradient; weights d V.

Training takes three times the forward pass (forward, gradient of inputs, gradient of weights);
with activation checkpointing a layer's forward pass is done twice: four times. The head is never
checkpointed.
"""

from dataclasses import dataclass

from fitting.costs.shape import MLP_MATRICES, Setup, Shape

# Elements that an optimizer reads and writes per parameter and step. AdamW: reads weight,
# gradient, two moments; writes weight and two moments. Muon and SGD keep one moment.
OPTIMIZER_COPIES = {"adamw": 7, "muon": 5, "sgd": 5}
# Newton-Schulz steps of Muon (Jordan et al. 2024, github.com/KellerJordan/Muon).
MUON_STEPS = 5


@dataclass(frozen=True)
class Op:
    """A kind of work of the forward pass, all layers together. flops; activations and weights in
    elements moved; per_layer: it is one of the layers' (and so checkpointed with them)."""

    name: str
    flops: float
    activations: float
    weights: float
    per_layer: bool = True


def forward_ops(
    shape: Shape, tokens: float, *, attention: str = "flash", causal: bool = False
) -> tuple[Op, ...]:
    """The forward pass of `tokens` tokens; see the module's table for every entry."""
    T, s, d, n = float(tokens), shape.seq_len, shape.d_model, shape.n_layers
    h, k, e, f, V = shape.n_heads, shape.kv_heads, shape.head_width, shape.d_ff, shape.vocab_size
    projected = (h + 2 * k) * e
    scores = 4.0 * T * s * h * e * (0.5 if causal else 1.0)
    if MLP_MATRICES[shape.mlp] == 3:
        mlp = Op("mlp", n * 6 * T * d * f, n * T * (2 * d + 6 * f), n * 3.0 * d * f)
    else:
        mlp = Op("mlp", n * 4 * T * d * f, n * T * (2 * d + 4 * f), n * 2.0 * d * f)
    kept = 4.0 * T * s * h if attention == "unfused" else 0.0
    return (
        Op("embedding", 0.0, 2 * T * d, 0.0, per_layer=False),
        Op("qkv", n * 2 * T * d * projected, n * T * (d + projected), float(n * d * projected)),
        Op("attention", n * scores, n * (T * (2 * h + 2 * k) * e + kept), 0.0),
        Op("output", n * 2 * T * h * e * d, n * T * (h * e + d), float(n * h * e * d)),
        mlp,
        Op("norms", 0.0, n * 8 * T * d, 0.0),
        Op("head", 2 * T * d * V, T * d + 3 * T * V, float(d * V), per_layer=False),
    )


@dataclass(frozen=True)
class StepCounts:
    """One training step, over all GPUs.

    flops: matrix products of the passes and of the optimizer. copies: activations moved, elements.
    layers_gpus: layers x micro-batches (one a GPU unless said): what is paid per kernel launched.
    params_gpus: N x GPUs: the optimizer's pass and the all-reduce, paid by every GPU.
    weights: elements of weights moved, 3 (4 if checkpointed) a micro-batch.
    optimizer_copies: elements that the optimizer moves, on one GPU. all_reduce_bytes: sent by one
    GPU, 2 (G - 1) / G N values in a ring (Patarasuk & Yuan 2009). ops: the passes, trained.
    """

    flops: float
    copies: float
    layers_gpus: float
    params_gpus: float
    weights: float
    optimizer_copies: float
    all_reduce_bytes: float
    ops: tuple[Op, ...]

    def feature(self, name: str) -> float:
        """A regressor of the step-time model, by name."""
        return float(getattr(self, name))


def passes(setup: Setup, op: Op) -> float:
    """How many forward passes' worth of an op a step takes: 3, or 4 where it is checkpointed."""
    return 4.0 if setup.checkpointing and op.per_layer else 3.0


def count_step(shape: Shape, setup: Setup) -> StepCounts:
    """The step's counts, from the shape alone."""
    forward = forward_ops(shape, setup.batch_tokens, attention=setup.attention, causal=setup.causal)
    micro = setup.micro_batches
    trained = tuple(
        Op(
            op.name, passes(setup, op) * op.flops, passes(setup, op) * op.activations,
            passes(setup, op) * op.weights * micro, op.per_layer,
        )
        for op in forward
    )  # fmt: skip
    n_params = shape.parameters()
    g = setup.gpus
    return StepCounts(
        flops=sum(op.flops for op in trained) + g * optimizer_flops(shape, setup.optimizer),
        copies=sum(op.activations for op in trained),
        layers_gpus=float(shape.n_layers * micro),
        params_gpus=float(n_params * g),
        weights=sum(op.weights for op in trained),
        optimizer_copies=float(OPTIMIZER_COPIES[setup.optimizer] * n_params),
        all_reduce_bytes=2.0 * (g - 1) / g * n_params * setup.compute_bytes,
        ops=trained,
    )


def optimizer_flops(shape: Shape, optimizer: str) -> float:
    """FLOPs of the update on one GPU that are matrix products: none for AdamW and SGD.

    Muon orthogonalises every block matrix X (a x b, a <= b) by MUON_STEPS Newton-Schulz steps,
    each A = X X' (2 a^2 b), A A (2 a^3) and (.) X (2 a^2 b). Beside tiny batches this is no small
    thing: 30 d^3 against 6 T d^2 for a square matrix.
    """
    if optimizer != "muon":
        return 0.0
    d, f = shape.d_model, shape.d_ff
    heads, kv = shape.n_heads * shape.head_width, shape.kv_heads * shape.head_width
    matrices = [(d, heads), (d, kv), (d, kv), (heads, d)]
    matrices += [(d, f)] * MLP_MATRICES[shape.mlp]
    total = 0.0
    for one, other in matrices:
        a, b = min(one, other), max(one, other)
        total += MUON_STEPS * (4.0 * a * a * b + 2.0 * a**3)
    return shape.n_layers * total
