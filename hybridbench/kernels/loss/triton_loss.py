"""triton_loss: cross entropy over rows of logits, which become their own gradient in place.

One program handles one row of logits. It reads the row forward for the log-sum-exp, and backward from the end for
softmax minus one-hot. Every 8 logits that a thread reads at once have a maximum and a sum of their own, so that the
threads meet once a row and not once a tile. On an H200 two programs of 32 warps fill an SM, so 264 rows are
processed at once: 68 MB of bfloat16 at 128,256 words, of which the L2 cache holds a part for the second read. What is
read again and written is the first to leave that cache. Nothing is read on the host.

Importing this module needs triton. Its tests run on a CPU in triton's interpreter.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybridbench.kernels.triton_jit import jit

COLUMNS = 16384
"""Logits per step of a program of 32 warps: 16 a thread, in 32 registers on an H200."""

TOGETHER = 8
"""Logits with a maximum of their own: 16 bytes of bfloat16, which a thread reads at once."""

SCALED = 4096
"""Elements per program of a gradient's scaling."""

LOG2_E = tl.constexpr(math.log2(math.e))


@jit
def _cross_entropy_in_place(
    logits_ptr: tl.tensor,
    target_ptr: tl.tensor,
    loss_ptr: tl.tensor,
    stride: tl.tensor,
    V: tl.tensor,
    scale: tl.tensor,
    GRADIENT: tl.constexpr,
    GROUPS: tl.constexpr,
    TOGETHER: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    target = tl.load(target_ptr + row)
    correct = tl.load(logits_ptr + target).to(tl.float32)
    v = tl.arange(0, GROUPS)[:, None] * TOGETHER + tl.arange(0, TOGETHER)[None, :]
    blocks = tl.cdiv(V, GROUPS * TOGETHER)
    top = tl.full((GROUPS,), -1e30, tl.float32)  # finite: groups beyond V must not compute inf - inf
    total = tl.zeros((GROUPS,), tl.float32)
    for block in range(blocks):
        at = block * GROUPS * TOGETHER + v
        x = tl.load(logits_ptr + at, mask=at < V, other=-float("inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(x, 1))
        total = total * tl.exp2((top - new_top) * LOG2_E)
        total += tl.sum(tl.exp2(x * LOG2_E - new_top[:, None] * LOG2_E), 1)
        top = new_top
    of_row = tl.max(top, 0)
    lse = of_row * LOG2_E + tl.log2(tl.sum(total * tl.exp2((top - of_row) * LOG2_E), 0))  # base 2
    tl.store(loss_ptr + row, lse / LOG2_E - correct)
    if GRADIENT:
        shift = lse - tl.log2(scale)
        for block in range(blocks):
            at = (blocks - 1 - block) * GROUPS * TOGETHER + v
            x = tl.load(logits_ptr + at, mask=at < V, other=0.0, eviction_policy="evict_first").to(tl.float32)
            softmax = tl.exp2(x * LOG2_E - shift).to(logits_ptr.dtype.element_ty)
            tl.store(logits_ptr + at, softmax, mask=at < V, eviction_policy="evict_first")
        tl.debug_barrier()  # the softmax of the target is written, by whichever thread
        less = tl.exp2(correct * LOG2_E - shift) - scale
        tl.store(logits_ptr + target, less.to(logits_ptr.dtype.element_ty))


def cross_entropy_(logits_NV: Tensor, target_N: Tensor, scale: float, gradient: bool) -> Tensor:
    """The loss of each row, float32; ``logits_NV`` becomes ``scale * (softmax - onehot)`` where ``gradient``.

    Args:
        logits_NV: (tokens, vocabulary), bfloat16 or float32, each row contiguous.
        target_N: (tokens,) int64, each within the vocabulary.
        scale: above zero.
    """
    N, V = (int(size) for size in logits_NV.shape)
    loss_N = torch.empty(N, dtype=torch.float32, device=logits_NV.device)
    block = min(COLUMNS, max(TOGETHER, triton.next_power_of_2(V)))
    _cross_entropy_in_place[(N,)](
        logits_NV,
        target_N,
        loss_N,
        logits_NV.stride(0),
        V,
        scale,
        GRADIENT=gradient,
        GROUPS=block // TOGETHER,
        TOGETHER=TOGETHER,
        num_warps=min(32, max(1, block // 512)),
    )
    return loss_N


@jit
def _scaled(gradient_ptr: tl.tensor, by_ptr: tl.tensor, out_ptr: tl.tensor, n: tl.tensor, BLOCK: tl.constexpr) -> None:
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gradient = tl.load(gradient_ptr + i, mask=i < n, other=0.0).to(tl.float32)
    by = tl.load(by_ptr).to(tl.float32)
    tl.store(out_ptr + i, (gradient * by).to(out_ptr.dtype.element_ty), mask=i < n)


def scaled(gradient: Tensor, by: Tensor, dtype: torch.dtype) -> Tensor:
    """``gradient * by``, a scalar on the device, rounded to ``dtype`` once. PyTorch would need two passes."""
    gradient = gradient.contiguous()
    out = torch.empty(gradient.shape, dtype=dtype, device=gradient.device)
    n = gradient.numel()
    _scaled[(triton.cdiv(n, SCALED),)](gradient, by, out, n, BLOCK=SCALED, num_warps=8)
    return out
