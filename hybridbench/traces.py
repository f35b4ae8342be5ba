"""traces: each of several cases traced in this process, and stored; one that cannot be traced loses no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridbench import trace
from hybridbench.record.traced import Trace, TraceRecord
from hybridbench.store import RecordWriter, free_path
from hybridbench.suite.case import Case
from hybridbench.worker import failure_of, free_memory


@dataclass(frozen=True)
class SeenStep:
    """What a trace saw, and the file of its Chrome trace, where it was stored."""

    trace: Trace
    chrome: Path | None = None


@dataclass(frozen=True)
class NotTraced:
    """Why a case was not traced, in words."""

    why: str


def each_traced(cases: Sequence[Case], steps: int, out: Path | None) -> Iterator[tuple[Case, SeenStep | NotTraced]]:
    """Each case with what was seen of it, as it is done; none after one that may have left the device unusable.

    Args:
        steps: of each, that are profiled.
        out: the folder for records and Chrome traces; None stores none.

    Raises:
        Exception: a single case cannot be traced; of several its reason is returned.
    """
    for case in cases:
        try:
            seen = _stored(case, steps, out) if out else SeenStep(trace.trace_case(case, steps=steps))
        except Exception as exc:
            if len(cases) == 1:
                raise
            said = failure_of(exc)
            yield case, NotTraced(f"{said['status']}, {said['message']}")
            if not said["fit"]:  # what failed may have left the device in any state
                return
        else:
            yield case, seen
        free_memory(case)


def _stored(case: Case, steps: int, out: Path) -> SeenStep:
    """Trace a case, and store what was seen in a folder, beside the Chrome trace."""
    with RecordWriter(out, kind=TraceRecord) as writer:
        chrome = free_path(out, "trace", ".json")
        record = trace.traced(case, writer.run_id, steps=steps, chrome=chrome)
        writer.append(record)
    return SeenStep(record.observed, chrome)
