"""own: this package's Triton kernels for the mixers of the delta rule, and where they can run."""

from __future__ import annotations

from hybridbench.kernels.backend import Implementation, needs_cuda_and_float32, own_kernel


def _kernel(op: str) -> Implementation:
    """The implementation of an operation, whose kernel is elementwise and so exact in float32."""
    return Implementation(own_kernel("delta.triton_delta", op), needs_cuda_and_float32)


gated_delta_step, kda_step, norm_gate = _kernel("gated_delta_step"), _kernel("kda_step"), _kernel("norm_gate")
