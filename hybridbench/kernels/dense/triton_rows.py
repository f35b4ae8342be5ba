"""triton_rows: what this package's elementwise Triton kernels share: rows, and the programs that go through them.

Activations, norms, gates and rotations do very little arithmetic, so the memory that they read and write limits them.
Such a kernel reads its inputs once and writes its results once, also where PyTorch would copy first. Backward
kernels recompute what is cheap (silu, the norm's scale), so that only inputs are saved:

    operation       reads                          writes
    swiglu          gate | up                      silu(gate) up
    add_rms_norm    branch, residual               their sum, its norm
    rotary          q | k | rest                   q and k turned, rest
    gate            y, z                           y silu(z), normed or not
    head_norms      two branches                   both normed per head, side by side

Each operation has a module, ``triton_OPERATION``. Its kernels are PyTorch custom operators with a registered backward,
which torch.compile does not trace into. Importing these modules needs triton. Their tests run on a CPU in triton's
interpreter.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from hybridbench.kernels.triton_jit import jit

AHEAD = 3
"""Stages of a loop over rows: while one row is processed, the next two are loaded into shared memory, so that the
memory is busy during the two sums over a row and the store at its end."""

STAGED_BYTES = 128 * 1024
"""Bytes of shared memory for rows in flight. Rows of 8,192 float32 of three tensors use one stage less to fit."""

COLUMNS = 2048
"""Columns per program where columns are independent: 16 elements a thread, two loads of 16 bytes of bfloat16."""


def rows_of(x: Tensor) -> Tensor:
    """``x`` (..., C) as (rows, C) with contiguous rows, a view wherever it can be one."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    return x.reshape(-1, x.shape[-1])


def heads_in_rows(x: Tensor) -> tuple[Tensor, int]:
    """``x`` (..., H, V) with contiguous heads in every row, and the stride between rows."""
    x = x if x.stride(-1) == 1 and (x.stride(-2) == x.shape[-1] or x.shape[-2] == 1) else x.contiguous()
    rows = x.flatten(-2).reshape(-1, x.shape[-2] * x.shape[-1])
    return rows, rows.stride(0)


def warps_of(block: int) -> int:
    """Warps for a row of ``block`` elements held in registers: 16 elements a thread."""
    return min(16, max(1, block // 512))


def stages_of(x: Tensor, block: int) -> int:
    """Stages of a loop over rows of ``block`` elements of three tensors like ``x``."""
    return min(AHEAD, 1 + STAGED_BYTES // (3 * block * x.element_size()))


def walkers_of(x: Tensor, rows: int, per_sm: int) -> int:
    """The number of programs that share ``rows``: at most ``per_sm`` on every SM of the device of ``x``."""
    if not x.is_cuda:
        return min(rows, 4)
    return min(rows, per_sm * torch.cuda.get_device_properties(x.device).multi_processor_count)


def stride_unit(*strides: int) -> int:
    """The unit in which strides are passed: Triton only knows of an argument whether 16 divides it, but rows of, say,
    4,888 columns start on 16 bytes too.
    """
    return 8 if all(stride % 8 == 0 for stride in strides) else 1


@jit
def add_pairs(a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor) -> tl.tensor:
    """The sum of two pairs: two sums of a row are made in one pass."""
    return a + c, b + d


@jit
def groups_of(program: tl.tensor, H: tl.tensor, GROUPS: tl.constexpr) -> tl.tensor:
    """The first of a program's GROUPS groups, and the row and head of each; a row has H groups.

    There may be 2^31 groups, but H programs cover exactly GROUPS whole rows, and the remainder is small.
    """
    n = program % H * GROUPS + tl.arange(0, GROUPS)
    return tl.cast(program, tl.int64) * GROUPS, tl.cast(program // H, tl.int64) * GROUPS + n // H, n % H
