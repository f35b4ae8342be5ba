"""tensor: a model of which each rank holds a part of every sublayer: its allocation, and gradients of shared weights.

Where there are fewer KV heads, or groups of B and C, than ranks, several ranks hold the same rows of a projection. Each
has a summand of their gradient, so after a backward these are added up, all of them in one all-reduce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from hybridbench.arch.held import HeldPart, held_parts, held_words
from hybridbench.model.across import Across
from hybridbench.model.block import BlockModule
from hybridbench.model.language import LanguageModel
from hybridbench.ranks.weights import Keep, Whole, cut, draw


@dataclass(frozen=True)
class _SharedRows:
    """Rows of a parameter that other ranks hold too: those from ``first`` to ``last - 1`` are group ``group`` of
    ``groups``.
    """

    parameter: Tensor
    first: int
    last: int
    group: int
    groups: int


def divide(model: LanguageModel, whole: Whole, device: torch.device) -> None:
    """Allocates a part that was built for ``part_of_case``, and joins it with the parts of the other ranks."""
    spec = whole.case.model
    across = Across(dist.get_rank(), dist.get_world_size(), spec.vocab_size)
    model.across = across
    for layer in model.blocks:
        for module in layer.modules():
            if isinstance(module, BlockModule):
                module.across = across
    cuts = [held_parts(block, across.size, across.rank) for block in spec.placed]
    words = held_words(spec.vocab_size, across.size, across.rank)
    model.to_empty(device=device)

    def keep(index: int, name: str) -> Keep:
        if index >= 0:
            return partial(cut, found=cuts[index][name])
        return partial(_rows, words=words) if name == "embedding_VD" else _all

    draw(model, whole, device, keep)
    if "adamw" in model.ops:
        rows = [one for layer, found in zip(model.blocks, cuts, strict=True) for one in _shared(layer, found)]
        model.ops = {**model.ops, "adamw": partial(_adamw, model.ops["adamw"], rows, across)}


def _all(part: Tensor, whole: Tensor) -> None:
    part.copy_(whole)


def _rows(part: Tensor, whole: Tensor, words: tuple[int, int]) -> None:
    """Copies this rank's rows of the embedding; those behind the last word are zeros."""
    first, last = words
    part[: last - first] = whole[first:last]
    part[last - first :] = 0


def _shared(layer: BlockModule, cuts: dict[str, HeldPart]) -> list[_SharedRows]:
    found = []
    for name, parameter in layer.named_parameters():
        one = cuts[name]
        edges = [0]
        for first, last in one.spans:
            edges.append(edges[-1] + last - first)
        found += [
            _SharedRows(parameter, edges[span], edges[span + 1], group, groups) for span, group, groups in one.shared
        ]
    return found


def _adamw(
    made: Callable[..., torch.optim.Optimizer],
    rows: list[_SharedRows],
    across: Across,
    parameters: object,
    *,
    lr: float,
) -> torch.optim.Optimizer:
    """The optimizer, which adds up the gradients of shared rows before each step."""
    optimizer = made(parameters, lr=lr)
    if rows:
        optimizer.register_step_pre_hook(lambda *_: add_shared(rows, across))
    return optimizer


def add_shared(rows: list[_SharedRows], across: Across) -> None:
    """Adds up the gradients of rows that several ranks hold.

    The ranks of a group differ from row to row, so that each rank writes to the place of its group in a buffer that
    has one for each.
    """
    by_dtype: dict[torch.dtype, list[tuple[Tensor, int, int]]] = {}
    for one in rows:
        gradient = one.parameter.grad
        if gradient is not None:
            mine = gradient[one.first : one.last]
            by_dtype.setdefault(gradient.dtype, []).append((mine, one.group, one.groups))
    for dtype, found in by_dtype.items():
        wide = torch.promote_types(dtype, torch.float32)
        places = [torch.zeros(groups, *mine.shape, dtype=wide, device=mine.device) for mine, _, groups in found]
        for place, (mine, group, _) in zip(places, found, strict=True):
            place[group] = mine
        joined = across.add(torch.cat([place.flatten() for place in places]))
        parts = joined.split([place.numel() for place in places])
        for part, place, (mine, group, _) in zip(parts, places, found, strict=True):
            mine.copy_(part.view_as(place)[group])
