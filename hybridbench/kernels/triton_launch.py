"""triton_launch: how one kernel of a decode step overlaps the one before it.

With programmatic dependent launch (Hopper and later) a kernel's programs start while the previous kernel still runs.
They may load what that kernel does not write, such as weights, and wait for its results only before they read them.
"""

from __future__ import annotations

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from hybridbench.kernels.triton_jit import jit


@jit
def wait(PDL: tl.constexpr) -> None:
    """Waits until the previous kernel's results are visible, then lets the next kernel's programs start.

    The order matters: code before the wait overlaps only the previous kernel, so it may read whatever that kernel does
    not write.
    """
    wait_alone(PDL)
    let_next(PDL)


@jit
def wait_alone(PDL: tl.constexpr) -> None:
    """The first half of ``wait``. Programs of the next kernel that start early take the SMs that have room then, which
    are few while this one runs, and stay there; so it may be better to ``let_next`` at the end.
    """
    if PDL:
        gdc_wait()


@jit
def let_next(PDL: tl.constexpr) -> None:
    """The second half of ``wait``. A program that ends has let the next kernel start in any case."""
    if PDL:
        gdc_launch_dependents()
