"""elementwise: this package's Triton kernels for what stands between a model's products, and where they can run."""

from __future__ import annotations

from hybridbench.kernels.backend import Implementation, needs_cuda_and_float32, own_kernel


def _kernel(op: str) -> Implementation:
    """The implementation of an operation: any width, in bfloat16, float16 or float32."""
    return Implementation(own_kernel(f"dense.triton_{op}", op), needs_cuda_and_float32)


swiglu, add_rms_norm, rotary = _kernel("swiglu"), _kernel("add_rms_norm"), _kernel("rotary")
gate, head_norms = _kernel("gate"), _kernel("head_norms")
