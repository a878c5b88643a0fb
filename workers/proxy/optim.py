"""Muon on the block matrices with AdamW elsewhere, or AdamW on all, with muP-style width transfer.

Which rule holds for which parameter, at width d and base width d0 (`mup_base_d_model`), peak rate
lr given for d0:

| parameters            | muon                                 | adamw                         |
|-----------------------|--------------------------------------|-------------------------------|
| block matrices        | lr * 0.2 sqrt(d0) * sqrt(out/in) * O | lr * d0/d, decay * d/d0       |
| embedding, head, gains| AdamW at lr, no decay                | the same                      |
| logits                | times d0/d                           | the same                      |

With `base_n_layers` L0, at depth L what a layer adds is multiplied by L0/L (model.py), the rates
stay, and AdamW's eps of the block matrices is multiplied by L0/L too: CompleteP, table 1 of Dey et
al. 2025, arXiv 2505.01618. Gradients there shrink as 1/L.

O is the momentum made orthogonal. sqrt(out/in) keeps the size of a layer's change per step the
same at every width (Yang et al. 2023, arXiv 2310.17813); 0.2 sqrt(d0) makes the update of a square
matrix at the base width as large as AdamW's, so that one lr serves both (Liu et al. 2025, arXiv
2502.16982). AdamW's column is table 8 of Yang et al. 2022, arXiv 2203.03466.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workers.proxy.config import OptimizerConfig
from workers.proxy.distributed import assign, is_sharded, mine
from workers.proxy.model import Transformer

# Quintic iteration of Keller Jordan, kellerjordan.github.io/posts/muon: singular values -> ~1
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def logit_scale(config: OptimizerConfig, d_model: int) -> float:
    return config.mup_base_d_model / d_model


@torch.no_grad()
def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Replace the singular values of each (..., rows, cols), rows <= cols, by about 1."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a, alpha=1.0)
    return x.to(matrices.dtype)


class MuonGroup:
    """All block matrices of one shape, updated at once: a few batched products for all layers.

    A fused matrix (queries, keys and values; gate and up) is cut into the matrices that it holds:
    each is made orthogonal for itself. Matrices taller than wide are handled transposed.
    """

    def __init__(self, matrices: list[Tensor], scale: float, config: OptimizerConfig) -> None:
        self.matrices, self.scale, self.config = matrices, scale, config
        self.momentum = torch.zeros_like(torch.stack(matrices))

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        beta = self.config.momentum
        gradient = torch.stack(gradients)
        self.momentum.lerp_(gradient, 1 - beta)
        nesterov = gradient.lerp_(self.momentum, beta)
        dtype = torch.bfloat16 if nesterov.is_cuda else torch.float32
        tall = nesterov.shape[-2] > nesterov.shape[-1]
        update = orthogonalise(nesterov.mT if tall else nesterov, dtype)
        updates = (update.mT if tall else update).unbind(0)
        torch._foreach_mul_(self.matrices, 1 - lr * self.config.weight_decay)
        torch._foreach_add_(self.matrices, updates, alpha=-lr * self.scale)


class AdamW:
    """torch's fused AdamW, its kernel called without `torch.optim`: the same bits.

    Making a `torch.optim.Optimizer` imports torch's compiler and sympy, 2 CPU seconds and as much
    as torch itself: more than many a proxy's first hundred steps.

    groups: {"params", "lr_scale", "weight_decay"} and, where it is not the config's, "eps".
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimizerConfig) -> None:
        self._betas = config.betas
        self._groups = [{"eps": config.eps, **group} for group in groups]
        for group in self._groups:
            parameters = group["params"]
            group["exp_avg"] = [torch.zeros_like(p) for p in parameters]
            group["exp_avg_sq"] = [torch.zeros_like(p) for p in parameters]
            group["step"] = [torch.zeros((), device=p.device) for p in parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Every parameter must have a gradient."""
        for group in self._groups:
            torch._foreach_add_(group["step"], 1)
            torch._fused_adamw_(
                [mine(p.detach()) for p in group["params"]],
                [mine(p.grad) for p in group["params"]],
                [mine(mean) for mean in group["exp_avg"]],
                [mine(square) for square in group["exp_avg_sq"]],
                [],
                group["step"],
                lr=lr * group["lr_scale"],
                beta1=self._betas[0],
                beta2=self._betas[1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """Named as torch names them: parameters numbered through the groups."""
        tensors: dict[str, Tensor] = {}
        number = itertools.count()
        for group in self._groups:
            for step, mean, square in zip(
                group["step"], group["exp_avg"], group["exp_avg_sq"], strict=True
            ):
                i = next(number)
                tensors[f"{i}.step"] = step
                tensors[f"{i}.exp_avg"], tensors[f"{i}.exp_avg_sq"] = mean, square
        return tensors


class Optimizer:
    """Clips, then steps every parameter of `model`; keeps its state as named tensors.

    Nothing here waits for the device: the gradient norm comes back as a tensor.
    """

    def __init__(self, model: Transformer, config: OptimizerConfig) -> None:
        self.config = config
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        width = model.config.d_model / config.mup_base_d_model
        matrices = list(_matrices(model))
        hidden = {id(weight) for weight, _ in matrices}
        others = [p for p in self.parameters if id(p) not in hidden]
        groups: list[dict[str, Any]] = [{"params": others, "lr_scale": 1.0, "weight_decay": 0.0}]
        self.muon: list[MuonGroup] = []
        self._shapes: list[list[tuple[Tensor, int, int]]] = []
        if config.name == "muon":
            self._build_muon(matrices)
        else:
            decay = config.weight_decay * width
            hidden_weights = [weight for weight, _ in matrices]
            eps = config.eps * (config.base_n_layers / model.config.n_layers or 1.0)
            groups.append(
                {
                    "params": hidden_weights,
                    "lr_scale": 1 / width,
                    "weight_decay": decay,
                    "eps": eps,
                }
            )
        self.adamw = AdamW(groups, config)

    def _build_muon(self, matrices: list[tuple[Tensor, int]]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, int, int]]] = {}
        for weight, pieces in matrices:
            shape = (weight.shape[0] // pieces, weight.shape[1])
            by_shape.setdefault(shape, []).extend((weight, pieces, i) for i in range(pieces))
        for (rows, cols), members in by_shape.items():
            scale = 0.2 * math.sqrt(self.config.mup_base_d_model) * math.sqrt(rows / cols)
            views = [weight.detach().chunk(pieces)[i] for weight, pieces, i in members]
            self.muon.append(MuonGroup(views, scale, self.config))
            self._shapes.append(members)

    @torch.no_grad()
    def step(self, lr: float) -> tuple[Tensor, Tensor]:
        """One update at rate `lr` (peak times schedule). The gradients' norm before clipping, and
        how many of their elements are not finite."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        sharded = is_sharded(gradients[0])
        gradients = [mine(gradient) for gradient in gradients]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        bad = count_nonfinite(gradients, norm)
        if sharded:  # every process knows a part of both
            parts = torch.stack((norm.square(), bad))
            dist.all_reduce(parts)
            norm, bad = parts[0].sqrt(), parts[1]
        # a CPU may look: a factor of 1 changes nothing
        if self.config.clip > 0 and (norm.is_cuda or not float(norm) + 1e-6 <= self.config.clip):
            factor = (self.config.clip / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)
        for group, members in zip(self.muon, self._shapes, strict=True):
            pieces = [w.grad.chunk(n)[i] for w, n, i in members if w.grad is not None]
            group.step(pieces, lr)
        self.adamw.step(lr)
        return norm, bad

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        momenta = {f"muon.{i}.momentum": g.momentum for i, g in enumerate(self.muon)}
        return momenta | {f"adamw.{name}": value for name, value in self.adamw.state().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave. Raises KeyError when the optimizer differs."""
        stored = {name for name in tensors if name.startswith("muon.")}
        if stored != {f"muon.{i}.momentum" for i in range(len(self.muon))}:
            raise KeyError(f"the momentum of {len(stored)} groups for {len(self.muon)}")
        for i, group in enumerate(self.muon):
            group.momentum.copy_(tensors[f"muon.{i}.momentum"])
        for name, value in self.adamw.state().items():
            assign(value, tensors[f"adamw.{name}"])


def count_nonfinite(tensors: list[Tensor], norm: Tensor) -> Tensor:
    """Elements that are NaN or infinite, as a float; `norm` is that of all together.

    On a CPU it costs nothing to look at the norm first. On a GPU looking would wait, so all are
    laid end to end and counted: a pass over the gradients, when activations are gone already.
    """
    if not norm.is_cuda and math.isfinite(float(norm)):
        return torch.zeros_like(norm)
    every = torch.cat([tensor.flatten() for tensor in tensors])
    return every.numel() - every.isfinite().sum(dtype=norm.dtype)


def _matrices(model: Transformer) -> Iterator[tuple[Tensor, int]]:
    """The block matrices, each with the number of matrices that are fused in it."""
    gate_and_up = 2 if model.config.mlp == "swiglu" else 1
    for block in model.layers:
        yield block.attention.qkv.weight, 3
        yield block.attention.out.weight, 1
        yield block.mlp.up.weight, gate_and_up
        yield block.mlp.down.weight, 1
