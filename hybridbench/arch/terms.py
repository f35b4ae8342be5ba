"""terms: the bytes of tensors that a block keeps or needs for a while, by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridbench.sizes import aligned

INDEX = 8
"""Bytes of an index."""
FLOAT = 4
"""Bytes of what kernels keep in float32 whatever the dtype: log-sum-exps, decays, scan states."""


@dataclass(frozen=True, slots=True)
class Term:
    """Bytes of one tensor: ``per_token`` for every token of the batch, ``fixed`` however many there are.

    ``cheap`` marks what elementwise work makes of tensors that are kept: selective checkpointing makes it anew.
    """

    name: str
    per_token: int = 0
    fixed: int = 0
    cheap: bool = False

    def bytes(self, tokens: int) -> int:
        """Its bytes for a batch of ``tokens`` tokens in all."""
        return self.per_token * tokens + self.fixed


Moment = tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Activations:
    """One block's lists, which ``arch.activations`` explains.

    ``lent`` is what the first block of a kind leaves for later ones in the same pass; ``saved`` lists it too.
    """

    saved: tuple[Term, ...]
    forward: tuple[Moment, ...]
    backward: tuple[Moment, ...]
    lent: tuple[Term, ...] = ()


def total(terms: Iterable[Term], tokens: int) -> int:
    """Bytes of some terms together."""
    return sum(term.bytes(tokens) for term in terms)


def largest(moments: Sequence[Moment], tokens: int) -> int:
    """Bytes of the moment that takes most, 0 without any."""
    return max((total(moment, tokens) for moment in moments), default=0)


def padded(columns: int, d_model: int, size: int) -> tuple[int, int]:
    """Columns of a projection whose rows start on 16 bytes, and the bytes of the weight's copy where it is padded."""
    wide = aligned(columns)
    return wide, size * wide * d_model if wide > columns else 0
