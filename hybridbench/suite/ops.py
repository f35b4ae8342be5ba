"""ops: the operations that a case's blocks ask of kernels, by their names.

A block names the operations it may run over a sequence and in a decode step (``arch.kinds.BLOCKS``). The workload
determines which of the two run, and adds the operations of the model as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hybridbench.arch.block import Block
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput
from hybridbench.suite.case import Case
from hybridbench.suite.workloads import WorkloadRow, workload_row

CORE, CORE_PARTS = "mamba2_core", ("conv1d", "ssd", "gate")
"""The operation that covers all of Mamba-2 between its projections, and the operations it is made of."""
DECODE_STEP = "decode_step"
"""The whole decode step of a model, not of one block: module by module, or as fused kernels."""
OPS_OF_MODEL = ("add_rms_norm", "linear_cross_entropy", "adamw", DECODE_STEP)
"""Operations of a model as a whole."""
OPS_ALONE = ("product",)
"""Operations that ``hybridbench kernels`` times by themselves: models run a linear layer as PyTorch's own module."""
OPS = tuple(
    dict.fromkeys([*(op for kind in BLOCKS.values() for op in (*kind.sequence_ops, *kind.step_ops)), *OPS_OF_MODEL])
)
"""Every operation. All but the decode step are rows of ``operations``."""


def block_uses(spec: ModelSpec) -> dict[tuple[Block, bool], int]:
    """Each block and branch of a model: whether it borrows another branch's value, and how many there are."""
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


def block_ops_in(block: Block, borrows: bool, row: WorkloadRow) -> list[tuple[str, bool]]:
    """The operations a block may run in a workload, each with whether it runs in a decode step; sequences first."""
    sequence, step = block_ops(block, borrows)
    return [(op, False) for op in sequence if row.over_sequences] + [(op, True) for op in step if row.decodes]


def model_ops_in(row: WorkloadRow) -> tuple[str, ...]:
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
    """Check that every backend asked for is for an operation that some case runs; it would have no effect otherwise.

    Raises:
        BadInput: naming the operation and those that do run.
    """
    run = {op for case in made for op in ops_of(case.model, case.workload.kind)}
    for op in asked:
        if op not in run:
            raise BadInput(f"backend for {op}: no case here runs it; they run {', '.join(sorted(run))}.")


def backends_used(backends: dict[str, str], spec: ModelSpec, workload: str) -> dict[str, str]:
    """The backends asked for whose operation this model runs; ``auto`` asks for none."""
    ops = ops_of(spec, workload)
    return {op: name for op, name in backends.items() if op in ops and name != "auto"}
