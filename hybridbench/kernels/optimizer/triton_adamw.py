"""triton_adamw: AdamW as one pass over a parameter, its gradient and its two moments.

Per element of bfloat16 it reads 8 bytes and writes 6, which is the least possible: at 1B parameters 17.5 GB, or 4.1 ms
at the 4.2 TB/s of an H200. PyTorch's fused kernel does part of its arithmetic in float64 and takes 14.4 ms there. Here
it is float32 whatever the tensors' dtype, with the same formula in the same order; each tensor is rounded once, when
written.

Importing this module needs triton. Its tests run on a CPU in triton's interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hybridbench.kernels.optimizer.adamw import StepRates
from hybridbench.kernels.triton_jit import jit

BLOCK_ELEMENTS = 2048
"""Elements per program of 4 warps: 16 a thread, of each tensor two loads of 16 bytes of bfloat16."""


@jit
def _adamw(
    parameter_ptr: tl.tensor,
    gradient_ptr: tl.tensor,
    first_ptr: tl.tensor,
    second_ptr: tl.tensor,
    n: tl.tensor,
    decay: tl.tensor,
    keep_first: tl.tensor,
    add_first: tl.tensor,
    keep_second: tl.tensor,
    add_second: tl.tensor,
    rate: tl.tensor,
    correction: tl.tensor,
    eps: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < n
    parameter = tl.load(parameter_ptr + i, mask=live, other=0.0).to(tl.float32)
    gradient = tl.load(gradient_ptr + i, mask=live, other=0.0).to(tl.float32)
    first = tl.load(first_ptr + i, mask=live, other=0.0).to(tl.float32)
    second = tl.load(second_ptr + i, mask=live, other=0.0).to(tl.float32)
    parameter -= decay * parameter
    first = keep_first * first + add_first * gradient
    second = keep_second * second + add_second * gradient * gradient
    parameter -= rate * first / (tl.sqrt(second) * correction + eps)
    tl.store(parameter_ptr + i, parameter.to(parameter_ptr.dtype.element_ty), mask=live)
    tl.store(first_ptr + i, first.to(first_ptr.dtype.element_ty), mask=live)
    tl.store(second_ptr + i, second.to(second_ptr.dtype.element_ty), mask=live)


def update(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rates: StepRates) -> None:
    """``adamw.update`` as one kernel."""
    n = parameter.numel()
    _adamw[(triton.cdiv(n, BLOCK_ELEMENTS),)](
        parameter,
        gradient,
        first,
        second,
        n,
        rates.decay,
        rates.keep_first,
        1 - rates.keep_first,
        rates.keep_second,
        1 - rates.keep_second,
        rates.rate,
        rates.correction,
        rates.eps,
        BLOCK=BLOCK_ELEMENTS,
        num_warps=4,
    )
