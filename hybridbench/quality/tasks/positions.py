"""positions: a learned vector of each position, added to the embedding: what zoology gives stacks of attention.

It takes the place of RoPE, with which such stacks learn multi-query recall slowly where the vocabulary is large.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from hybridbench.model.block import INIT_STD
from hybridbench.model.language import LanguageModel


class Positions(nn.Module):
    """The vectors of the first ``length`` positions of a model, initialised from ``seed``."""

    def __init__(self, model: LanguageModel, length: int, seed: int) -> None:
        super().__init__()
        like = model.embedding_VD
        self.embedding_TD = nn.Parameter(like.new_empty(length, model.d_model))
        generator = torch.Generator(device=like.device).manual_seed(seed + 2)
        with torch.no_grad():
            self.embedding_TD.normal_(std=INIT_STD, generator=generator)

    @override
    def forward(self, token_BT: Tensor) -> Tensor:
        """What is added to the embedding of sequences (T, D)."""
        return self.embedding_TD[: token_BT.shape[1]]
