"""reference: the plain PyTorch implementations of Mamba's scans, of their steps and of their convolution.

How they are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from hybridbench.kernels.scan.reference.mamba1 import selective_scan, selective_step
from hybridbench.kernels.scan.reference.mamba2 import NO_STEP, conv1d, conv1d_step, mamba2_core, ssd, ssd_step
from hybridbench.kernels.scan.reference.mamba3 import A_FLOOR, mamba3_scan, mamba3_step

__all__ = [
    "A_FLOOR",
    "NO_STEP",
    "conv1d",
    "conv1d_step",
    "mamba2_core",
    "mamba3_scan",
    "mamba3_step",
    "selective_scan",
    "selective_step",
    "ssd",
    "ssd_step",
]
