"""triton_spin: a kernel of known length, for testing what measures kernels."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import globaltimer

from hybridbench.kernels.triton_jit import jit


@jit
def spin_kernel(x_ptr: tl.tensor, out_ptr: tl.tensor, length_ns: tl.tensor) -> None:
    """Copies one number once the GPU's global timer (``%globaltimer``, ns) has advanced by a length."""
    value = tl.load(x_ptr)
    start = globaltimer()
    now = start
    while now - start < length_ns:
        now = globaltimer()
    tl.store(out_ptr, value)


def spin(x: Tensor, out: Tensor, length_ns: int) -> None:
    """Keeps one program of a GPU busy for a length, then writes the first element of ``x`` into ``out``.

    The timer's step is up to 1 us before Hopper, and the length is off by as much.

    Args:
        length_ns: at most 2^31 - 1; ns.
    """
    spin_kernel[(1,)](x, out, length_ns, num_warps=1)
