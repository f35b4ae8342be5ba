"""together: what a worker does with cells of the same work: it checks each alone, then times the right ones in turns.

What it says is read by ``runner.Dialogue``: which cell it works at, and an answer for each.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any

import torch

from hybridbench.audit.exchange import Taken
from hybridbench.audit.observe.tuned import using
from hybridbench.bench import Bench
from hybridbench.kernel_suite.record import Chosen
from hybridbench.kernel_suite.run import ReadyCase, fitting, observed, ready, timed_in_turns
from hybridbench.kernel_suite.timing import Timed
from hybridbench.kernel_suite.turns import Turns
from hybridbench.worker import failure_of, free_memory, success_of

NO_ROOM = "together they do not fit in memory"


def work(turns: Turns, bench: Bench) -> Iterator[dict[str, Any]]:
    """Checks and times cells; yields a worker's messages about them.

    An error that ends the turns and is not one cell's is raised: the process ends, and each cell gets one of its own.
    """
    with using([_taken(one) for one in turns.pinned or ()]):
        some: dict[int, ReadyCase] = {}
        for place, cell in enumerate(turns.cells):
            yield {"kind": "turn", "case": place}
            try:
                some[place] = ready(cell, bench, turns.known.get(cell.key))
            except Exception as exc:  # noqa: BLE001  # the boundary of the process: whatever ends a cell is its answer
                yield {"kind": "answer", "case": place, **failure_of(exc)}
            free_memory(turns)
        why, timed = turns.why_apart, dict[int, Timed]()
        if len(some) > 1 and why is None:
            kept, why = fitting(list(some.values()), bench.device)
            sides = {place: one for place, one in some.items() if one in kept}
            if len(sides) > 1:
                yield {"kind": "turn", "case": None}
                timed, full = _in_turns(sides, bench)
                why = full or why
        for place, one in some.items():
            yield {"kind": "turn", "case": place}
            others = [some[at].cell.backend for at in timed if at != place] if place in timed else []
            try:
                samples = timed[place] if place in timed else timed_in_turns([one], bench)[0]
                apart = None if place in timed else why
                answer = success_of(*observed(one, samples, bench, others, apart, pinned=turns.pinned is not None))
            except Exception as exc:  # noqa: BLE001  # as above
                answer = failure_of(exc)
            yield {"kind": "answer", "case": place, **answer}


def _in_turns(some: dict[int, ReadyCase], bench: Bench) -> tuple[dict[int, Timed], str | None]:
    """The samples of each cell; none and a reason where they do not fit in memory together."""
    try:
        return dict(zip(some, timed_in_turns(list(some.values()), bench), strict=True)), None
    except (torch.OutOfMemoryError, MemoryError):
        pass  # the error holds the frames that hold the inputs
    gc.collect()
    return {}, NO_ROOM


def _taken(one: Chosen) -> Taken:
    return Taken(one.module, one.kernel, json.loads(one.key), one.configuration)
