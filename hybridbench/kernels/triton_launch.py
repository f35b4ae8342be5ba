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
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
