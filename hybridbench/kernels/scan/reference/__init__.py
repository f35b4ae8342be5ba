"""reference: what Mamba's scans, their steps and their convolution mean, in plain PyTorch, a mixer a file.

How they are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from hybridbench.kernels.scan.reference.mamba1 import selective_scan, selective_step
from hybridbench.kernels.scan.reference.mamba2 import NO_STEP, conv1d, conv1d_step, mamba2_core, ssd, ssd_step

__all__ = [
    "NO_STEP",
    "conv1d",
    "conv1d_step",
    "mamba2_core",
    "selective_scan",
    "selective_step",
    "ssd",
    "ssd_step",
]
