"""views: the account of one step by each convention and counter, and the one it is compared with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hybridbench.arch.block import Convention
from hybridbench.arch.operations import operations, reasons
from hybridbench.arch.reasons import Reason
from hybridbench.count.account import FVCORE, TORCH
from hybridbench.errors import BadInput
from hybridbench.suite.case import Case

EXACT, PAPER, HARDWARE = (convention.value for convention in Convention)
GPU = "gpu"
BASE = {PAPER: EXACT, HARDWARE: EXACT, TORCH: EXACT, FVCORE: EXACT, GPU: HARDWARE}
"""Each view's base: the view that it is compared with."""


@dataclass(frozen=True)
class View:
    """One account of a step, of the whole batch.

    Attributes:
        flops: by operation.
        reasons: why it differs from its base.
        formulas: the part of it that closed forms registered with a counter say.
        unseen: by operation, what was not counted and how often it ran.
        error: why there is no account.
    """

    name: str
    flops: dict[str, int]
    reasons: list[Reason] = field(default_factory=list)
    formulas: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str | None = None

    @property
    def total(self) -> int:
        """FLOPs of all operations."""
        return sum(self.flops.values())

    def reason_of(self, operation: str) -> int:
        """FLOPs that reasons explain of an operation."""
        return sum(reason.flops for reason in self.reasons if reason.operation == operation)


@dataclass(frozen=True)
class KernelTotals:
    """GPU kernels of one class or name in one step: how many, what they executed, and the bytes that they moved.

    ``vector_flops`` is None where instructions of vector units were not counted.
    """

    kind: str
    launches: int
    tensor_flops: int
    vector_flops: int | None
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class Audit:
    """One case's accounts.

    Attributes:
        backends: per operation of the model, the kernel that ran.
        groups: the GPU's kernels by class; empty without its counters.
        kernels: its kernels by name.
        notes: sentences on how it was counted, or why not.
    """

    case: Case
    backends: dict[str, str]
    views: dict[str, View]
    groups: list[KernelTotals] = field(default_factory=list)
    kernels: list[KernelTotals] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def operations(self) -> list[str]:
        """Every operation that any view knows, in the order of the exact convention."""
        return [*dict.fromkeys(name for view in self.views.values() for name in view.flops)]

    def unexplained(self, view: str) -> dict[str, int]:
        """The part of each operation's difference that no reason explains; empty for a view without an account."""
        seen = self.views[view]
        if seen.error is not None:
            return {}
        base = self.views[BASE[view]].flops
        merged = _as_counted(base, seen.flops)
        left = {
            name: seen.flops.get(name, 0) - merged.get(name, 0) - seen.reason_of(name)
            for name in dict.fromkeys([*merged, *seen.flops, *(reason.operation for reason in seen.reasons)])
        }
        return {name: flops for name, flops in left.items() if flops}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "case": self.case.to_dict(),
            "backends": self.backends,
            "views": {
                name: {
                    "base": BASE.get(name),
                    "total": view.total,
                    "flops": view.flops,
                    "reasons": [vars(reason) for reason in view.reasons],
                    "unexplained": self.unexplained(name) if name in BASE else {},
                    "formulas": view.formulas,
                    "unseen": view.unseen,
                    "error": view.error,
                }
                for name, view in self.views.items()
            },
            "groups": [vars(group) for group in self.groups],
            "kernels": [vars(kernel) for kernel in self.kernels],
            "notes": self.notes,
        }


PRODUCTS = "all matrix products"
"""The products of a step in one, where a counter cannot tell them apart."""
_OTHER_PARTS = ("core", "conv", "scan")


def is_product(operation: str) -> bool:
    """Whether an operation is a matrix product and not a mixer's core."""
    return operation.split()[-1] not in _OTHER_PARTS


def _as_counted(base: dict[str, int], counted: dict[str, int]) -> dict[str, int]:
    """The base with its products in one, where that is how they were counted."""
    if PRODUCTS not in counted:
        return base
    rest = {name: flops for name, flops in base.items() if not is_product(name)}
    return {PRODUCTS: sum(base.values()) - sum(rest.values()), **rest}


def closed_forms(case: Case) -> dict[str, View]:
    """The three conventions, of the whole batch; the paper's has no account of blocks it has no formula for."""
    work, spec, batch = case.workload, case.model, case.workload.batch
    found = {}
    for convention in Convention:
        try:
            flops = operations(spec, work.kind, work.context, convention)
        except BadInput as exc:
            found[convention.value] = View(convention.value, {}, error=str(exc).rstrip("."))
            continue
        found[convention.value] = View(
            convention.value,
            {name: batch * count for name, count in flops.items() if count},
            [times(reason, batch) for reason in reasons(spec, work.kind, work.context, convention)],
        )
    return found


def times(reason: Reason, batch: int) -> Reason:
    """A reason of one sequence as one of the batch."""
    return Reason(reason.operation, reason.text, batch * reason.flops)


def summed(found: list[Reason]) -> list[Reason]:
    """Equal reasons added up, empty ones left out."""
    total: Counter[tuple[str, str]] = Counter()
    for reason in found:
        total[reason.operation, reason.text] += reason.flops
    return [Reason(*key, flops) for key, flops in total.items() if flops]
