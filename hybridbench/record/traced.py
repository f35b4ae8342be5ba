"""traced: what a profiler saw of one case's steps, by class of operation, and its stored form.

Traces are stored beside records, in files of their own: ``traces-20261121T180512Z-4711-9f3a.jsonl``.

Schema history:
    1   first version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from hybridbench.plain import check_values, from_plain
from hybridbench.record.line import as_line, body_of, stating_fields, time_of
from hybridbench.record.observed import Environment
from hybridbench.record.record import Record, Status
from hybridbench.suite.case import Case

SCHEMA = 1
GAPS = "gaps"
"""The class of the time in which nothing ran."""
_ROUNDING = 1e-6
"""By how much sums may differ that are one number; the profiler's clock shows nanoseconds."""


@dataclass(frozen=True)
class Spent:
    """Time (seconds) that belongs to one class or one kernel, and its launches, per step."""

    name: str
    kind: str
    seconds: float
    launches: float


@dataclass(frozen=True)
class Trace:
    """One case's steps, seen by the profiler.

    Attributes:
        step_s: wall time of a profiled step, which is longer than an unprofiled one; seconds.
        busy_s: the part of it in which a kernel (on a CPU: an operator) ran; seconds.
        classes: per class, longest first.
        kernels: per kernel or operator, longest first.
        steps: how many were seen.
        order: the names of ``kernels`` in the order in which they first ran.
    """

    step_s: float
    busy_s: float
    classes: list[Spent]
    kernels: list[Spent]
    steps: int
    order: list[str] = field(default_factory=list)

    @property
    def gap_s(self) -> float:
        """The time of a step in which nothing ran; seconds."""
        return max(0.0, self.step_s - self.busy_s)

    @property
    def launches(self) -> float:
        """How many kernels or operators a step starts."""
        return sum(spent.launches for spent in self.classes)

    @property
    def parts_s(self) -> dict[str, float]:
        """Seconds of a step by class, longest first, and last its gaps."""
        return {**{spent.name: spent.seconds for spent in self.classes}, GAPS: self.gap_s}

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class and of gaps in a step; they add up to 1.

        Threads of a CPU may work side by side, so that operators take longer than the step; then shares are of that.
        """
        whole_s = sum(self.parts_s.values())
        return {name: seconds / whole_s for name, seconds in self.parts_s.items()}


@dataclass(frozen=True)
class TraceRecord:
    """One case that was traced, and what was seen; the fields are those of ``Record``."""

    FILES: ClassVar[str] = "traces"

    case: Case
    run_id: str
    started_at: str
    environment: Environment
    observed: Trace
    status: Status = Status.OK
    schema: int = SCHEMA

    @property
    def bare(self) -> Record:
        """The case as a record without measurements, by which traces are chosen and grouped as records are."""
        return Record(self.case, self.status, self.run_id, self.started_at, self.environment)

    def to_json(self) -> str:
        """One line of JSON with the case's key in front."""
        return as_line(self, self.case.key)

    @property
    def started(self) -> datetime:
        """When the trace began."""
        return time_of(self.started_at)

    @classmethod
    def from_json(cls, line: str) -> TraceRecord:
        """Read one line back.

        Raises:
            BadResults: not JSON, not such a record, from a newer schema, or a field that cannot be right.
        """
        body = body_of(line, SCHEMA, "case", "observed")
        with stating_fields():
            if not isinstance(body["case"], dict):
                raise ValueError("the case is no table")
            record = from_plain(cls, {**body, "case": Case.from_dict(body["case"])})
            check_values(record)
            time_of(record.started_at)
            _check_sums(record.observed)
            return record


def _check_sums(seen: Trace) -> None:
    """Check that the classes are all that ran, and that a step took time.

    Raises:
        ValueError: they are not, or it took none.
    """
    if not seen.step_s > 0:
        raise ValueError(f"observed.step_s: {seen.step_s}, where a number above 0 is expected")
    named = [spent.name for spent in seen.classes]
    if len(set(named)) < len(named) or GAPS in named:
        raise ValueError("observed.classes: a class is there twice")
    total_s = sum(spent.seconds for spent in seen.classes)
    if abs(total_s - seen.busy_s) > _ROUNDING * max(total_s, seen.busy_s):
        raise ValueError(f"observed.classes add up to {total_s:.6g} s, where busy_s says {seen.busy_s:.6g} s")
