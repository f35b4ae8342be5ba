"""calibrated: the noise of a cell as ``hybridbench check --calibrate`` measured it on the machine of its record.

A calibration has the standard deviation of the log ratio of a pair of processes that run the same code. Both sides of a
pair are alike and independent, so one process has that over the square root of two. The processes of a pair are alive
at the same time and take turns: what moves a whole run, an hour later, is in no calibration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hybridbench.gate.calibration import Calibrated, Calibration, load_calibration, machine_of
from hybridbench.gate.cells import AUTO, of_kernel, of_step
from hybridbench.kernel_suite.record import KernelRecord
from hybridbench.record import Environment, Record


@dataclass(frozen=True)
class MeasuredNoise:
    """The noise of a cell as it was measured, not assumed of its class.

    Args:
        frac: standard deviation of a process's median; a fraction.
        source: in words.
    """

    frac: float
    source: str


class Calibrations:
    """The calibrations of machines; without any, nothing is known."""

    def __init__(self, found: Iterable[Calibration] = ()) -> None:
        self._found = list(found)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Calibrations:
        """Read files that ``hybridbench check --calibrate`` wrote.

        Raises:
            BadInput: one that is missing or is no calibration.
        """
        return cls(load_calibration(path) for path in paths)

    def of_step(self, record: Record) -> MeasuredNoise | None:
        """The noise of a model's step; None where no calibration of this machine has the cell."""
        return self._of(record.environment, of_step(record.case).name)

    def of_kernel(self, record: KernelRecord) -> MeasuredNoise | None:
        """The same of an operation, also where ``auto`` was calibrated and took the record's backend."""
        cell = record.case
        named = self._of(record.environment, of_kernel(cell).name)
        return named or self._of(record.environment, of_kernel(replace(cell, backend=AUTO)).name, cell.backend)

    def _of(self, environment: Environment, name: str, backend: str | None = None) -> MeasuredNoise | None:
        here = machine_of(environment)
        for one in self._found:
            cell = one.cells.get(name)
            if cell is not None and dict(one.machine) == here and backend in (None, cell.backend):
                return _measured(cell)
        return None


def _measured(cell: Calibrated) -> MeasuredNoise:
    source = f"calibrated on this machine, {cell.pairs} pairs of processes that took turns"
    return MeasuredNoise(cell.sd / math.sqrt(2), source)


NONE = Calibrations()
