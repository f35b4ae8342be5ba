"""pairing: which cell of one side stands beside which of another, and why some stand beside none.

A cell's partner is the newest one with the same work and conditions. If there is none, it is the newest one that
differs in crossed fields only. If there is none of these, but one of the same work under other conditions is left, the
two are not comparable, and the fields in which they differ are named. What then remains is on one side only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from hybridbench.compare.cell import ComparedCell, newest
from hybridbench.compare.sides import ComparedSide


@dataclass(frozen=True)
class CellPair:
    """One cell of the base and its partner on another side; one of them is None if it is on one side only.

    Args:
        side: the letter of the other side.
        differing: the fields whose difference forbids a comparison, each with both values.
        crossed: the fields that differ and may, each with both values.
        passed_over: earlier records of these cells, which are not shown.
    """

    side: str
    base: ComparedCell | None
    other: ComparedCell | None
    differing: dict[str, tuple[str, str]]
    crossed: dict[str, tuple[str, str]]
    passed_over: int = 0

    @property
    def separate(self) -> bool:
        """Whether the two were measured by separate runs."""
        return self.base is not None and self.other is not None and self.base.run != self.other.run

    @property
    def shown(self) -> ComparedCell:
        """The cell whose fields name the pair: the base's, or the other's if the base has none."""
        cell = self.base or self.other
        if cell is None:
            raise ValueError("a pair of no cells")
        return cell


def pair(base: ComparedSide, other: ComparedSide, crossed: frozenset[str]) -> list[CellPair]:
    """Each cell of two sides once, in the order of the base and then of the other side."""
    left, right = _Waiting(base.cells), _Waiting(other.cells)
    pairs = [
        _pair(other.letter, left, right, cells, partners)
        for fields in dict.fromkeys((frozenset[str](), crossed))
        for cells, partners in _matched(left, right, fields)
    ]
    for cell in left.newest():
        rivals = [rival for rival in right.newest() if _work(rival, crossed) == _work(cell, crossed)]
        if rivals:
            nearest = min(rivals, key=lambda rival: len(_differences(cell, rival, crossed)[0]))
            pairs.append(_pair(other.letter, left, right, [cell], [nearest]))
    pairs = [_named(found, crossed) for found in pairs]
    pairs += [CellPair(other.letter, cell, None, {}, {}, left.earlier(cell)) for cell in left.newest()]
    pairs += [CellPair(other.letter, None, cell, {}, {}, right.earlier(cell)) for cell in right.newest()]
    order = {cell.identity(): place for place, cell in reversed(list(enumerate([*base.cells, *other.cells])))}
    return sorted(pairs, key=lambda found: order[found.shown.identity()])


class _Waiting:
    """The cells of one side that have no partner yet, by identity, with all their records."""

    def __init__(self, cells: Iterable[ComparedCell]) -> None:
        self._left: dict[Hashable, list[ComparedCell]] = {}
        self._all: dict[Hashable, int] = {}
        for cell in cells:
            self._left.setdefault(cell.identity(), []).append(cell)
            self._all[cell.identity()] = self._all.get(cell.identity(), 0) + 1

    def newest(self) -> list[ComparedCell]:
        """The newest record of each cell that is left."""
        return [newest(cells) for cells in self._left.values()]

    def take(self, cells: Sequence[ComparedCell]) -> tuple[ComparedCell, int]:
        """The newest of some cells, which are no longer left, and how many records beside it were."""
        records = sum(len(self._left.pop(identity)) for identity in {cell.identity(): None for cell in cells})
        return newest(cells), records - 1

    def earlier(self, cell: ComparedCell) -> int:
        """How many earlier records a cell has."""
        return self._all[cell.identity()] - 1


def _matched(
    left: _Waiting, right: _Waiting, crossed: frozenset[str]
) -> list[tuple[list[ComparedCell], list[ComparedCell]]]:
    """The cells of both sides whose identities agree but for crossed fields."""
    found: dict[Hashable, tuple[list[ComparedCell], list[ComparedCell]]] = {}
    for place, side in enumerate((left, right)):
        for cell in side.newest():
            found.setdefault(cell.identity(crossed), ([], []))[place].append(cell)
    return [(cells, partners) for cells, partners in found.values() if cells and partners]


def _pair(
    side: str, left: _Waiting, right: _Waiting, cells: Sequence[ComparedCell], partners: Sequence[ComparedCell]
) -> CellPair:
    (base, more), (other, others) = left.take(cells), right.take(partners)
    return CellPair(side, base, other, {}, {}, more + others)


def _named(found: CellPair, crossed: frozenset[str]) -> CellPair:
    """A pair with the fields in which its cells differ."""
    if found.base is None or found.other is None:
        return found
    differing, allowed = _differences(found.base, found.other, crossed)
    return CellPair(found.side, found.base, found.other, differing, allowed, found.passed_over)


def _work(cell: ComparedCell, crossed: frozenset[str]) -> tuple[tuple[str, str], ...]:
    return tuple(item for item in cell.what.items() if item[0] not in crossed)


def _differences(
    base: ComparedCell, other: ComparedCell, crossed: frozenset[str]
) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """The conditions in which two cells of the same work differ: those that may not, and those that may."""
    ours, theirs = {**base.what, **base.how}, {**other.what, **other.how}
    differing: dict[str, tuple[str, str]] = {}
    allowed: dict[str, tuple[str, str]] = {}
    for name in dict.fromkeys((*ours, *theirs)):
        values = (ours.get(name, "unknown"), theirs.get(name, "unknown"))
        if values[0] != values[1]:
            (allowed if name in crossed else differing)[name] = values
    return differing, allowed
