"""record: what one trained model yielded at long contexts, and its stored form.

Schema history:
    1   first version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from hybridbench.plain import check_values, from_plain
from hybridbench.quality.contexts.case import ContextCase
from hybridbench.record import (
    BackendUse,
    Caveat,
    Environment,
    SizeCheck,
    Status,
    as_line,
    body_of,
    stating_fields,
    time_of,
)

SCHEMA = 1


@dataclass(frozen=True)
class StretchLoss:
    """The loss at the positions ``first`` to ``last - 1``.

    Attributes:
        losses: the mean of each document, in nats a token.
        text_bytes: that these tokens stand for, of all documents.
    """

    first: int
    last: int
    losses: list[float]
    text_bytes: int


@dataclass(frozen=True)
class Needle:
    """Prompts of one length with a needle at one depth.

    Attributes:
        found: prompts after which the number was generated.
        loss: of the number after the prompt, in nats a token.
    """

    length: int
    depth: int
    trials: int
    found: int
    loss: float


@dataclass(frozen=True)
class ContextObserved:
    """What was seen at long contexts; ``stretches`` by position, ``needles`` by length and depth."""

    stretches: list[StretchLoss]
    needles: list[Needle]
    backends: list[BackendUse]
    sized: list[SizeCheck]
    spent_ns: int


@dataclass(frozen=True)
class ContextRecord:
    """One trained model, how it ended, and what was observed; ``message`` is set unless it is ok."""

    FILES: ClassVar[str] = "contexts"
    WORKER: ClassVar[str] = "hybridbench.quality.contexts.worker"
    OBSERVED: ClassVar[type] = ContextObserved

    case: ContextCase
    status: Status
    run_id: str
    started_at: str
    environment: Environment
    observed: ContextObserved | None = None
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

    @classmethod
    def from_json(cls, line: str) -> ContextRecord:
        """Read one line back.

        Raises:
            BadResults: not JSON, not such a record, from a newer schema, or a field that cannot be right.
        """
        body = body_of(line, SCHEMA, "case")
        with stating_fields():
            if not isinstance(body["case"], dict) or "learned" not in body["case"]:
                raise ValueError("the case has no training run")
            record = from_plain(cls, {**body, "case": ContextCase.from_dict(body["case"])})
            check_values(record)
            time_of(record.started_at)
            for cell in record.observed.needles if record.observed else []:
                if not 0 <= cell.found <= cell.trials:
                    raise ValueError("needles has a cell with more found than tried")
            return record
