"""across: what the sublayers of a model do together with other ranks where each holds a part of every one.

After each sublayer the ranks add up their summands (``leave``), so that the residual stream is whole on every rank; in
the backward the gradient of each sublayer's input is added up (``enter``). Both are one all-reduce, Megatron-LM's g and
f (arXiv 1909.08053, section 3). In a decode step they are kernels on the current stream, so a graph captures them.

The embedding is whole on every rank. Of the head each rank multiplies by its own rows, and the logits are gathered. In
training each rank takes its own tokens to the loss instead, and the head's gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override


class Across:
    """The ranks that share every sublayer of a model.

    Args:
        rank: which of them this process is.
        size: how many they are.
        group: their process group; None is the one of all ranks.

    ``silent`` leaves the transfers out, so that a step without them can be timed. Its results are then wrong.
    """

    def __init__(self, rank: int, size: int, group: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self.group = group
        self.silent = False

    def add(self, x: Tensor) -> Tensor:
        """The sum of all ranks' tensors, in place."""
        if not self.silent:
            dist.all_reduce(x, group=self.group)
        return x

    def enter(self, x: Tensor) -> Tensor:
        """``x``, whose gradient is the sum of all ranks' gradients."""
        if not torch.is_grad_enabled() or not x.requires_grad:
            return x
        apply: Callable[..., Tensor] = _Enter.apply
        return apply(x, self)

    def leave(self, x: Tensor) -> Tensor:
        """The sum of all ranks' summands; the gradient of each is that of the sum."""
        if not torch.is_grad_enabled():
            return self.add(x.contiguous())
        apply: Callable[..., Tensor] = _Leave.apply
        return apply(x, self)

    def total(self, x: Tensor) -> Tensor:
        """The sum of all ranks' summands, where each rank goes on with it differently: gradients are added up too."""
        return self.enter(self.leave(x))

    def mean_square(self, x: Tensor, dim: int = -1) -> Tensor:
        """The mean of squares over the channels of all ranks (..., 1), in float32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.total(wide.square().sum(dim, keepdim=True)) / (x.shape[dim] * self.size)

    def normed(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The RMS norm of channels of which each rank has a part, by this rank's part of the weights."""
        scale = torch.rsqrt(self.mean_square(x) + eps)
        return (x * scale).to(x.dtype) * weight

    def logits(self, hidden: Tensor, weight_VD: Tensor) -> Tensor:
        """Logits (B, V) of all words on every rank, each of which multiplies by its own rows of the head."""
        local = F.linear(hidden, self.rows(weight_VD))
        return self.gather(local, weight_VD.shape[0])

    def rows(self, weight_VD: Tensor) -> Tensor:
        """The rows of the head that this rank multiplies by: equal parts, of which the last may be shorter."""
        each = self.words(weight_VD.shape[0])
        return weight_VD[self.rank * each : (self.rank + 1) * each]

    def words(self, vocabulary: int) -> int:
        """Rows of the head on each rank but the last ones."""
        return -(-vocabulary // self.size)

    def gather(self, local_BV: Tensor, vocabulary: int) -> Tensor:
        """The ranks' logits side by side (B, vocabulary)."""
        each = self.words(vocabulary)
        padded = F.pad(local_BV, (0, each - local_BV.shape[-1])).contiguous()
        parts = padded.new_empty(self.size * padded.shape[0], each)
        if self.silent:
            parts.zero_()
        else:
            all_gather(parts, padded, self.group)
        side_by_side: Tensor = torch.unflatten(parts, 0, (self.size, -1)).transpose(0, 1).flatten(1)
        return side_by_side[:, :vocabulary]

    def loss(self, loss_of: Callable[..., Tensor], hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
        """The mean loss of all tokens, of which each rank computes its own part."""
        part = slice(*(len(target_N) * index // self.size for index in (self.rank, self.rank + 1)))
        mine = loss_of(self.enter(hidden_ND)[part], self.enter(weight_VD), target_N[part])
        return self.leave(mine * (len(target_N[part]) / len(target_N)))


class _Enter(torch.autograd.Function):
    """Identity whose backward adds up the gradients of all ranks."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, across: Across) -> Tensor:
        ctx.across = across
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.across.add(gradient.contiguous().clone()), None


class _Leave(torch.autograd.Function):
    """The sum over all ranks, whose backward is the identity."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, across: Across) -> Tensor:
        return across.add(x.contiguous().clone())

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""``all_gather(output, input, group)`` under the name that this version of torch does not warn of."""
reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""``reduce_scatter(output, input, op, group)``, likewise."""
