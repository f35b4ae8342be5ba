"""ops: the operations that a case's blocks ask of kernels, by their names.

A block names what it may run over a sequence and what in a decode step (``arch.model.BLOCKS``); the workload says which
of the two are run, and adds what belongs to the model as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hybridbench.arch.block import Block
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import Row, workload_row

CORE, CORE_PARTS = "mamba2_core", ("conv1d", "ssd", "gate")
"""One kernel for all of Mamba-2 between its projections, or one for each of its parts."""
DECODE_STEP = "decode_step"
"""Not one block's operation but all of a decode step: the modules one by one, or fused."""
OPS_OF_MODEL = ("add_rms_norm", "linear_cross_entropy", "adamw", DECODE_STEP)
"""Operations of a model as a whole."""
OPS = tuple(
    dict.fromkeys([*(op for kind in BLOCKS.values() for op in (*kind.sequence_ops, *kind.step_ops)), *OPS_OF_MODEL])
)
"""Every operation. All but the decode step are rows of ``kernels.operation``."""


def block_uses(spec: ModelSpec) -> dict[tuple[Block, bool], int]:
    """How often a model has each block, branches too, and whether it borrows its value from another branch."""
    uses: Counter[tuple[Block, bool]] = Counter()
    for block, times in spec.uses:
        uses[block, False] += times
        for index, branch in enumerate(block.branches):
            uses[branch, index == block.borrower] += times
    return uses


def block_ops(block: Block, borrows: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The operations a block may run over a sequence and in a decode step."""
    absent = block.absent_ops(borrows)
    sequence, step = (tuple(op for op in ops if op not in absent) for ops in (block.sequence_ops, block.step_ops))
    return sequence, step


def block_ops_in(block: Block, borrows: bool, row: Row) -> list[tuple[str, bool]]:
    """The operations a block may run in a workload, those over sequences first, and whether in a decode step."""
    sequence, step = block_ops(block, borrows)
    return [(op, False) for op in sequence if row.over_sequences] + [(op, True) for op in step if row.decodes]


def model_ops_in(row: Row) -> tuple[str, ...]:
    """The operations of the model as a whole in a workload."""
    ran = {
        DECODE_STEP: row.decodes,
        "add_rms_norm": row.over_sequences,
        "linear_cross_entropy": row.trains,
        "adamw": row.trains,
    }
    return tuple(op for op, runs in ran.items() if runs)


def ops_of(spec: ModelSpec, workload: str) -> tuple[str, ...]:
    """The operations a model runs in a workload, those of its blocks first."""
    row = workload_row(workload)
    of_blocks = [op for block, borrows in block_uses(spec) for op, _ in block_ops_in(block, borrows, row)]
    return tuple(dict.fromkeys((*of_blocks, *model_ops_in(row))))


def check_backends_used(asked: Iterable[str], made: Sequence[Case]) -> None:
    """Raises for a backend asked for an operation that none of the cases runs: it would be ignored in silence.

    Raises:
        BadInput: naming the operation and those that do run.
    """
    run = {op for case in made for op in ops_of(case.model, case.workload.kind)}
    for op in asked:
        if op not in run:
            raise BadInput(f"backend for {op}: no case here runs it; they run {', '.join(sorted(run))}.")


def backends_used(backends: dict[str, str], spec: ModelSpec, workload: str) -> dict[str, str]:
    """Those of the backends asked for that this model runs; ``auto`` asks for nothing."""
    ops = ops_of(spec, workload)
    return {op: name for op, name in backends.items() if op in ops and name != "auto"}
