"""record: what one run on a task yielded, and its stored form: losses, and the accuracy on each part as it learned.

Schema history:
    1   first version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from hybridbench.plain import check_values, from_plain
from hybridbench.quality.tasks.case import TaskCase
from hybridbench.quality.training.record import Event, StartCheck
from hybridbench.record import (
    BackendUse,
    Caveat,
    Environment,
    GpuState,
    Memory,
    SizeCheck,
    Status,
    as_line,
    body_of,
    stating_fields,
    time_of,
)

SCHEMA = 1


@dataclass(frozen=True)
class Scored:
    """The model on the examples that it is judged on, after so many steps.

    Attributes:
        correct_frac: of what was asked, for each part.
        train_ns: spent on training until then, without judging.
        energy_j: spent by the GPU meanwhile; None is unknown.
    """

    step: int
    correct_frac: list[float]
    train_ns: int
    energy_j: float | None


@dataclass(frozen=True)
class TaskObserved:
    """What was seen while a model learned a task.

    Attributes:
        losses: the mean of the steps between two pauses, in nats an answer.
        curve: the judgements; the last is of the final model.
        events: what went wrong.
        finished: whether all steps were done, or the task was solved before.
        start: statistics of the initial weights.
    """

    losses: list[float]
    curve: list[Scored]
    events: list[Event]
    finished: bool
    start: list[StartCheck]
    parameters: int
    memory: Memory
    backends: list[BackendUse]
    sized: list[SizeCheck]
    build_ns: int
    prepare_ns: int
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None


@dataclass(frozen=True)
class TaskRecord:
    """One run, how it ended, and what was observed; ``message`` is set unless it is ok."""

    FILES: ClassVar[str] = "solve"
    WORKER: ClassVar[str] = "hybridbench.quality.tasks.worker"
    OBSERVED: ClassVar[type] = TaskObserved

    case: TaskCase
    status: Status
    run_id: str
    started_at: str
    environment: Environment
    observed: TaskObserved | None = None
    message: str | None = None
    traceback: str | None = None
    caveats: list[Caveat] = field(default_factory=list)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """One line of JSON with the case's key in front."""
        return as_line(self, self.case.key)

    @property
    def started(self) -> datetime:
        """When the run began."""
        return time_of(self.started_at)

    @property
    def final(self) -> Scored | None:
        """The last judgement of a run that went well; None otherwise."""
        seen = self.observed
        return seen.curve[-1] if seen is not None and seen.finished else None

    @classmethod
    def from_json(cls, line: str) -> TaskRecord:
        """Read one line back.

        Raises:
            BadResults: not JSON, not such a record, from a newer schema, or a field that cannot be right.
        """
        body = body_of(line, SCHEMA, "case")
        with stating_fields():
            if not isinstance(body["case"], dict) or "task" not in body["case"]:
                raise ValueError("the case has no task")
            record = from_plain(cls, {**body, "case": TaskCase.from_dict(body["case"])})
            check_values(record)
            time_of(record.started_at)
            _check_curve(record)
            return record


def _check_curve(record: TaskRecord) -> None:
    """Raise ``ValueError`` for a curve that cannot be."""
    seen = record.observed
    if seen is None:
        return
    steps = [point.step for point in seen.curve]
    if not steps or steps != sorted(set(steps)) or steps[-1] > record.case.steps:
        raise ValueError("curve has no points, or their steps do not rise to the steps of the run")
    parts = len(record.case.setting.test)
    if any(
        len(point.correct_frac) != parts or not all(0 <= one <= 1 for one in point.correct_frac) for point in seen.curve
    ):
        raise ValueError(f"curve has a point without {parts} shares from 0 to 1")
