"""record: what one case yielded when it ran, and the JSON form it is stored in.

A record holds observations only: raw samples in nanoseconds in the order they were taken, bytes, clocks, counts, the
kernels that ran, and how the case ended. Latencies, throughputs, MFU and verdicts are pure functions of records and
live in ``metrics``. Unknown is ``None``, never zero.

Schema history:
    1   first version.
    2   ``Observed.ceilings``: rates measured in the same process; None in older records.
    3   ``Observed.parts`` and ``Workload.depths``: generations timed at depths; modes of execution have ``published``.
    4   ``Ceilings.sustained_matmul_flops_per_s``; None in older records.
    5   ``Observed.sized`` and ``check_ns``: the check of the work at its own size; empty and None in older records.
    6   ``OperatorCount.formulas``; in older records it is empty, and counters had only their own formulas, so that
        fused attention on a CPU and kernels outside the dispatcher counted as 0.
    7   cases of several ranks: ``Execution.gpus`` and ``tp``, ``Observed.ranks``, ``links`` and ``silent_ns``; 1, empty
        and None in older records.
    8   ``Observed.compiled``, Triton kernels that compiled or tuned themselves, and ``Execution.weight_dtype`` and
        ``kv_dtype``, quantised weights, keys and values; None in older records.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from hybridbench.arch.block import DTYPE_BYTES
from hybridbench.errors import unknown_name
from hybridbench.plain import check_values, from_plain
from hybridbench.record.caveats import Caveat
from hybridbench.record.line import Line, body_of, stating_fields, time_of
from hybridbench.record.observed import Environment, Observed
from hybridbench.suite.case import Case
from hybridbench.suite.quantised import check_quantised
from hybridbench.suite.spread import check_spreads
from hybridbench.text import printable, shown

SCHEMA = 8


class Status(StrEnum):
    """How a case ended; everything but ``ok`` is a row with a reason, never a hole."""

    OK = "ok"
    OOM = "oom"
    UNSUPPORTED = "unsupported"
    WRONG = "wrong"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Record(Line):
    """One case, how it ended, and what was observed; ``message`` and ``traceback`` are set unless it is ok.

    Attributes:
        FILES: how the names of the files begin that hold such records.
        WORKER: the module of the process that runs their cases.
        OBSERVED: what such a process answers with.
    """

    FILES: ClassVar[str] = "records"
    WORKER: ClassVar[str] = "hybridbench.worker"
    OBSERVED: ClassVar[type] = Observed

    case: Case
    status: Status
    run_id: str
    started_at: str
    environment: Environment
    observed: Observed | None = None
    message: str | None = None
    traceback: str | None = None
    caveats: list[Caveat] = field(default_factory=list)
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line back.

        What a program said (a message, a traceback, a counter's error) may hold anything; control characters in it are
        spelled out.

        Raises:
            BadResults: not JSON, not a record of ours, from a newer schema, or a field that cannot be right, which the
                text names.
        """
        body = body_of(line, SCHEMA, "case")
        with stating_fields():
            record = _spelled_out(from_plain(cls, {**body, "case": _case(body["case"])}))
            check_values(record)
            _check_consistent(record)
            return record


def _case(body: object) -> Case:
    """The case in a record.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, BadInput: a field is missing, unknown or misstated.
    """
    if not isinstance(body, dict):
        raise ValueError(f"case: expected a table, not {shown(body)}")
    return Case.from_dict(body)


def _spelled_out(record: Record) -> Record:
    """A record whose free text can be shown."""
    seen = record.observed
    if seen is not None:
        counts = [replace(one, error=one.error and printable(one.error)) for one in seen.counts]
        seen = replace(seen, counts=counts)
    message, traceback = (text and printable(text) for text in (record.message, record.traceback))
    return replace(record, observed=seen, message=message, traceback=traceback)


def _check_consistent(record: Record) -> None:
    """Check what fields mean.

    Raises:
        ValueError: a time that is none, a step that took no time, or an observation without samples.
        BadInput: an unknown dtype, or a case that cannot be spread over its ranks.
    """
    for dtype in (record.case.execution.dtype, record.case.execution.state_dtype):
        if dtype is not None and dtype not in DTYPE_BYTES:
            raise unknown_name("dtype", dtype, DTYPE_BYTES)
    time_of(record.started_at)
    check_spreads(record.case)
    check_quantised(record.case.execution, record.case.workload.kind)
    seen = record.observed
    if seen is None:
        return
    samples = [seen.samples_ns, *(part.samples_ns for part in seen.parts)]
    of_ranks = [seen.silent_ns, *(rank.samples_ns for rank in seen.ranks)]
    if any(ns <= 0 for some in [*samples, *of_ranks] for ns in some):
        raise ValueError("samples_ns holds a duration that is not above 0")
    if not any(samples):
        raise ValueError("samples_ns is empty")
