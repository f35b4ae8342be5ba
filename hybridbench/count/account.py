"""account: one counter's account of one step, operation by operation; needs no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hybridbench.record import OperatorCount

TORCH, FVCORE = "torch", "fvcore"
"""The public operator counters."""
REST = "norms, activations, optimizer"
"""The name that operators are counted under if they belong to no operation with a closed form."""


@dataclass(frozen=True)
class Product:
    """One batch of matrix products as it was dispatched: its operation, its sizes, and how many (``batch``)."""

    operation: str
    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """A multiply-add is 2."""
        return 2 * self.batch * self.m * self.n * self.k


@dataclass(frozen=True)
class Account:
    """One counter's account of one step of the whole batch.

    Attributes:
        counter: ``TORCH`` or ``FVCORE``.
        flops: by operation; those of ``formulas`` included.
        formulas: the part of them that closed forms give, of kernels that the counter cannot look into.
        unseen: by operation, the operators that counted as nothing, with how often they ran.
        error: why there is no account.
    """

    counter: str
    flops: dict[str, int] = field(default_factory=dict)
    formulas: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str | None = None

    def observed(self) -> OperatorCount:
        """The totals of all operations, which a record keeps."""
        if self.error is not None:
            return OperatorCount(self.counter, None, {}, self.error)
        unseen: Counter[str] = Counter()
        for operators in self.unseen.values():
            unseen.update(operators)
        return OperatorCount(self.counter, sum(self.flops.values()), dict(unseen), formulas=self.formulas)
