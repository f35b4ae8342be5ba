"""chunked: the head and its cross entropy without the whole matrix of logits, in plain PyTorch or with one kernel.

At 128,256 words the logits of 8,192 tokens take 4.2 GB in float32, and so does their gradient. The backends here
process the tokens in chunks and compute the gradients in the forward, while a chunk's logits exist. The backward then
only scales the stored gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridbench.kernels.backend import Implementation, imported, needs_cuda_and_float32
from hybridbench.sizes import loss_rows, rows_within

CHUNK_BYTES = 128 << 20
"""Bytes that the float32 logits of one chunk may take."""


def chunk_rows(n_tokens: int, vocabulary: int) -> int:
    """Tokens per chunk: as many as ``CHUNK_BYTES`` allow, a multiple of 64 from 64 on."""
    return rows_within(CHUNK_BYTES, n_tokens, 4 * vocabulary)


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass over chunks of tokens; logits are rounded to the input's dtype, then float32."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, want_gradients: bool) -> Tensor:
        N, V = hidden_ND.shape[0], weight_VD.shape[0]
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        needs_hidden, needs_weight = (want_gradients and need for need in ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        d_weight = torch.zeros_like(weight_VD, dtype=wide) if needs_weight else None
        loss = torch.zeros((), dtype=wide, device=hidden_ND.device)
        rows = chunk_rows(N, V)
        for first in range(0, N, rows):
            chunk = slice(first, first + rows)
            h, target = hidden_ND[chunk], target_N[chunk, None]
            logits = (h @ weight_VD.T).to(wide)
            lse = logits.logsumexp(1, keepdim=True)
            loss += (lse - logits.gather(1, target)).sum()
            if d_hidden is None and d_weight is None:
                continue
            # d loss / d logits = (softmax - onehot) / N, written over the logits, so that only one chunk is held
            d_logits = logits.sub_(lse).exp_()
            d_logits.scatter_add_(1, target, torch.full_like(lse, -1.0))
            d_logits = d_logits.div_(N).to(h.dtype)
            if d_hidden is not None:
                d_hidden[chunk] = d_logits @ weight_VD
            if d_weight is not None:
                _accumulate(d_weight, d_logits, h)
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight_VD.dtype))
        return loss / N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return _scaled(d_hidden, d_loss), _scaled(d_weight, d_loss), None, None


def _scaled(gradient: Tensor | None, d_loss: Tensor) -> Tensor | None:
    return None if gradient is None else gradient * d_loss.to(gradient.dtype)


def _accumulate(total_VD: Tensor, d_logits: Tensor, h: Tensor, beta: int = 1) -> None:
    """``total = beta total + d_logits^T h`` with a wide total, so that sums over chunks are not rounded to bf16.

    Where ``beta`` is 0 the old total may hold anything.
    """
    if h.dtype == total_VD.dtype:
        total_VD.addmm_(d_logits.T, h, beta=beta)
    elif h.is_cuda:
        torch.addmm(total_VD, d_logits.T, h, beta=beta, out_dtype=total_VD.dtype, out=total_VD)
    elif beta:
        total_VD.add_(d_logits.T @ h)
    else:
        total_VD.copy_(d_logits.T @ h)


def chunked(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """``linear_cross_entropy`` in plain PyTorch that never holds more than ``CHUNK_BYTES`` of logits.

    Returns:
        The mean loss, a float32 scalar; differentiable once in ``hidden_ND`` and ``weight_VD``.
    """
    apply: Callable[..., Tensor] = _ChunkedLinearCrossEntropy.apply
    return apply(hidden_ND, weight_VD, target_N, torch.is_grad_enabled())


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """As the chunked one, with logits in the input's dtype, which a kernel overwrites with their gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, kernels: Any, want_gradients: bool
    ) -> Tensor:
        N, V = (
            int(hidden_ND.shape[0]),
            int(weight_VD.shape[0]),
        )  # ints for Triton: a tracer's sizes are tensors
        needs_hidden, needs_weight = (want_gradients and need for need in ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        d_weight = torch.empty_like(weight_VD, dtype=torch.float32) if needs_weight else None
        rows = loss_rows(N, V * hidden_ND.element_size())
        logits_RV = hidden_ND.new_empty(rows, V)
        losses = []
        for first in range(0, N, rows):
            chunk = slice(first, first + rows)
            h = hidden_ND[chunk]
            logits = torch.mm(h, weight_VD.T, out=logits_RV[: h.shape[0]])
            wanted = needs_hidden or needs_weight
            losses.append(kernels.cross_entropy_(logits, target_N[chunk], 1 / N, wanted).sum())
            if d_hidden is not None:
                torch.mm(logits, weight_VD, out=d_hidden[chunk])
            if d_weight is not None:
                _accumulate(d_weight, logits, h, beta=int(first > 0))
        del logits_RV
        ctx.kernels, ctx.dtype = kernels, weight_VD.dtype
        ctx.save_for_backward(d_hidden, d_weight)  # not rounded yet: the backward scales and rounds it in one pass
        return torch.stack(losses).sum() / N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        d_hidden, d_weight = (
            None if gradient is None else ctx.kernels.scaled(gradient, d_loss, ctx.dtype)
            for gradient in ctx.saved_tensors
        )
        return d_hidden, d_weight, None, None, None


def load_fused() -> Callable[..., Any]:
    """``linear_cross_entropy`` with the kernel of ``triton_loss``. Nothing is read on the host."""
    kernels = imported("hybridbench.kernels.loss.triton_loss", "triton is not importable")

    def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
        apply: Callable[..., Tensor] = _FusedLinearCrossEntropy.apply
        return apply(hidden_ND, weight_VD, target_N, kernels, torch.is_grad_enabled())

    return linear_cross_entropy


fused = Implementation(load_fused, needs_cuda_and_float32)
