"""weights: initial weights of a model whose parts are on several ranks, equal to those of the model on one.

Each rank draws every sublayer whole, one after the other, from the one seed, and keeps its part. So a model has the
same weights on any number of ranks, what initialises them is written once, and a rank never holds more than one whole
sublayer beside its part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hybridbench.arch.held import HeldPart
from hybridbench.model.block import INIT_STD, BlockModule
from hybridbench.model.build import Resolved, build_layers
from hybridbench.model.language import LanguageModel
from hybridbench.suite.case import Case

Keep = Callable[[Tensor, Tensor], None]
"""Called with this rank's part of a parameter and the whole one; copies its part of it."""


@dataclass(frozen=True)
class Whole:
    """The whole model of a case, of which a rank holds a part.

    Args:
        case: as it was asked for.
        resolved: the operations of its sublayers, if their modules are made with them.
    """

    case: Case
    resolved: list[Resolved]


def draw(
    model: LanguageModel,
    whole: Whole,
    device: torch.device,
    keep: Callable[[int, str], Keep],
) -> None:
    """Initialises an allocated part of a model from the case's seed, as ``LanguageModel.allocate`` does a whole one.

    Args:
        model: the part, whose parameters are on ``device``.
        keep: for a sublayer's index (-1 for the model itself) and a parameter's name, what copies the part of it.
    """
    generator = torch.Generator(device=device).manual_seed(whole.case.execution.seed)
    dtype, shape = model.embedding_VD.dtype, (whole.case.model.vocab_size, whole.case.model.d_model)
    with torch.no_grad():
        embedding = torch.empty(shape, device=device, dtype=dtype).normal_(std=INIT_STD, generator=generator)
        keep(-1, "embedding_VD")(model.embedding_VD, embedding)
        del embedding
        for index, weight in enumerate(model.norm_weights):
            keep(-1, f"norm_weights.{index}")(weight, torch.ones(shape[1], device=device, dtype=dtype))
        for index, (part, layer) in enumerate(zip(model.blocks, build_layers(whole.case, whole.resolved), strict=True)):
            layer.to_empty(device=device)
            layer.initialise(generator)
            _copy(part, layer, partial(keep, index))


def _copy(part: BlockModule, whole: BlockModule, keep: Callable[[str], Keep]) -> None:
    """Copies a rank's part of a sublayer's parameters, and its buffers, which are whole on every rank."""
    drawn = dict(whole.named_parameters())
    for name, parameter in part.named_parameters():
        keep(name)(parameter, drawn[name])
    for mine, buffer in zip(part.buffers(), whole.buffers(), strict=True):
        mine.copy_(buffer)


def cut(parameter: Tensor, whole: Tensor, found: HeldPart) -> None:
    """Copies the spans of a cut."""
    parts = [whole.narrow(found.dim, first, last - first) for first, last in found.spans]
    parameter.copy_(torch.cat(parts, found.dim))
