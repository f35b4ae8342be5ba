"""record: what one training run yielded, and its stored form: losses step by step, and the held-out curve.

Schema history:
    1   first version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from hybridbench.plain import check_values, from_plain
from hybridbench.quality.training.case import LearnCase
from hybridbench.record import (
    BackendUse,
    Caveat,
    Ceilings,
    Environment,
    GpuState,
    Line,
    Memory,
    SizeCheck,
    Status,
    body_of,
    stating_fields,
    time_of,
)

SCHEMA = 1


class Mark(StrEnum):
    """What went wrong while a model learned."""

    SPIKE = "spike"
    DIVERGED = "diverged"
    NOT_A_NUMBER = "not_a_number"


MEANINGS: dict[Mark, str] = {
    Mark.SPIKE: "the loss of a step was over half a nat above the median of the 32 before on batches of its kind",
    Mark.DIVERGED: "the mean loss of 32 steps on batches of one kind was over a nat above the best mean before: the "
    "run was ended",
    Mark.NOT_A_NUMBER: "the loss or the gradients were no numbers: the run was ended",
}


@dataclass(frozen=True)
class Event:
    """Something that went wrong, at a step from 0; ``loss`` is the step's, None where it is no number."""

    mark: Mark
    step: int
    loss: float | None


@dataclass(frozen=True)
class Judged:
    """The model on held-out text after so many steps.

    Attributes:
        loss: nats a token, EOS included.
        tokens, text_bytes: that were judged.
        train_ns: spent on training until then, without judging and checkpoints.
        energy_j: spent by the GPU meanwhile, by NVML's counter; None is unknown.
    """

    step: int
    loss: float
    tokens: int
    text_bytes: int
    train_ns: int
    energy_j: float | None


@dataclass(frozen=True)
class StartCheck:
    """One statistic of the initial weights: ``off`` standard errors from what was due, at most ``bound``."""

    what: str
    found: float
    due: float
    off: float
    bound: float


@dataclass(frozen=True)
class LearnObserved:
    """What was seen while a model learned.

    Attributes:
        losses: of each step's batch, before its update; nats a token. They end before a loss that is no number.
        gradient_norms: of each step, before clipping.
        curve: the held-out losses.
        events: what went wrong.
        finished: whether all steps were done; not so where the run diverged.
        resumed_at: the steps at which it went on from a checkpoint.
        start: statistics of the initial weights.
        weights: the file of the final weights, below the folder of results.
    """

    losses: list[float]
    gradient_norms: list[float]
    curve: list[Judged]
    events: list[Event]
    finished: bool
    resumed_at: list[int]
    start: list[StartCheck]
    parameters: int
    memory: Memory
    backends: list[BackendUse]
    sized: list[SizeCheck]
    build_ns: int
    prepare_ns: int
    weights: str | None = None
    ceilings: Ceilings | None = None
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None


@dataclass(frozen=True)
class LearnRecord(Line):
    """One training run, how it ended, and what was observed; ``message`` is set unless it is ok."""

    FILES: ClassVar[str] = "learn"
    WORKER: ClassVar[str] = "hybridbench.quality.training.worker"
    OBSERVED: ClassVar[type] = LearnObserved

    case: LearnCase
    status: Status
    run_id: str
    started_at: str
    environment: Environment
    observed: LearnObserved | None = None
    message: str | None = None
    traceback: str | None = None
    caveats: list[Caveat] = field(default_factory=list)
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, line: str) -> LearnRecord:
        """Read one line back.

        Raises:
            BadResults: not JSON, not such a record, from a newer schema, or a field that cannot be right.
        """
        body = body_of(line, SCHEMA, "case")
        with stating_fields():
            if not isinstance(body["case"], dict) or "corpus" not in body["case"]:
                raise ValueError("the case has no corpus")
            record = from_plain(cls, {**body, "case": LearnCase.from_dict(body["case"])})
            check_values(record)
            time_of(record.started_at)
            _check_curve(record)
            return record


def _check_curve(record: LearnRecord) -> None:
    """Raise ``ValueError`` for a curve that cannot be."""
    seen = record.observed
    if seen is None:
        return
    steps = [point.step for point in seen.curve]
    if not steps or steps != sorted(set(steps)) or steps[-1] > record.case.steps:
        raise ValueError("curve has no points, or their steps do not rise to the steps of the run")
    if any(point.tokens < 1 or point.text_bytes < 1 for point in seen.curve):
        raise ValueError("curve has a point that judged no tokens or no bytes")
    if any(not math.isfinite(loss) for loss in seen.losses):
        raise ValueError("losses holds what is no number")
