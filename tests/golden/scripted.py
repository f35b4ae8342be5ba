"""scripted: a suite played to a results folder by the worker's own code, with every reading of the machine scripted.

Models are built, checked and stepped as always; only what an instrument would have read comes from here. Durations
follow from the work by whole numbers, so that tables and charts show different models, and no two machines differ.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from hybridbench.bench import Bench, Instruments
from hybridbench.dialogue import Dialogue
from hybridbench.measure.clock import ScriptedTimer
from hybridbench.measure.cpu import Canary, CpuWatch, Waiting
from hybridbench.record import Ceilings, Environment, Record
from hybridbench.store import RecordWriter
from hybridbench.suite.case import Case
from hybridbench.worker import serve

MACHINE = Environment(
    device="a scripted machine",
    device_kind="cpu",
    device_memory_bytes=None,
    cpu="a scripted processor",
    cores=4,
    memory_bytes=1 << 34,
    driver=None,
    cuda=None,
    python="3.12.0",
    platform="nowhere",
    packages={"torch": "2.0.0"},
    hybridbench="0.0.0+golden",
    git_commit=None,
    threads=1,
)
RATES = Ceilings("float32", 1e11, 1e10, 8e9)
DAY = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN = "20260102T030405Z-golden"
SPREAD = (0, 3, 1, 4, 1, 5, 2, 6)
"""Thousandths by which one run of a step after the other takes longer than the fastest."""
PACE_NS = {"train": 900_000, "prefill": 300_000, "decode": 25_000_000}
"""What a token of a step takes, decoded with nothing cached; ns."""
PACE_OF = {"transformer": 10, "swa": 9, "mamba": 6, "inter": 7, "intra": 8}
"""How long a model's step takes beside the others'."""


def script(case: Case) -> Iterator[int]:
    """How long each run of a case's step takes, for ever; ns."""
    work = case.workload
    cached = work.context if work.kind == "decode" else 0
    fastest = PACE_NS[work.kind] * work.tokens * PACE_OF[case.model.arch] * (1000 + cached) // 10_000
    for more in itertools.cycle(SPREAD):
        yield fastest * (1000 + more) // 1000


class Script:
    """Instruments that read a script: one timer after the other, each for its case, on one line of time."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = iter(cases)
        self._timers: list[ScriptedTimer] = []

    def timer(self, _device: torch.device) -> ScriptedTimer:
        """The timer of the next case."""
        self._timers.append(ScriptedTimer(script(next(self._cases))))
        return self._timers[-1]

    def now(self) -> int:
        """All that was told so far; ns."""
        return sum(timer.now() for timer in self._timers)

    def open_bench(self, kind: str, phase: Callable[[str], None]) -> Bench:
        """A bench whose instruments are these.

        What the counters and the profiler of PyTorch and fvcore say is left out: it changes with their versions.
        """
        instruments = Instruments(
            timer=self.timer,
            now=self.now,
            environment=lambda _device, _gpu: MACHINE,
            ceilings=lambda _device, _dtype: RATES,
            count=lambda _work, _model, _resolved: [],
            kernels=lambda _work, _device: [],
            cpu=lambda: CpuWatch(Waiting(Path("no such folder")), Canary(now=itertools.count().__next__)),
        )
        return Bench.open(kind, phase, instruments)


class Writer(RecordWriter):
    """Writes records without what no script decides: roundings of the processor, and versions of packages."""

    def append(self, record: Record) -> None:
        seen = record.observed
        if seen is not None:
            backends = [replace(use, version="scripted", error=None, bound=None) for use in seen.backends]
            seen = replace(seen, backends=backends, sized=[], loss=None)
        super().append(replace(record, observed=seen))


def play(cases: Sequence[Case], folder: Path) -> list[Record]:
    """Runs the cases in this process through the worker's loop; their records, which are in the folder too."""
    answers = io.StringIO()
    serve((json.dumps(case.to_dict()) for case in cases), answers, Script(cases).open_bench)
    records: list[Record] = []
    with Writer(folder, RUN) as writer:
        dialogue = Dialogue(writer, now=lambda: DAY)
        waiting = iter(cases)
        for line in answers.getvalue().splitlines():
            if dialogue.case is None and len(records) < len(cases):
                dialogue.begin(next(waiting))
            record = dialogue.hear(line)
            if record is not None:
                records.append(record)
    return records
