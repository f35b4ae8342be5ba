"""spread: over how many ranks cases are spread, which of them can be, and what one rank's part of a case is.

A training step's sequences may be divided over ranks, each of which gathers the weights it needs (FSDP2: ``gpus``). Or
every sublayer is divided, and each rank works at all sequences (tensor parallel: ``tp``). A batch is that of all ranks.

    >>> from hybridbench.arch.families import build_spec
    >>> from hybridbench.suite.workloads import Workload
    >>> on_two = Execution("cuda", "bfloat16", "eager", gpus=2)
    >>> part_of_case(Case(build_spec("inter", "1b"), Workload("train", 8192, 8), on_two)).workload.batch
    4
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybridbench import units
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.held import check_runs
from hybridbench.arch.model import ModelSpec, shard
from hybridbench.errors import BadInput
from hybridbench.suite.case import EAGER, GRAPH, Case, Execution
from hybridbench.suite.workloads import names_where, workload_row

MOST = 1024
"""Ranks that one case may ask for."""


@dataclass(frozen=True)
class RankCounts:
    """Over how many ranks a case is spread; as ``Execution.gpus`` and ``tp``."""

    gpus: int = 1
    tp: int = 1


def spreads_of(gpus: str, tp: str, spelled: Callable[[str], str] = str) -> list[RankCounts]:
    """The spreads of two lists or ranges, as typed.

    Raises:
        BadInput: they are none, both are given, or one is too large.
    """
    counts = {name: units.parse_range(text, name) for name, text in (("gpus", gpus), ("tp", tp))}
    for name, found in counts.items():
        if max(found) > MOST:
            raise BadInput(f"{spelled(name)} {max(found)}: give {MOST} at most.")
    made = [RankCounts(*pair) for pair in itertools.product(counts["gpus"], counts["tp"])]
    if both := next((one for one in made if one.gpus > 1 and one.tp > 1), None):
        raise BadInput(
            f"{spelled('gpus')} {both.gpus} with {spelled('tp')} {both.tp}: a case is spread one way; give one of them."
        )
    return made


def check_spread(
    spread: RankCounts,
    specs: Sequence[ModelSpec],
    batches: Sequence[int],
    execution: Execution,
    workload: str,
    spelled: Callable[[str], str] = str,
) -> None:
    """Check that models can be spread.

    Args:
        execution: how they would be run on one rank.

    Raises:
        BadInput: the workload, the mode, a batch or a model cannot be; the text says what to give instead.
    """
    ranks, row = spread.gpus * spread.tp, workload_row(workload)
    if ranks == 1:
        return
    how = f"{spelled('gpus')} {spread.gpus}" if spread.gpus > 1 else f"{spelled('tp')} {spread.tp}"
    if spread.gpus > 1 and not row.trains:
        training = names_where(lambda one: one.trains)
        raise BadInput(f"{how} for {workload}: only {training} divides its sequences; give {spelled('tp')} instead.")
    if execution.mode not in (EAGER, GRAPH):
        raise BadInput(f"{how} in mode {execution.mode}: several ranks run in mode {EAGER} or {GRAPH}.")
    if execution.quantises:
        raise BadInput(f"{how} with quantised weights or keys and values: they run on one GPU only.")
    if execution.checkpoint != "none":
        raise BadInput(f"{how} with checkpoint {execution.checkpoint}: several ranks keep all activations.")
    for batch in batches:
        if batch % spread.gpus:
            raise BadInput(f"{how}: batch {batch}, that of all ranks, does not divide by {spread.gpus}.")
    for spec in specs:
        if spread.gpus > 1 and any(isinstance(block, Moe) for block, _ in spec.uses):
            raise BadInput(f"{how} for {spec.label}: routed experts are not sharded; give {spelled('tp')} instead.")
        check_runs(spec, spread.tp)
        shard(spec, spread.tp)


def check_spreads(case: Case) -> None:
    """Check that a case can be spread over the ranks that it has.

    Raises:
        BadInput: as ``check_spread``.
    """
    execution = case.execution
    if execution.ranks > 1:
        (spread,) = spreads_of(str(execution.gpus), str(execution.tp))
        check_spread(spread, [case.model], [case.workload.batch], execution, case.workload.kind)


def part_of_case(case: Case) -> Case:
    """One rank's part of a case, as a case of one rank: fewer sequences, or a part of every sublayer and its rows of
    the vocabulary. It is what the rank builds and runs, and what is predicted of it.
    """
    execution = case.execution
    if execution.ranks == 1:
        return case
    return replace(
        case,
        model=shard(case.model, execution.tp),
        workload=replace(case.workload, batch=case.workload.batch // execution.gpus),
        execution=replace(execution, gpus=1, tp=1),
    )
