"""sides: what is compared: several results, two runs of one folder, or the values of a field within one run.

    compare before after            one side per argument
    compare folder                  the two newest runs below it, the older one first
    compare                         the two newest runs below results/local
    compare folder --across dtype   one side per dtype that its records have

The first side is the base: every other one is compared with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridbench.compare.calibrated import NONE, Calibrations
from hybridbench.compare.cell import ComparedCell, ComparedMetric
from hybridbench.compare.kernels import kernel_cells
from hybridbench.compare.steps import step_cells
from hybridbench.errors import BadInput, unknown_name
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.record import Record
from hybridbench.store import holds, load

CROSSINGS: dict[str, tuple[str, ...]] = {
    "backend": ("backends",),
    "machine": ("device", "cpu", "cores", "threads", "driver", "cuda"),
    "version": ("schema", "python", "driver", "cuda", "packages"),
    "architecture": ("model", "scale", "spec"),
    "mode": ("mode",),
    "dtype": ("dtype", "state dtype", "weight dtype", "kv dtype"),
}
"""What can be compared across, and the fields of a cell that may then differ. The code of hybridbench itself is no
field: what differs between two commits is what a comparison is for."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class ComparedSide:
    """One side of a comparison.

    Args:
        letter: what tables call it.
        title: the path, the run, or the values that its cells have in common.
    """

    letter: str
    title: str
    cells: tuple[ComparedCell, ...]


def crossed_fields(across: Sequence[str]) -> frozenset[str]:
    """The fields that may differ.

    Raises:
        BadInput: a name that is not in ``CROSSINGS``.
    """
    for name in across:
        if name not in CROSSINGS:
            raise unknown_name("--across", name, CROSSINGS)
    return frozenset(field for name in across for field in CROSSINGS[name])


def load_sides(
    paths: Sequence[Path],
    across: Sequence[str],
    asked: ComparedMetric,
    warn: Callable[[str], None],
    damaged: Callable[[str], None] | None = None,
    known: Calibrations = NONE,
) -> list[ComparedSide]:
    """The sides that paths name, the base first.

    Args:
        paths: results folders or files: each is a side; a single one is taken apart.
        across: names in ``CROSSINGS``.
        asked: the metric of the cells.
        warn, damaged: called with a sentence about what was passed over, as by ``store.load``.
        known: the noise that was calibrated.

    Raises:
        BadInput: an unknown name, too many sides, or a single path that holds one side only.
        BadResults: results that are missing or cannot be read.
    """
    crossed = crossed_fields(across)
    if len(paths) == 1:
        cells = load_cells([paths[0]], asked, warn, damaged, known)[0]
        return _by_values(cells, crossed, across, paths[0]) if across else _by_runs(cells, paths[0])
    return lettered(list(zip(map(str, paths), load_cells(paths, asked, warn, damaged, known), strict=True)))


def load_cells(
    paths: Sequence[Path],
    asked: ComparedMetric,
    warn: Callable[[str], None],
    damaged: Callable[[str], None] | None,
    known: Calibrations = NONE,
) -> list[list[ComparedCell]]:
    """The cells of each path, of steps and of kernels; arguments and errors are those of ``load_sides``."""
    steps: list[list[Record]] = []
    kernels: list[list[KernelRecord]] = []
    for path in paths:
        of_kernels = os.path.exists(path) and holds([path], KernelRecord)
        kernels.append(load([path], warn, damaged, KernelRecord) if of_kernels else [])
        steps.append(load([path], warn, damaged) if not of_kernels or holds([path], Record) else [])
    cells = iter(step_cells([record for some in steps for record in some], asked, known))
    return [
        [*(next(cells) for _ in some), *kernel_cells(others, asked, known)]
        for some, others in zip(steps, kernels, strict=True)
    ]


def _by_runs(cells: Sequence[ComparedCell], path: Path) -> list[ComparedSide]:
    """The two newest runs, the older one first."""
    runs: dict[str, list[ComparedCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.moment):
        runs.setdefault(cell.run, []).append(cell)
    order = sorted(runs, key=lambda run: max(cell.moment for cell in runs[run]))
    if len(order) < 2:
        raise BadInput(
            f"{path} holds one run ({order[0]}): name results to compare it with, or compare what is in it with "
            f"--across {', '.join(CROSSINGS)}."
        )
    return lettered([(f"run {run}", runs[run]) for run in order[-2:]])


def _by_values(
    cells: Sequence[ComparedCell], crossed: frozenset[str], across: Sequence[str], path: Path
) -> list[ComparedSide]:
    """A side for each combination of values of the crossed fields, in the order in which they were first measured."""
    found: dict[tuple[str, ...], list[ComparedCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.moment):
        fields = {**cell.what, **cell.how}
        found.setdefault(tuple(fields[name] for name in fields if name in crossed), []).append(cell)
    if len(found) < 2:
        raise BadInput(
            f"{path} holds one {' and '.join(across)} only: name results to compare it with, or another --across."
        )
    return lettered([(_title(side[0], list(found), values, crossed), side) for values, side in found.items()])


def _title(
    cell: ComparedCell, every: Sequence[tuple[str, ...]], values: tuple[str, ...], crossed: frozenset[str]
) -> str:
    """The values that tell this side from the others; a spec has a name already."""
    names = [name for name in {**cell.what, **cell.how} if name in crossed]
    telling = [
        value
        for place, (name, value) in enumerate(zip(names, values, strict=True))
        if name != "spec" and len({other[place] for other in every}) > 1
    ]
    return ", ".join(telling)


def lettered(named: Sequence[tuple[str, Sequence[ComparedCell]]]) -> list[ComparedSide]:
    """Sides with the letters that tables call them by, in the order given.

    Raises:
        BadInput: more than there are letters.
    """
    if len(named) > len(LETTERS):
        raise BadInput(f"that makes {len(named)} sides, more than {len(LETTERS)}: name fewer results.")
    return [ComparedSide(letter, title, tuple(cells)) for letter, (title, cells) in zip(LETTERS, named, strict=False)]
