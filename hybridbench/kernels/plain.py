"""plain: what the reference implementations have in common: the dtype they compute in, and how much they hold at once.

These are written to be read, and to be right on any device. They compute in float32 whatever the input's dtype (in
float64 for float64 input), and return the input's dtype. They are reasonably fast: memory does not grow with the square
of the sequence length, and B, C, keys and values shared by a group of heads are never repeated to heads. Those of a
family of operations are in its ``reference``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """``x`` in the dtype the references compute in: float32, or float64 when it came as float64."""
    return x if x.dtype == torch.float64 else x.float()
