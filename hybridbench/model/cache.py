"""cache: the typed state each mixer keeps between decode steps, and the sums over it.

Every cache is a static allocation, so that a step can be captured once and replayed: positions and lengths are device
tensors, never host integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What one mixer keeps; ``tensors`` sorts it into ``kv``, ``ssm`` and ``conv``."""

    def tensors(self) -> dict[str, list[Tensor]]: ...

    def fill(self, generator: torch.Generator) -> None:
        """Overwrites everything with random values of a plausible size: a depth reached without a prefill."""


@dataclass
class AttentionCache:
    """Keys and values of one attention.

    With a window the slots behind the sinks form a ring, since softmax attention does not mind the order of keys.

    Args:
        k_BSKP, v_BSKV: the slots; ``v`` is another cache's tensor where the value is shared.
        sinks: slots that are never overwritten.
        ring: slots that are reused in turn; 0 for full attention.
        owns_value: False where ``v`` belongs to another cache.
    """

    k_BSKP: Tensor
    v_BSKV: Tensor
    sinks: int = 0
    ring: int = 0
    owns_value: bool = True

    def tensors(self) -> dict[str, list[Tensor]]:
        return {"kv": [self.k_BSKP, self.v_BSKV] if self.owns_value else [self.k_BSKP]}

    def fill(self, generator: torch.Generator) -> None:
        for tensor in self.tensors()["kv"]:
            tensor.normal_(generator=generator)

    def slots(self, position: Tensor) -> Tensor:
        """Slots of absolute positions, of the same shape."""
        if not self.ring:
            return position
        return torch.where(position < self.sinks, position, self.sinks + (position - self.sinks) % self.ring)

    def lengths(self, position: Tensor) -> Tensor:
        """Slots in use once the token at ``position`` is written, int32."""
        used = position + 1
        if self.ring:
            used = used.clamp(max=self.sinks + self.ring)
        return used.to(torch.int32)

    def append(self, k_BKP: Tensor, v_BKV: Tensor, position_B: Tensor) -> None:
        """Writes one token per sequence."""
        rows = torch.arange(k_BKP.shape[0], device=k_BKP.device)
        slot_B = self.slots(position_B)
        self.k_BSKP[rows, slot_B] = k_BKP
        if self.owns_value:
            self.v_BSKV[rows, slot_B] = v_BKV

    def store(self, k_BTKP: Tensor, v_BTKV: Tensor) -> None:
        """Writes a prompt from position 0; with a window only what later tokens can still see."""
        T = k_BTKP.shape[1]
        pairs = [(self.k_BSKP, k_BTKP), (self.v_BSKV, v_BTKV)][: 2 if self.owns_value else 1]
        if not self.ring or self.sinks + self.ring >= T:
            for kept, new in pairs:
                kept[:, :T] = new
            return
        first = max(self.sinks, T - self.ring)
        position = torch.arange(first, T, device=k_BTKP.device)
        slot = self.slots(position)
        for kept, new in pairs:
            kept[:, : self.sinks] = new[:, : self.sinks]
            kept[:, slot] = new[:, first:]


@dataclass
class Mamba2Cache:
    """The SSM state, and the last inputs of the conv, newest last."""

    ssm_BHPN: Tensor
    conv_BCW: Tensor

    def tensors(self) -> dict[str, list[Tensor]]:
        return {"ssm": [self.ssm_BHPN], "conv": [self.conv_BCW]}

    def fill(self, generator: torch.Generator) -> None:
        self.ssm_BHPN.normal_(generator=generator)
        self.conv_BCW.normal_(generator=generator)


@dataclass
class ParallelCache:
    """Both branches' caches."""

    first: AttentionCache | Mamba2Cache
    second: AttentionCache | Mamba2Cache

    def tensors(self) -> dict[str, list[Tensor]]:
        merged: dict[str, list[Tensor]] = {}
        for branch in (self.first, self.second):
            for kind, tensors in branch.tensors().items():
                merged.setdefault(kind, []).extend(tensors)
        return merged

    def fill(self, generator: torch.Generator) -> None:
        self.first.fill(generator)
        self.second.fill(generator)
