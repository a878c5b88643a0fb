"""A block in few, large operations, with gradients by hand: how a CPU runs small models in float32.

At a width below a few hundred, a step of 1,024 tokens spends most of its time between the matrix
products: dispatching small operations, in autograd's book-keeping, and in loops over short rows.
Here each part of the model is one node of autograd's graph, and the stream lies *positions last*:
norms, rotations and gates then run along a thousand positions, where the usual layout would stop
after half a head (4 to 24 numbers). Tests hold every function against model.py's
plain formulas and its gradients against finite differences; decision 0094 has the measurements.

    x       the stream, (width, positions); positions = sequences * length, one after the other
    g_name  gradient of the loss with respect to `name`
    scale   of what a layer adds to the stream, see model.py
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from workers.proxy.config import ModelConfig

EPS = 1e-6  # of RMSNorm, as in model.py
QUERIES = 64  # at a time: what the causal mask leaves out is computed within such blocks only
SMALLEST = 1e-30  # of a probability whose logarithm is taken: far from where floats lose digits
LONGEST = 512  # positions: attention's weights are kept for the way back, length^2 / 2 of them


def suits(config: ModelConfig) -> bool:
    """Whether all of a model can be run by what is here."""
    return config.mlp == "swiglu" and config.qk_norm and config.seq_len <= LONGEST


def normalise(x: Tensor, factor: float = 1.0, groups: int = 1) -> tuple[Tensor, Tensor]:
    """n = r x with r = factor / sqrt(mean(x^2) + EPS) of each position and group of rows.

    x, n (groups * rows, positions), the rows of a group next to each other; r (groups, positions).
    """
    r = (averaging(groups, len(x), x.dtype) @ (x * x)).add_(EPS).rsqrt_()
    if factor != 1.0:
        r *= factor
    if groups == 1:
        return x * r, r
    return (x.view(groups, -1, x.shape[1]) * r.unsqueeze(1)).view(x.shape), r


def normalise_gradient(g_n: Tensor, n: Tensor, r: Tensor, factor: float = 1.0) -> Tensor:
    """g_x / r of `normalise`, of one group.

    dr/dx_j = -r^3 x_j / (width factor^2), so g_x = r (g_n - n mean(g_n n) / factor^2).
    """
    along = averaging(1, len(n), n.dtype) @ (g_n * n)
    return torch.addcmul(g_n, n, along, value=-(factor**-2))


@functools.lru_cache(maxsize=32)
def averaging(groups: int, rows: int, dtype: torch.dtype) -> Tensor:
    """(groups, rows): times (rows, positions) it gives the mean of each group's rows. Quicker than
    a reduction."""
    each = torch.eye(groups, dtype=dtype).mul_(groups / rows)
    return each.repeat_interleave(rows // groups, dim=1)


class _Embed(Function):
    """rms_norm(embedding[ids]), turned positions last.

    A table with fewer rows than there are positions is normalised before it is looked up.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, ids: Tensor) -> Tensor:
        ctx.vocabulary = len(embedding)
        ctx.whole = len(embedding) <= len(ids)
        rows = embedding if ctx.whole else embedding.index_select(0, ids)
        r = rows.square().mean(1, keepdim=True).add_(EPS).rsqrt_()
        n = rows * r
        ctx.save_for_backward(ids, n, r)
        return (n.index_select(0, ids) if ctx.whole else n).t().contiguous()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        ids, n, r = ctx.saved_tensors

        def gathered(rows: Tensor) -> Tensor:
            return rows.new_zeros(ctx.vocabulary, rows.shape[1]).index_add_(0, ids, rows)

        g_n = g.t().contiguous()
        if ctx.whole:
            g_n = gathered(g_n)
        along = (g_n * n).mean(1, keepdim=True)
        g_rows = torch.addcmul(g_n, n, along, value=-1.0).mul_(r)
        return g_rows if ctx.whole else gathered(g_rows), None


