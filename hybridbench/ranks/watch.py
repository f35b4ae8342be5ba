"""watch: a thread of each rank that tells its worker of a collective that does not end, while the rank itself waits.

It reads PyTorch's flight recorder, which numbers the collectives of a process and notes which of them have ended. It
looks every few seconds, which takes a millisecond. Collectives within a replayed CUDA graph are not recorded.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hybridbench.standing import ASK, Standing

LOOKS_EVERY_S, LISTENS_EVERY_S = 5.0, 0.5


@dataclass(frozen=True)
class Collectives:
    """How many collectives a process has begun, how many of them have ended, and the name of the last one begun."""

    begun: int
    done: int
    op: str | None


def collectives() -> Collectives:
    """Those of this process by the flight recorder; none where this build of PyTorch has no recorder."""
    begun = done = 0
    last: tuple[int, str | None] = (-1, None)
    for trace in _traces():
        for status in trace.get("pg_status", {}).values():
            begun += max(0, int(status["last_enqueued_collective"]))
            done += max(0, int(status["last_completed_collective"]))
        for entry in trace.get("entries", []):
            last = max(last, (int(entry["time_created_ns"]), entry["profiling_name"]), key=lambda one: one[0])
    return Collectives(begun, done, None if last[1] is None else last[1].partition(":")[2] or last[1])


def _traces() -> list[dict[str, Any]]:
    found = []
    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):
        dump: Callable[..., Any] | None = getattr(torch._C._distributed_c10d, name, None)
        if dump is not None:
            found.append(json.loads(dump(includeCollectives=True, onlyActive=False)))
    return found


def watch(standing: Standing, tell: Callable[..., None], now: Callable[[], float] = time.monotonic) -> None:
    """Watches this process from a thread of its own.

    Args:
        tell: called with the kind of a message and its fields.
    """

    def look() -> None:
        seen, since, told, answered = collectives(), now(), False, False
        looked = since
        while True:
            time.sleep(LISTENS_EVERY_S)
            asked = not answered and standing.meeting.with_name(ASK).exists()
            if now() < looked + LOOKS_EVERY_S and not asked:
                continue
            found, looked = collectives(), now()
            if found != seen or found.begun <= found.done:
                seen, since, told = found, now(), False
            waits_s = now() - since
            if waits_s > standing.patience_s and not told:
                told = True
                tell("stuck", op=found.op, begun=found.begun, for_s=waits_s)
            if asked:
                answered = True
                tell("at", begun=found.begun, done=found.done, op=found.op)

    threading.Thread(target=look, daemon=True, name="watch").start()
