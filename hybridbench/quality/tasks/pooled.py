"""pooled: what answers of one vector a sequence: MAD's decoder, which adds positions to it and knows nothing else.

Sources: athms/mad-lab ``mad/model/auto_encoder.py``: norm, product, GELU, twice, then a norm before the head, which
here is the model's own, tied to its embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from hybridbench.model.block import INIT_STD
from hybridbench.model.language import LanguageModel

_PERIOD = 10_000.0


class Decoder(nn.Module):
    """The decoder of a model for sequences of ``length`` tokens, initialised from ``seed``."""

    def __init__(self, model: LanguageModel, length: int, seed: int) -> None:
        super().__init__()
        like, width = model.embedding_VD, model.d_model
        self.eps = model.norm_eps
        self.proj_DD = nn.ParameterList([like.new_empty(width, width) for _ in range(2)])
        self.norm_weights = nn.ParameterList([like.new_ones(width) for _ in range(3)])
        generator = torch.Generator(device=like.device).manual_seed(seed + 1)
        with torch.no_grad():
            for weight in self.proj_DD:
                weight.normal_(std=INIT_STD, generator=generator)
        self.position_TD: Tensor
        self.register_buffer("position_TD", _sines(length, width).to(like))

    @override
    def forward(self, last_BD: Tensor) -> Tensor:
        """What the head reads at every position (B, T, D)."""
        x = last_BD[:, None] + self.position_TD
        for norm, product in zip(self.norm_weights, self.proj_DD, strict=False):
            x = F.gelu(F.linear(F.rms_norm(x, x.shape[-1:], norm, self.eps), product))
        return F.rms_norm(x, x.shape[-1:], self.norm_weights[-1], self.eps)


def _sines(length: int, width: int) -> Tensor:
    """Sines and cosines of each position (T, D), whose periods rise geometrically."""
    rates = _PERIOD ** -(torch.arange(width // 2) / (width // 2 - 1))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), 1)
