"""cache: the typed state each mixer keeps between decode steps, and the sums over it.

Every cache is a static allocation, so that a step can be captured once and replayed: positions and lengths are device
tensors, never host integers. The exception is ``GrowingCache``, which mode ``published`` uses instead. The cache of a
single kind of mixer is in that mixer's file.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from hybridbench.errors import Unsupported


class Cache(ABC):
    """What one mixer keeps between decode steps."""

    @abstractmethod
    def tensors(self) -> dict[str, list[Tensor]]:
        """Its tensors, sorted into ``kv``, ``ssm`` and ``conv``."""

    @abstractmethod
    def fill(self, generator: torch.Generator) -> None:
        """Overwrites everything with random values of a plausible size, in place of a prefill."""

    @abstractmethod
    def compared(self) -> dict[str, Tensor]:
        """Views of what two caches of the same tokens agree in, by name, sequences first. Do not write to them."""

    def rings(self) -> list[tuple[int, int]]:
        """Sinks and ring slots of each static attention cache in it, in order; none without one."""
        return []


@dataclass
class AttentionCache(Cache):
    """Keys and values of one attention.

    With a window the slots behind the sinks form a ring: the order of keys does not matter to softmax attention.

    Args:
        k_BSKP, v_BSKV: the slots; ``v_BSKV`` is another cache's tensor where the value is shared.
        sinks: slots that are never overwritten.
        ring: slots that are reused in turn; 0 for full attention.
        owns_value: False where ``v_BSKV`` belongs to another cache.
    """

    k_BSKP: Tensor
    v_BSKV: Tensor
    sinks: int = 0
    ring: int = 0
    owns_value: bool = True

    @override
    def tensors(self) -> dict[str, list[Tensor]]:
        return {"kv": self.slotted}

    @override
    def compared(self) -> dict[str, Tensor]:
        return {"keys": self.k_BSKP, "values": self.v_BSKV} if self.owns_value else {"keys": self.k_BSKP}

    @override
    def fill(self, generator: torch.Generator) -> None:
        for tensor in self.slotted:
            tensor.normal_(generator=generator)

    @override
    def rings(self) -> list[tuple[int, int]]:
        """Its own; a ring of 0 slots is full attention."""
        return [(self.sinks, self.ring)]

    @property
    def slotted(self) -> list[Tensor]:
        """Its own tensors that hold something for each slot, (B, S, ...)."""
        return [self.k_BSKP, self.v_BSKV] if self.owns_value else [self.k_BSKP]

    @property
    def scales(self) -> tuple[Tensor | None, Tensor | None]:
        """Scales of keys and of values, where its slots hold codes."""
        return None, None

    def keys_values(self, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Keys and values of some sequences as numbers."""
        return self.k_BSKP[rows], self.v_BSKV[rows]

    def attended(self, attend: Callable[..., Tensor], q_BHP: Tensor, length_B: Tensor) -> Tensor:
        """What a kernel of a decode step reads of the first ``length_B`` slots, (B, H, V)."""
        return attend(q_BHP, *self.keys_values(), length_B)

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

    def store(self, k_BTKP: Tensor, v_BTKV: Tensor, start: int = 0) -> None:
        """Writes the tokens of a prompt from position ``start``; with a window only those that later tokens see."""
        end = start + k_BTKP.shape[1]
        pairs = [(self.k_BSKP, k_BTKP), (self.v_BSKV, v_BTKV)][: 2 if self.owns_value else 1]
        if not self.ring or self.sinks + self.ring >= end:
            for kept, new in pairs:
                kept[:, start:end] = new
            return
        first = max(self.sinks, start, end - self.ring)
        slot = self.slots(torch.arange(first, end, device=k_BTKP.device))
        for kept, new in pairs:
            if start < self.sinks:
                kept[:, start : self.sinks] = new[:, : self.sinks - start]
            kept[:, slot] = new[:, first - start :]

    def before(self, start: int) -> tuple[Tensor, Tensor]:
        """Keys (B, S, K, P) and values (B, S, K, V) of earlier tokens that tokens from ``start`` on may see, in order.

        Raises:
            Unsupported: with a ring whose values belong to another branch, which has overwritten them.
        """
        if not self.ring:
            return self.k_BSKP[:, :start], self.v_BSKV[:, :start]
        if not self.owns_value:
            raise Unsupported("a window that borrows its values cannot continue from a cache.")
        latest = torch.arange(min(start, max(self.sinks, start - self.ring)), start, device=self.k_BSKP.device)
        slot = torch.cat((torch.arange(min(self.sinks, start), device=latest.device), self.slots(latest)))
        return self.k_BSKP[:, slot], self.v_BSKV[:, slot]


