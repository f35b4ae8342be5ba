"""batches: the sequences of a corpus in an order that a seed gives, on the device where there is room.

A sequence of T tokens is read as BOS and its first T - 1 tokens, and every one of its T tokens is predicted. Sequences
do not overlap, and attention and states go across documents, as in the paper. Each epoch has its own order, which is a
function of seed and epoch alone: models that are compared with one seed see the same batches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridbench.quality.corpus.manifest import TOKEN_BYTES, Manifest, Tokens

_SHARE = 4
"""A split lies on a GPU if it takes at most one part in so many of the free memory."""


class Batches:
    """Batches of one split.

    Args:
        bos: the id before each sequence.
        seed: of the order.
    """

    def __init__(self, tokens: Tokens, bos: int, batch: int, seed: int, device: torch.device) -> None:
        self._tokens, self._bos, self._batch, self._seed, self._device = tokens, bos, batch, seed, device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self._resident = _resident(tokens, device)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of a step from 0. Where the tokens lie on the device, so does their order."""
        return self._read(self._numbers(step * self._batch, self._batch))

    def rows(self, numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some sequences."""
        return self._read(self._placed(torch.from_numpy(numbers)))

    def _numbers(self, first: int, count: int) -> Tensor:
        """The sequences at places ``first`` to ``first + count - 1`` of the endless order."""
        found = []
        while count:
            epoch, place = divmod(first, len(self._tokens))
            if epoch != self._epoch:
                self._epoch = epoch
                order = np.random.default_rng([self._seed, epoch]).permutation(len(self._tokens))
                self._order = self._placed(torch.from_numpy(order))
            part = self._order[place : place + count]
            found.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(found)

    def _placed(self, numbers: Tensor) -> Tensor:
        """Numbers of sequences where the tokens are."""
        return numbers if self._resident is None else numbers.to(self._resident.device)

    def _read(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        if self._resident is None:
            target_BT = torch.from_numpy(self._tokens.rows(numbers.numpy()))
            if self._device.type == "cuda":  # the host goes on while pinned memory is copied
                target_BT = target_BT.pin_memory().to(self._device, non_blocking=True)
        else:
            target_BT = self._resident[numbers].long()
        bos_B1 = target_BT.new_full((len(target_BT), 1), self._bos)
        return torch.cat((bos_B1, target_BT[:, :-1]), 1), target_BT


def _resident(tokens: Tokens, device: torch.device) -> Tensor | None:
    """All sequences on a GPU as 32-bit ids; None on a CPU and where they are too large."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if len(tokens) * tokens.length * 4 > free // _SHARE:
        return None
    held = torch.empty(len(tokens), tokens.length, dtype=torch.int32, device=device)
    for first in range(0, len(tokens), 4096):
        numbers = np.arange(first, min(first + 4096, len(tokens)))
        held[first : first + len(numbers)] = torch.from_numpy(tokens.rows(numbers).astype(np.int32)).to(device)
    return held


def bytes_of_tokens(folder: Path, manifest: Manifest, device: torch.device) -> Tensor:
    """How many bytes of text each id stands for, for all ids of a model's vocabulary."""
    sizes = np.load(folder / TOKEN_BYTES).astype(np.int64)
    return torch.from_numpy(np.pad(sizes, (0, manifest.model_vocabulary - len(sizes)))).to(device)


def spread_evenly(wanted: int, there: int) -> NDArray[np.int64]:
    """``wanted`` of the sequences 0 to ``there - 1``, evenly spread.

    >>> spread_evenly(3, 9).tolist()
    [1, 4, 7]
    """
    return (np.arange(wanted) * 2 + 1) * there // (2 * wanted)
