"""reference: the plain PyTorch implementations of the head's loss.

How they are written is said in ``kernels.plain``; shapes have the letters of ``hybridbench.kernels``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hybridbench.kernels.plain import wide


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """The head's product and the mean cross entropy over all tokens, with the whole N x V logits in memory.

    Returns:
        The loss, a float32 scalar (float64 for float64 input); differentiable in ``hidden_ND`` and ``weight_VD``.
    """
    return F.cross_entropy(wide(hidden_ND) @ wide(weight_VD).T, target_N)