class GrowingCache(Cache):
    """Keys and values of one attention in a new allocation at every step, as in eager code without a static cache.

    A step concatenates the old and the new ones with ``torch.cat``, and with a window cuts them to the sinks and the
    window. In memory heads come before tokens, which is the layout of such code; the methods take and return the layout
    of the other caches. It starts empty.

    Args:
        static: the cache that this one replaces, from which it takes shapes, dtype, sinks and window.
        held: a step sees its own token but does not keep it, so that it can be timed again at the same context.
        lender: the cache whose values this one reads, where the value is shared.
    """

    def __init__(self, static: AttentionCache, held: bool = False, lender: GrowingCache | None = None) -> None:
        self.k_BKSP, self.v_BKSV = (x[:, :0].transpose(1, 2).contiguous() for x in (static.k_BSKP, static.v_BSKV))
        self.sinks, self.window = static.sinks, static.ring
        self.held = held
        self.lender = lender
        self.seen_v_BKSV = self.v_BKSV

    @override
    def tensors(self) -> dict[str, list[Tensor]]:
        return {"kv": [self.k_BKSP, self.v_BKSV] if self.lender is None else [self.k_BKSP]}

    @override
    def compared(self) -> dict[str, Tensor]:
        return {"keys": self.k_BKSP, "values": self.v_BKSV} if self.lender is None else {"keys": self.k_BKSP}

    @override
    def fill(self, generator: torch.Generator) -> None:
        for tensor in self.tensors()["kv"]:
            tensor.normal_(generator=generator)

    def reach(self, tokens: int, generator: torch.Generator) -> None:
        """Makes random keys and values of ``tokens`` tokens, or of as many as the window keeps."""
        slots = min(tokens, self.sinks + self.window) if self.window else tokens
        for name in ("k_BKSP", "v_BKSV")[: 2 if self.lender is None else 1]:
            old = getattr(self, name)
            new = torch.empty(*old.shape[:2], slots, old.shape[-1], device=old.device, dtype=old.dtype)
            setattr(self, name, new.normal_(generator=generator))

    def append(self, k_BKP: Tensor, v_BKV: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, K, width) with one more token per sequence, which is kept unless ``held``."""
        k_BKSP = self._grown(self.k_BKSP, k_BKP)
        v_BKSV = self._grown(self.v_BKSV, v_BKV) if self.lender is None else self.lender.seen_v_BKSV
        self.seen_v_BKSV = v_BKSV
        if not self.held:
            self.k_BKSP, self.v_BKSV = k_BKSP, v_BKSV
        return k_BKSP.transpose(1, 2), v_BKSV.transpose(1, 2)

    def _grown(self, kept: Tensor, new: Tensor) -> Tensor:
        return self._cut(torch.cat((kept, new.unsqueeze(2)), 2))

    def _cut(self, tokens: Tensor) -> Tensor:
        if not self.window or tokens.shape[2] <= self.sinks + self.window:
            return tokens
        return torch.cat((tokens[:, :, : self.sinks], tokens[:, :, -self.window :]), 2)

    def store(self, k_BTKP: Tensor, v_BTKV: Tensor, start: int = 0) -> None:
        """Replaces everything by a prompt from position 0."""
        assert start == 0, "a growing cache takes a prompt from position 0 only"
        self.k_BKSP, self.v_BKSV = (self._cut(x.transpose(1, 2).contiguous()) for x in (k_BTKP, v_BTKV))


@dataclass
class RecurrentCache(Cache):
    """A recurrence's state, (B, I, N) in Mamba-1, (B, H, P, N) in Mamba-2 and (B, H, P, V) in the delta rules, and the
    last inputs of the conv, newest last.
    """

    state: Tensor
    conv_BCW: Tensor

    @override
    def tensors(self) -> dict[str, list[Tensor]]:
        return {"ssm": [self.state], "conv": [self.conv_BCW]}

    @override
    def compared(self) -> dict[str, Tensor]:
        return {"state": self.state, "conv state": self.conv_BCW}

    @override
    def fill(self, generator: torch.Generator) -> None:
        self.state.normal_(generator=generator)
        self.conv_BCW.normal_(generator=generator)


@dataclass
class ParallelCache(Cache):
    """Both branches' caches."""

    first: Cache
    second: Cache

    @override
    def tensors(self) -> dict[str, list[Tensor]]:
        merged: dict[str, list[Tensor]] = {}
        for branch in (self.first, self.second):
            for kind, tensors in branch.tensors().items():
                merged.setdefault(kind, []).extend(tensors)
        return merged

    @override
    def compared(self) -> dict[str, Tensor]:
        branches = {"first": self.first, "second": self.second}
        return {f"{which} {name}": x for which, cache in branches.items() for name, x in cache.compared().items()}

    @override
    def fill(self, generator: torch.Generator) -> None:
        self.first.fill(generator)
        self.second.fill(generator)

    @override
    def rings(self) -> list[tuple[int, int]]:
        """Those of both branches."""
        return self.first.rings() + self.second.rings()


