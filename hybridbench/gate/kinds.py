"""kinds: the kinds of cell that are judged, each with its fixed margin, its looks and the noise that is assumed of it.

The margin is what a change may cost. It belongs to the kind and is never widened by a cell's own noise: a cell that is
too noisy for its margin is advisory instead (``calibration``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CellKind:
    """One kind of cell.

    Args:
        title: for people.
        margin: the slowdown that counts as a regression; a log ratio, which is a fraction at this size.
        looks: after how many pairs the judge looks; after the last one an open cell is inconclusive.
        confirm: fresh pairs that must confirm a regression.
        sd: standard deviation of a pair's log ratio that is assumed of a cell which was not calibrated.
        host: whether the host's work may be part of the time, so that equal machine code says nothing about it.
    """

    title: str
    margin: float
    looks: tuple[int, ...]
    confirm: int
    sd: float
    host: bool


KINDS: dict[str, CellKind] = {
    "step": CellKind("graphed step", 0.005, (3, 6), 2, 0.0015, host=False),
    "kernel": CellKind("kernel", 0.0075, (4, 8), 4, 0.003, host=False),
    "training": CellKind("training step", 0.015, (6, 12), 4, 0.01, host=True),
    "cpu": CellKind("CPU", 0.05, (4, 8), 4, 0.02, host=True),
}
