"""triton_loss: cross entropy over rows of logits, which become their own gradient in place.

One program handles one row of logits. It reads the row forward for the log-sum-exp, and backward from the end for
softmax minus one-hot. One program of 32 warps fills an SM, so 132 rows are processed at once: 34 MB of bfloat16 at
128,256 words, most of which is still in the L2 cache of an H200 at the second read. So memory moves each logit once in
and once out. Nothing is read on the host.

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
"""Logits per step of a program of 32 warps: 16 a thread."""

AHEAD = 3
"""Stages of a program's loop over its row: two tiles of logits are in flight while one is processed."""

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
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    target = tl.load(target_ptr + row)
    correct = tl.load(logits_ptr + target).to(tl.float32)
    v = tl.arange(0, BLOCK)
    blocks = tl.cdiv(V, BLOCK)
    top = -float("inf")
    total = tl.zeros((BLOCK,), tl.float32)  # a sum per thread: a tile reduces only its maximum
    for block in tl.range(0, blocks, num_stages=STAGES):
        at = block * BLOCK + v
        x = tl.load(logits_ptr + at, mask=at < V, other=-float("inf")).to(tl.float32) * LOG2_E
        new_top = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp2(top - new_top) + tl.exp2(x - new_top)
        top = new_top
    lse = top + tl.log2(tl.sum(total, 0))
    tl.store(loss_ptr + row, (lse - correct * LOG2_E) / LOG2_E)
    if GRADIENT:
        for block in tl.range(0, blocks, num_stages=STAGES):
            at = (blocks - 1 - block) * BLOCK + v
            x = tl.load(logits_ptr + at, mask=at < V, other=0.0).to(tl.float32) * LOG2_E
            gradient = (tl.exp2(x - lse) - tl.where(at == target, 1.0, 0.0)) * scale
            tl.store(logits_ptr + at, gradient.to(logits_ptr.dtype.element_ty), mask=at < V)


def cross_entropy_(logits_NV: Tensor, target_N: Tensor, scale: float, gradient: bool) -> Tensor:
    """The loss of each row, float32; ``logits_NV`` becomes ``scale * (softmax - onehot)`` where ``gradient``."""
    N, V = (int(size) for size in logits_NV.shape)
    loss_N = torch.empty(N, dtype=torch.float32, device=logits_NV.device)
    block = min(COLUMNS, triton.next_power_of_2(V))
    _cross_entropy_in_place[(N,)](
        logits_NV,
        target_N,
        loss_N,
        logits_NV.stride(0),
        V,
        scale,
        GRADIENT=gradient,
        BLOCK=block,
        STAGES=AHEAD,
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