def growing(cache: Cache | None, *, held: bool) -> Cache | None:
    """A cache whose attention parts are new, empty ``GrowingCache``s; its other parts are the same objects."""
    if isinstance(cache, AttentionCache):
        return GrowingCache(cache, held)
    if isinstance(cache, ParallelCache):
        first, second = (
            GrowingCache(x, held) if isinstance(x, AttentionCache) else x for x in (cache.first, cache.second)
        )
        if isinstance(cache.second, AttentionCache) and not cache.second.owns_value:
            assert isinstance(first, GrowingCache), "a value is lent by the first branch"
            second = GrowingCache(cache.second, held, lender=first)
        return ParallelCache(first, second)
    return cache


def of_row(cache: Cache, row: int) -> Cache:
    """The cache of one sequence of a batch: views of the same memory, except a growing part, which then grows alone."""
    if isinstance(cache, ParallelCache):
        first, second = (of_row(branch, row) for branch in (cache.first, cache.second))
        if isinstance(second, GrowingCache) and second.lender is not None:
            assert isinstance(first, GrowingCache), "a value is lent by the first branch"
            second.lender = first
        return ParallelCache(first, second)
    if isinstance(cache, GrowingCache):
        alone = copy.copy(cache)
        alone.k_BKSP, alone.v_BKSV, alone.seen_v_BKSV = (
            x[row : row + 1] for x in (cache.k_BKSP, cache.v_BKSV, cache.seen_v_BKSV)
        )
        return alone
    tensors = {name: x[row : row + 1] for name, x in vars(cache).items() if isinstance(x, Tensor)}
    assert is_dataclass(cache), "a static cache is a dataclass of tensors and sizes"
    return replace(cache, **tensors)


@contextmanager
def not_growing(caches: Sequence[Cache | None]) -> Iterator[None]:
    """Holds growing caches inside: a step sees its own token but does not keep it."""
    branches = (part for cache in caches for part in _branches(cache))
    growing_ones = [part for part in branches if isinstance(part, GrowingCache)]
    before = [part.held for part in growing_ones]
    for part in growing_ones:
        part.held = True
    try:
        yield
    finally:
        for part, held in zip(growing_ones, before, strict=True):
            part.held = held


def _branches(cache: Cache | None) -> tuple[Cache | None, ...]:
    return (cache.first, cache.second) if isinstance(cache, ParallelCache) else (cache,)


def reach(cache: Cache, tokens: int, generator: torch.Generator) -> None:
    """Brings growing caches to ``tokens`` tokens of random values; a static cache keeps its size."""
    for part in _branches(cache):
        if isinstance(part, GrowingCache):
            part.reach(tokens, generator)


def written(cache: Cache, context: int) -> list[Tensor]:
    """The slots (B, 1, K, width) of keys and values that a step with ``context`` tokens cached overwrites."""
    if isinstance(cache, ParallelCache):
        return written(cache.first, context) + written(cache.second, context)
    if not isinstance(cache, AttentionCache):
        return []
    slot = int(cache.slots(torch.tensor(context)))
    return [x[:, slot : slot + 1] for x in cache.slotted]


def states_compared(caches: Sequence[Cache]) -> dict[str, Tensor]:
    """What two caches of the same tokens agree in, by name and place, without keys and values.

    A step overwrites all of these, whereas it adds one token to the keys and values.
    """
    return {
        f"{name} of cache {index + 1}": tensor
        for index, cache in enumerate(caches)
        for name, tensor in cache.compared().items()
        if not name.endswith(("keys", "values"))
    }


def recurrent_states(caches: list[Cache]) -> list[Tensor]:
    """The SSM and convolution states, which a step overwrites."""
    return [tensor for cache in caches for kind in ("ssm", "conv") for tensor in cache.tensors().get(kind, [])]