def turn(n: Tensor, gain: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """`out` = the pairs (a, b) of gain * n, turned: a cos - b sin, a sin + b cos.

    n, out (2, heads, head_dim, sequences, length); gain (2, 1, head_dim, 1, 1); cos, sin
    (head_dim / 2, 1, length). The gains are multiplied into cosine and sine, which are smaller.
    """
    (a, b), (gain_a, gain_b), (out_a, out_b) = (each.chunk(2, 2) for each in (n, gain, out))
    torch.mul(a, gain_a * cos, out=out_a).addcmul_(b, gain_b * sin, value=-1.0)
    torch.mul(a, gain_a * sin, out=out_b).addcmul_(b, gain_b * cos)


def turn_back(g: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """`out` = the pairs of `g`, turned the other way: the gradient of `turn`, gains apart."""
    (a, b), (out_a, out_b) = g.chunk(2, 2), out.chunk(2, 2)
    torch.mul(a, cos, out=out_a).addcmul_(b, sin)
    torch.mul(b, cos, out=out_b).addcmul_(a, sin, value=-1.0)


@functools.lru_cache(maxsize=8)
def hidden_from(queries: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of `queries` with one another: -inf for the keys after each."""
    return torch.full((queries, queries), float("-inf"), dtype=dtype).triu_(1)


@functools.lru_cache(maxsize=8)
def softening(head_dim: int, dtype: torch.dtype) -> Tensor:
    """(2, 1, 1): what queries, and keys, are multiplied with before their products."""
    return torch.tensor([head_dim**-0.5, 1.0], dtype=dtype).view(2, 1, 1)


class _Attend(Function):
    """x + scale * out @ attention(rms_norm(x)); model.Attention and the sum around it.

    Of a block of queries, with weights p = softmax(q^T k) over the keys until its end and
    y = v p^T:  g_v = g_y p,  g_p = g_y^T v,  g_s = p (g_p - sum(p g_p)),  g_q = k g_s^T,
    g_k = q g_s. Queries, keys, values are (sequences * heads, head_dim, length). The
    1 / sqrt(head_dim) of attention is multiplied into the gain of the queries.

    Of the norm of queries and keys with its gains, w = gain * n, and w' what `turn_back` gives:
    g_gain = sum(w' n) and g_x = r (w' gain - n mean(w' gain n)).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        qkv_weight: Tensor,
        gain: Tensor,
        out_weight: Tensor,
        cos: Tensor,
        sin: Tensor,
        length: int,
        scale: float,
    ) -> Tensor:
        width, positions = x.shape
        head_dim = gain.shape[-1]
        heads, sequences = width // head_dim, positions // length
        split = heads, head_dim, sequences, length
        gain = (gain * softening(head_dim, gain.dtype)).view(2, 1, head_dim, 1, 1)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        n, r = normalise(x)
        qkv = qkv_weight @ n
        n_qk, r_qk = normalise(qkv[: 2 * width], groups=2 * heads)
        by_head = x.new_empty(3, sequences, heads, head_dim, length)
        by_position = by_head.permute(0, 2, 3, 1, 4)  # a view, indexed as qkv is
        turn(n_qk.view(2, *split), gain, cos, sin, out=by_position[:2])
        by_position[2].copy_(qkv[2 * width :].view(split))
        q, k, v = by_head.flatten(1, 2).unbind()
        y = torch.empty_like(x)
        y_by_head = y.view(split).permute(2, 0, 1, 3)
        weights = []
        for begin in range(0, length, QUERIES):
            end = min(begin + QUERIES, length)
            scores = torch.bmm(q[..., begin:end].mT, k[..., :end])
            scores[..., begin:].add_(hidden_from(end - begin, x.dtype))
            weights.append(torch._softmax(scores, -1, False))
            mixed = torch.bmm(v[..., :end], weights[-1].mT)
            y_by_head[..., begin:end] = mixed.view(sequences, heads, head_dim, -1)
        ctx.scale = scale
        ctx.save_for_backward(
            qkv_weight, gain, out_weight, cos, sin, n, r, n_qk, r_qk, by_head, y, *weights
        )
        return torch.addmm(x, out_weight, y, alpha=scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        qkv_weight, gain, out_weight, cos, sin, n, r, n_qk, r_qk, by_head, y, *weights = (
            ctx.saved_tensors
        )
        _, sequences, heads, head_dim, length = by_head.shape
        split, positions = (heads, head_dim, sequences, length), sequences * length
        q, k, v = by_head.flatten(1, 2).unbind()
        g_y = product(out_weight.t(), g, ctx.scale).view(split)
        g_out_weight = product(g, y.t(), ctx.scale)

        g_y = g_y.permute(2, 0, 1, 3).reshape(sequences * heads, head_dim, length)
        g_by_head = torch.empty_like(by_head)
        g_q, g_k, g_v = g_by_head.flatten(1, 2).unbind()
        for i, p in reversed(list(enumerate(weights))):  # the first that is seen meets all keys
            end = p.shape[-1]
            part = slice(i * QUERIES, end)
            g_y_part = g_y[..., part]
            g_p = torch.bmm(g_y_part.mT, v[..., :end])
            g_s = torch._softmax_backward_data(g_p, p, -1, p.dtype)
            g_q[..., part] = torch.bmm(k[..., :end], g_s.mT)
            if end == length:
                torch.bmm(g_y_part, p, out=g_v)
                torch.bmm(q[..., part], g_s, out=g_k)
            else:
                g_v[..., :end] += torch.bmm(g_y_part, p)
                g_k[..., :end] += torch.bmm(q[..., part], g_s)

        g_by_position = g_by_head.permute(0, 2, 3, 1, 4)
        width = len(n)
        g_qkv = n.new_empty(3 * width, positions)
        g_qkv[2 * width :].view(split).copy_(g_by_position[2])
        g_qk = g_qkv[: 2 * width]
        turn_back(g_by_position[:2], cos, sin, out=g_qk.view(2, *split))
        along = g_qk * n_qk
        g_gain = along.view(2, heads, head_dim, positions).sum((1, 3)).unsqueeze(1)
        g_gain *= softening(head_dim, g_gain.dtype)
        rows = gain.expand(2, heads, head_dim, 1, 1).reshape(-1)  # of queries, then keys
        along = (averaging(2 * heads, 2 * width, n.dtype) * rows) @ along
        by_group = g_qk.view(2 * heads, head_dim, positions)
        by_group.mul_(rows.view(2 * heads, head_dim, 1))
        by_group.addcmul_(n_qk.view(by_group.shape), along.unsqueeze(1), value=-1.0)
        by_group.mul_(r_qk.unsqueeze(1))

        g_n = qkv_weight.t() @ g_qkv
        g_x = torch.addcmul(g, normalise_gradient(g_n, n, r), r)
        return g_x, g_qkv @ n.t(), g_gain, g_out_weight, None, None, None, None


class _Gate(Function):
    """x + scale * down @ (silu(gate) * up), with (gate, up) = up_weight @ rms_norm(x): SwiGLU.

    With s = sigmoid(gate), a = gate s = silu(gate) and hidden = a up: da/dgate = a + s (1 - a), so
    dhidden/dgate = hidden + s (up - hidden), which is one operation, and dhidden/dup = a.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up_weight: Tensor, down_weight: Tensor, scale: float
    ) -> Tensor:
        n, r = normalise(x)
        gate, up = (up_weight @ n).chunk(2)
        s = torch.sigmoid(gate)
        a = gate * s
        hidden = a * up
        ctx.scale = scale
        ctx.save_for_backward(up_weight, down_weight, n, r, s, a, up, hidden)
        return torch.addmm(x, down_weight, hidden, alpha=scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        up_weight, down_weight, n, r, s, a, up, hidden = ctx.saved_tensors
        g_hidden = product(down_weight.t(), g, ctx.scale)
        g_down_weight = product(g, hidden.t(), ctx.scale)
        g_both = up.new_empty(2 * len(up), up.shape[1])
        g_gate, g_up = g_both.chunk(2)
        torch.mul(g_hidden, a, out=g_up)
        torch.lerp(hidden, up, s, out=g_gate).mul_(g_hidden)
        g_n = up_weight.t() @ g_both
        g_x = torch.addcmul(g, normalise_gradient(g_n, n, r), r)
        return g_x, g_both @ n.t(), g_down_weight, None


class _Head(Function):
    """(loss, log Z) of every position, with logits = factor * weight @ rms_norm(x).

    With p = softmax(logits), the loss is -log p[target] and log Z = logits[target] + loss. Where a
    p[target] is too small to be held, log Z = max(logits) - log max(p), which cannot underflow.

    d(log Z)/dlogits = p and d(loss)/dlogits = p - 1[target], called excess, so that g_logits is
    excess g_loss + p g_log_z. Where log Z has no gradient, the rows' g_loss are multiplied in
    where there are `width` numbers a position, not `vocabulary`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, factor: float
    ) -> tuple[Tensor, Tensor]:
        n, r = normalise(x, factor)
        logits = n.t() @ weight.t()
        chosen = targets.unsqueeze(1)
        p = torch._softmax(logits, -1, False)
        p_target, logit = p.gather(1, chosen), logits.gather(1, chosen).squeeze(1)
        if float(p_target.amin()) > SMALLEST:
            loss = p_target.squeeze(1).log().neg_()
            log_z = logit + loss
        else:
            log_z = logits.amax(1).sub_(p.amax(1).log_())
            loss = log_z - logit
        excess = p.scatter_(1, chosen, p_target - 1.0)
        ctx.factor = factor
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, chosen, n, r, excess)
        return loss, log_z

    @staticmethod
    def backward(
        ctx: Any, g_loss: Tensor | None, g_log_z: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        weight, chosen, n, r, excess = ctx.saved_tensors
        g = torch.zeros_like(r[0]) if g_loss is None else g_loss
        if g_log_z is not None:
            excess = excess * (g + g_log_z).unsqueeze(1)
            excess.scatter_add_(1, chosen, g_log_z.unsqueeze(1))
            g = torch.ones_like(g)
        g_n = weight.t() @ excess.t()
        g_weight = excess.t() @ (n * g).t()
        g_x = normalise_gradient(g_n, n, r, ctx.factor).mul_(r * g)
        return g_x, g_weight, None, None


def product(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """alpha a @ b, without a second pass over the result."""
    if alpha == 1.0:
        return torch.mm(a, b)
    return torch.addmm(a.new_empty(1, 1), a, b, beta=0, alpha=alpha)


def embed(embedding: Tensor, ids: Tensor) -> Tensor:
    """ids (positions,)."""
    out: Tensor = _Embed.apply(embedding, ids)  # type: ignore[no-untyped-call]
    return out


def attend(
    x: Tensor,
    qkv_weight: Tensor,
    gain: Tensor | None,
    out_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    length: int,
    scale: float,
) -> Tensor:
    """`gain` (2, 1, head_dim) must not be None, see `suits`; cos, sin (head_dim / 2, length)."""
    out: Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        x, qkv_weight, gain, out_weight, cos, sin, length, scale
    )
    return out


def gated_mlp(x: Tensor, up_weight: Tensor, down_weight: Tensor, scale: float) -> Tensor:
    out: Tensor = _Gate.apply(x, up_weight, down_weight, scale)  # type: ignore[no-untyped-call]
    return out


def head(x: Tensor, weight: Tensor, targets: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Two of (positions,), as targets are."""
    both: tuple[Tensor, Tensor] = _Head.apply(  # type: ignore[no-untyped-call]
        x, weight, targets, factor
    )
    return both
