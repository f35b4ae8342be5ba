"""own: this package's Triton kernels for what RWKV-7 reads before its rule, and where they can run."""

from __future__ import annotations

from hybridbench.kernels.backend import Implementation, needs_cuda_and_float32, own_kernel

rwkv7_shift = Implementation(own_kernel("rwkv7.triton_shift", "rwkv7_shift"), needs_cuda_and_float32)
rwkv7_keys = Implementation(own_kernel("rwkv7.triton_keys", "rwkv7_keys"), needs_cuda_and_float32)
