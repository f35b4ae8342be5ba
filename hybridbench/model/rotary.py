"""rotary: rotary position embedding with Llama-3 frequency scaling, computed once per forward and shared by all layers.

Sources: arXiv 2104.09864 (pairs are (i, i + P/2), Llama's order), and Llama 3.1's ``rope_scaling``: wavelengths longer
than the original context over ``low_freq_factor`` are stretched by ``factor``, short ones are kept, with a ramp
between.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridbench.arch.rope import Rope

Rotation = tuple[Tensor, Tensor]


def frequencies(rope: Rope, head_dim: int, device: torch.device) -> Tensor:
    """Angular frequencies of the ``head_dim / 2`` pairs, in radians per position, float32."""
    exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    plain = rope.theta**-exponents
    if rope.factor == 1.0:
        return plain
    wavelength = 2 * math.pi / plain
    turns = rope.original_context / wavelength
    ramp = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return plain * (ramp + (1 - ramp) / rope.factor)


def rotation(rope: Rope, head_dim: int, position: Tensor) -> Rotation:
    """Cosines and sines at the positions, of shape (*position, 1, head_dim / 2): heads broadcast."""
    angles = position.float().unsqueeze(-1) * frequencies(rope, head_dim, position.device)
    return angles.cos().unsqueeze(-2), angles.sin().unsqueeze(-2)


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Turns pairs (i, i + P/2) of the last dimension in float32; the result has the dtype of ``x``.

    ``x`` is (..., heads, P) and ``turn`` broadcasts over its heads.
    """
    cos, sin = turn
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
