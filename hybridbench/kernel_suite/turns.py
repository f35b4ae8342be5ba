"""turns: cells of the same work, which one process checks one by one and then times in turns, in short blocks.

A drift of the clocks then meets all backends of an operation alike, and so does whatever else uses the machine. Their
inputs are in memory at the same time; those that do not fit are timed by themselves, and say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from hybridbench.joint import Joint
from hybridbench.kernel_suite.cell import Cell, sizes_text
from hybridbench.kernel_suite.record import Agreement, Chosen
from hybridbench.plain import from_plain, to_plain

PROCESS_ENDED = "the process that timed them in turns ended"


@dataclass(frozen=True)
class Turns(Joint):
    """Cells of the same operation, problem and direction.

    Args:
        cells: one for each backend.
        known: what an earlier process found when it compared a cell's outputs, by the cell's key; those cells are not
            compared again.
        pinned: configurations that autotuners use instead of tuning; None leaves them alone.
        why_apart: why its cells are not timed in turns; None where they are.
    """

    cells: tuple[Cell, ...]
    known: Mapping[str, Agreement]
    pinned: tuple[Chosen, ...] | None = None
    why_apart: str | None = None

    @property
    @override
    def cases(self) -> tuple[Cell, ...]:
        """The cells."""
        return self.cells

    @property
    @override
    def limit_s(self) -> float:
        """The longest limit of its cells."""
        return max(cell.limit_s for cell in self.cells)

    @property
    def label(self) -> str:
        """One line for progress."""
        first = self.cells[0]
        if len(self.cells) == 1:
            return first.label
        names = ", ".join(cell.backend for cell in self.cells)
        return f"{first.op} {first.direction}, {sizes_text(first.problem)} {first.problem.dtype}: {names}"

    @property
    def device(self) -> str:
        """The kind of device that they run on."""
        return self.cells[0].device

    @property
    def compiled(self) -> bool:
        """Whether a model's layers are compiled: there is no model."""
        return False

    @override
    def some(self, cases: Sequence[Cell]) -> Turns:
        """The same with some of its cells."""
        return replace(self, cells=tuple(cases))

    @override
    def apart(self, case: Cell) -> Turns:
        """One cell by itself, since the process that timed several ended."""
        return replace(self, cells=(case,), why_apart=PROCESS_ENDED)

    @override
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` gives an equal one back."""
        return {
            "cells": [cell.to_dict() for cell in self.cells],
            "known": {cell.key: to_plain(self.known[cell.key]) for cell in self.cells if cell.key in self.known},
            "pinned": None if self.pinned is None else to_plain(self.pinned),
            "why_apart": self.why_apart,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Turns:
        """Rebuilds one.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or unknown.
        """
        pinned = body["pinned"]
        return cls(
            tuple(Cell.from_dict(cell) for cell in body["cells"]),
            {key: from_plain(Agreement, one) for key, one in body["known"].items()},
            None if pinned is None else tuple(from_plain(Chosen, one) for one in pinned),
            body["why_apart"],
        )


def in_turns(
    cells: Iterable[Cell],
    known: Mapping[str, Agreement] | None = None,
    pinned: Sequence[Chosen] | None = None,
) -> list[Turns]:
    """Cells as jobs: those of the same work together, in the order in which each work comes first."""
    alike: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        work = (cell.op, cell.problem, cell.direction, cell.sampling, cell.seed)
        alike.setdefault(work, []).append(cell)
    chosen = None if pinned is None else tuple(pinned)
    return [Turns(tuple(some), known or {}, chosen) for some in alike.values()]
