"""compare: which records are cells of the paper's experiments, and their numbers next to its printed ones.

These are records of the paper's stacks (``figures.STACKS``) at 1B and batch 4: generations from a prompt of 512 tokens,
and training steps at 8k.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybridbench.derive.doubts import problems
from hybridbench.metrics import value
from hybridbench.record import Record, Status
from hybridbench.report.paper.claims import Numbers, Training, paper_numbers
from hybridbench.report.paper.figures import BATCH, LENGTHS, PROMPT, STACKS, TRAIN_CONTEXT, Stack, stack_of
from hybridbench.store import machine_of, newest
from hybridbench.suite.case import COMPILE, EAGER, GRAPH, PUBLISHED, stored_text
from hybridbench.suite.workloads import GENERATE, TRAIN

PAPER, AS_PUBLISHED, EQUAL = "the paper", "ours as published", "ours with equal kernels"
"""The sources of numbers: the paper as printed; ours, run as its figures suggest; ours, with equal kernels for all."""


@dataclass(frozen=True)
class GenerationPair:
    """One generation in one mode, measured both ways: integrated and truly generated."""

    stack: str
    length: int
    mode: str
    integrated: Record
    generated: Record


@dataclass(frozen=True)
class PaperComparison:
    """The numbers of one machine's records for the paper's stacks."""

    machine: str
    sources: dict[str, Numbers]
    train: dict[str, Record]
    pairs: tuple[GenerationPair, ...]
    equal: tuple[tuple[str, Record], ...] = ()
    """The stack and the record of each generation with equal kernels."""

    @property
    def measured(self) -> list[str]:
        """Sources with a decode throughput, the paper first."""
        return [name for name, numbers in self.sources.items() if numbers.rates]


def compare(records: Iterable[Record]) -> list[PaperComparison]:
    """One comparison for each machine that generated with one of the paper's stacks, in the order of the records."""
    by_machine: dict[tuple[str, ...], list[tuple[Stack, Record]]] = {}
    for record in newest(list(records)):
        stack = stack_of(record.case.model) if _believed(record) else None
        if stack is not None:
            by_machine.setdefault(machine_of(record), []).append((stack, record))
    made = [_comparison(found) for found in by_machine.values()]
    return [one for one in made if len(one.measured) > 1]


def _believed(record: Record) -> bool:
    """Whether a valid record is one of the paper's cells: its workload, the default dtype and default backends."""
    case, work = record.case, record.case.workload
    execution = case.execution
    usual = execution.dtype == "bfloat16" and not any(stored_text(execution).values()) and not execution.backends
    wanted = (GENERATE, PROMPT) if work.kind == GENERATE else (TRAIN, 0)
    if not usual or work.batch != BATCH or (work.kind, work.prompt) != wanted:
        return False
    fits = work.context in LENGTHS if work.kind == GENERATE else work.context == TRAIN_CONTEXT
    return fits and record.status is Status.OK and not problems(record)


def _comparison(found: Sequence[tuple[Stack, Record]]) -> PaperComparison:
    generations = [(stack, record) for stack, record in found if record.case.workload.kind == GENERATE]
    modes = {record.case.execution.mode for _, record in generations}
    equal_mode = next((mode for mode in (GRAPH, COMPILE, EAGER) if mode in modes), None)
    sources = {PAPER: paper_numbers(), AS_PUBLISHED: Numbers(), EQUAL: Numbers()}
    pairs = []
    cells: dict[tuple[str, int, str], dict[bool, Record]] = {}
    for stack, record in generations:
        work, mode = record.case.workload, record.case.execution.mode
        cells.setdefault((stack.name, work.context, mode), {})[work.depths > 0] = record
    for (name, length, mode), ways in cells.items():
        if mode not in (PUBLISHED, equal_mode):
            continue
        if len(ways) > 1:
            pairs.append(GenerationPair(name, length, mode, ways[True], ways[False]))
        shown = ways.get(True) or ways[False]
        numbers = sources[AS_PUBLISHED if mode == PUBLISHED else EQUAL]
        rate, cache = value(shown, "tokens_per_s"), value(shown, "cache_bytes")
        if rate is not None:
            numbers.rates.setdefault(name, {})[length] = rate
        if cache is not None and mode != PUBLISHED:  # a growing cache ends one token short
            numbers.caches.setdefault(name, {})[length] = cache / BATCH
    train = {stack.name: record for stack, record in found if record.case.workload.kind == TRAIN}
    for name, record in train.items():
        flops = value(record, "paper_flops")
        assert flops is not None, "training has FLOPs in every convention"
        step, peak = value(record, "step_s"), value(record, "peak_allocated_bytes")
        sources[EQUAL].training[name] = Training(flops, step, peak)
    for pair in pairs:
        numbers = sources[AS_PUBLISHED if pair.mode == PUBLISHED else EQUAL]
        numbers.noise = max(numbers.noise, abs(difference(pair)))
    order = {stack.name: place for place, stack in enumerate(STACKS)}
    pairs.sort(key=lambda pair: (order[pair.stack], pair.length, pair.mode))
    equal = tuple((stack.name, record) for stack, record in generations if record.case.execution.mode == equal_mode)
    return PaperComparison(found[0][1].environment.device, sources, train, tuple(pairs), equal)


def difference(pair: GenerationPair) -> float:
    """The integrated time divided by the truly generated time, minus one."""
    integrated, generated = value(pair.integrated, "step_s"), value(pair.generated, "step_s")
    assert integrated, "a record that is believed has a time"
    assert generated, "a record that is believed has a time"
    return integrated / generated - 1
