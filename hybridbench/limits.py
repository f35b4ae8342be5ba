"""limits: up to which size a kernel is right, and how many sequences of a batch it can process at once.

Third-party kernels compute offsets of elements in 32 bits, signed (Triton's products of a program's number and a
stride) or unsigned (``index_t`` of the CUDA extensions). A larger offset wraps, and the kernel reads and writes other
elements, most often without an error. The stride counts, not the tensor's own size: dt of Mamba-2 has one column per
head, but it is a view into rows of the whole projection.

    >>> four = Problem("cuda", "bfloat16", length=131072, batch=4, row=8480)
    >>> rows = Limit("rows of the projection", lambda problem: problem.row, SIGNED, "mamba_ssm, ssd_chunk_state.py")
    >>> rows_at_once((rows,), four)
    1
    >>> rows.in_words(four)
    '2^31 elements of B x T x 8,480 (rows of the projection)'

The limits of a backend are in its operation's row (``operations``). A backend without limits has no known one: plain
PyTorch, and this package's kernels, whose offsets have 64 bits. If a kernel's source is not published, or it is not
certain what a compiler makes of it, the smaller size holds. Launch grids end at larger sizes than these, with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from hybridbench.problem import Problem

SIGNED, UNSIGNED = 31, 32
"""Bits of an offset: it must be below 2 to this power."""


class Adds(Enum):
    """How a kernel adds the offset of a sequence and the offset of a position in it."""

    IN_NARROW = "in one narrow sum: all elements of the batch count"
    TO_POINTER = "to the pointer, one after the other: the last sequence's first element counts, and a sequence"
    IN_SEQUENCE = "to the pointer, and only a position's offset is narrow: a sequence counts, whatever the batch"


def _one(_problem: Problem) -> int:
    return 1


@dataclass(frozen=True)
class Limit:
    """One tensor whose offsets have too few bits for large sizes.

    Attributes:
        what: the tensor, in words.
        width: its elements for every ``per`` positions of a sequence; 0 where a problem has no such tensor.
        bits: of the offset.
        source: the release it was read in, the file and kernel, and the expression.
        adds: how the kernel adds a sequence's offset and a position's.
        per: how many positions ``width`` is for; 0 if it is for a whole sequence of any length.
    """

    what: str
    width: Callable[[Problem], int]
    bits: int
    source: str
    adds: Adds = Adds.IN_NARROW
    per: Callable[[Problem], int] = _one

    def elements(self, problem: Problem) -> int:
        """Elements of the tensor for one sequence."""
        per = self.per(problem)
        return self.width(problem) * (-(-problem.length // per) if per else 1)

    def rows(self, problem: Problem) -> int:
        """How many sequences of the batch the kernel can process at once: all, fewer, or 0."""
        one, most = self.elements(problem), 1 << self.bits
        if one == 0:
            return problem.batch
        if one > most:
            return 0
        if self.adds is Adds.IN_SEQUENCE:
            return problem.batch
        fit = most // one if self.adds is Adds.IN_NARROW else (most - 1) // one + 1
        return min(fit, problem.batch)

    def in_words(self, problem: Problem) -> str:
        """The limit, such as "2^31 elements of B x T x 8,480 (rows of the projection)"; T counts whole chunks."""
        batch = {Adds.IN_NARROW: "B x ", Adds.TO_POINTER: "(B - 1) x ", Adds.IN_SEQUENCE: ""}[self.adds]
        per, width = self.per(problem), self.width(problem)
        if per and width % per == 0:
            length, width = "T x ", width // per
        else:
            length = f"T / {per} x " if per else ""
        return f"2^{self.bits} elements of {batch}{length}{width:,} ({self.what})"


def row(problem: Problem) -> int:
    """The width of a view into the packed projection."""
    return problem.row


def in_training(width: Callable[[Problem], int]) -> Callable[[Problem], int]:
    """The ``width`` of a tensor that only a training step has."""
    return lambda problem: width(problem) if problem.training else 0


def of_sequence(_problem: Problem) -> int:
    """The ``per`` of a tensor whose size does not depend on the sequence's length."""
    return 0


def every(positions: int) -> Callable[[Problem], int]:
    """The ``per`` of a tensor that has ``width`` elements for every ``positions`` positions."""
    return lambda _problem: positions


def rows_at_once(limits: Sequence[Limit], problem: Problem) -> int:
    """How many sequences of the batch a backend with these limits can process at once.

    Without limits that is the whole batch; it is 0 if even one sequence is too long.
    """
    limit = tightest(limits, problem)
    return problem.batch if limit is None else limit.rows(problem)


def tightest(limits: Sequence[Limit], problem: Problem) -> Limit | None:
    """The limit that allows the fewest sequences at once; None if nothing limits this problem."""
    limits = [limit for limit in limits if limit.width(problem)]
    if problem.device != "cuda" or not limits:
        return None
    # among limits that allow equally many, the one that a slightly larger problem would exceed first
    return min(limits, key=lambda limit: (limit.rows(problem), -limit.elements(problem) / 2**limit.bits))


def beyond(limits: Sequence[Limit], problem: Problem) -> str | None:
    """Why a backend is not right even on one sequence of a problem, without a full stop; None if it is."""
    limit = tightest(limits, problem)
    if limit is None or not problem.batch or limit.rows(problem):
        return None
    return (
        f"it is right up to {limit.in_words(problem)}, and one sequence of {problem.length:,} tokens has "
        f"{limit.elements(problem):,}"
    )
