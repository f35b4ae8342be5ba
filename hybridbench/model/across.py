"""across: what the sublayers of a model do together with other ranks where each holds a part of every one.

After each sublayer the ranks add up their summands (``leave``), so that the residual stream is whole on every rank; in
the backward the gradient of each sublayer's input is added up (``enter``). Both are one all-reduce, Megatron-LM's g and
f (arXiv 1909.08053, section 3). In a decode step they are kernels on the current stream, so a graph captures them.

Of the embedding, which is the head too, each rank holds its own rows (``arch.held.held_words``); the last ranks' may
end in padding. A token's row is on one rank, so ranks add up what they find. Each rank multiplies by its own rows, and
the logits stay where they are made: to pick a token, ranks tell each other the best of their words. For the loss the
rows are gathered, each rank takes its own tokens to it, and the gradient of all rows is added up and scattered: so any
kernel of the loss can run.
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

from hybridbench.arch.held import held_words


class Across:
    """The ranks that share every sublayer of a model.

    Args:
        rank: which of them this process is.
        size: how many they are.
        vocab_size: words of the whole model.
        group: their process group; None is the one of all ranks.

    ``silent`` leaves the transfers out, so that a step without them can be timed. Its results are then wrong.
    """

    def __init__(self, rank: int, size: int, vocab_size: int, group: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self.vocab_size = vocab_size
        self.first_word, self.last_word = held_words(vocab_size, size, rank)
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

    def embed(self, token: Tensor, rows_VD: Tensor) -> Tensor:
        """The embedding (..., D) of tokens, of whose rows this rank has its own."""
        place = token - self.first_word
        mine = (place >= 0) & (token < self.last_word)
        found = F.embedding(place.where(mine, 0), rows_VD)
        return self.leave(found.where(mine.unsqueeze(-1), 0))

    def own_rows(self, rows_VD: Tensor) -> Tensor:
        """The rows of the head that this rank has, without those that fill up the last ranks'."""
        return rows_VD[: self.last_word - self.first_word]

    def pick(self, local_BV: Tensor) -> Tensor:
        """The word of the largest logit (B), the first of equals, where this rank has the logits of its own words."""
        wide = torch.promote_types(local_BV.dtype, torch.float32)  # exact for logits, and for every word's number
        if self.first_word == self.last_word:
            local_BV = local_BV.new_full((len(local_BV), 1), float("-inf"))
        best_B = local_BV.argmax(-1, keepdim=True)
        mine = torch.cat((local_BV.gather(-1, best_B).to(wide), (best_B + self.first_word).to(wide)), -1)
        logit_RB, word_RB = self._each(mine.unsqueeze(0)).unbind(-1)
        return word_RB.gather(0, logit_RB.argmax(0, keepdim=True)).squeeze(0).long()

    def _each(self, mine: Tensor) -> Tensor:
        """What each rank has, one after the other along the first dimension."""
        every = mine.new_empty(self.size * mine.shape[0], *mine.shape[1:])
        if self.silent:
            every.zero_()[self.rank * mine.shape[0] :][: mine.shape[0]] = mine
        else:
            all_gather(every, mine, self.group)
        return every

    def whole(self, rows_VD: Tensor) -> Tensor:
        """All rows of the head (V, D); the gradient of this rank's is the sum of all ranks'."""
        apply: Callable[..., Tensor] = _Whole.apply
        return apply(rows_VD, self)

    def loss(self, loss_of: Callable[..., Tensor], hidden_ND: Tensor, rows_VD: Tensor, target_N: Tensor) -> Tensor:
        """The mean loss of all tokens, of which each rank computes its own part."""
        part = slice(*(len(target_N) * index // self.size for index in (self.rank, self.rank + 1)))
        mine = loss_of(self.enter(hidden_ND)[part], self.whole(rows_VD), target_N[part])
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


class _Whole(torch.autograd.Function):
    """All ranks' rows, whose backward adds up the ranks' gradients of each."""

    @staticmethod
    @override
    def forward(ctx: Any, mine: Tensor, across: Across) -> Tensor:
        ctx.across, ctx.held = across, len(mine)
        return across._each(mine.contiguous())[: across.vocab_size]

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        across, held = ctx.across, ctx.held
        every = F.pad(gradient, (0, 0, 0, across.size * held - len(gradient))).contiguous()
        if across.silent:
            return every[across.rank * held :][:held], None
        mine = gradient.new_empty(held, *gradient.shape[1:])
        reduce_scatter(mine, every, group=across.group)
        return mine, None


all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""``all_gather(output, input, group)`` under the name that this version of torch does not warn of."""
reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""``reduce_scatter(output, input, op, group)``, likewise."""
