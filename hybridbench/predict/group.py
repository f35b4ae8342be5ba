"""group: the GPUs that share a model, and what one of them sends to the others in a step.

    tensor parallel   ``tp`` GPUs share every matrix and process the same sequences. They add up the partial results of
                      each block and of the embedding (``arch.model.shard``): once in a forward, and once more in a
                      backward, for the gradients of the inputs, where the head's stands for the embedding's.
    FSDP2             groups of ``tp`` GPUs process different sequences. Parameters, gradients and moments are divided
                      among the groups (``ZeRO`` stage 3). A sublayer is gathered before its forward and before its
                      backward, in the dtype of its weights; embedding and head are gathered once and stay. Gradients
                      are added up in float32.

A link's bytes are those of rings, as NCCL counts its bus bandwidth: of n bytes added up among t GPUs each sends
2 (t - 1) / t n, of n bytes gathered or scattered (t - 1) / t n. A switch that adds up itself may need less.

Sources: arXiv 1909.08053 (tensor parallelism), arXiv 1910.02054 (ZeRO), PyTorch's ``fully_shard``, nccl-tests'
``PERFORMANCE.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridbench.arch import model as arch
from hybridbench.arch.block import Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.terms import FLOAT
from hybridbench.errors import BadInput
from hybridbench.suite.workloads import TRAIN, Workload, workload_row


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """The GPUs that run one model.

    Args:
        gpus: all of them.
        tp: how many share a matrix.

    Raises:
        BadInput: they do not divide into groups of ``tp``.
    """

    gpus: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        if self.gpus % self.tp:
            raise BadInput(f"--gpus {self.gpus} with --tp {self.tp}: give a number of GPUs that {self.tp} divides.")

    @property
    def ranks(self) -> int:
        """Groups of ``tp`` GPUs, each with sequences of its own."""
        return self.gpus // self.tp


def groups_of(
    gpus: Sequence[int] | None, tps: Sequence[int] | None, workload: str | None = None
) -> tuple[GpuGroup | None, ...]:
    """The groups of every number of GPUs and of GPUs that share a matrix; None alone where neither is given.

    Raises:
        BadInput: numbers that do not divide, or several groups for a workload that does not train.
    """
    if gpus is None and tps is None:
        return (None,)
    tps = (1,) if tps is None else tps
    if gpus is None:
        return tuple(GpuGroup(one, one) for one in tps)
    if not (workload is None or workload_row(workload).trains):
        given = ",".join(map(str, gpus))
        raise BadInput(
            f"--gpus {given} with {workload}: only training is divided so; share the model with --tp {given}."
        )
    return tuple(GpuGroup(count, one) for one in tps for count in gpus)


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """What one GPU exchanges with others in a step; bytes.

    Args:
        all_reduced: partial results that the GPUs of a tensor-parallel group add up.
        gathered: parameters received from the other groups.
        scattered: gradients in float32 sent to the other groups.
        sent: what its links carry for all of it, in each direction.
    """

    all_reduced: int = 0
    gathered: int = 0
    scattered: int = 0
    sent: int = 0


NOT_LINKED = LinkBytes()
"""What one GPU alone exchanges."""


def link_bytes(spec: ModelSpec, workload: Workload, storage: Storage, group: GpuGroup) -> LinkBytes:
    """The bytes that a step of a workload exchanges.

    Args:
        spec: the whole model.
        workload: of a group of ``tp`` GPUs: its batch is what each of them processes.

    Raises:
        BadInput: so many GPUs cannot share the model.
    """
    per_token = arch.reduced_bytes(spec, group.tp, storage.weight_bytes).total
    # A backward adds up once more.
    tokens = sum(one.tokens * (2 if one.kind == TRAIN else 1) for one in workload.passes)
    reduced = workload.batch * tokens * per_token
    part = arch.shard(spec, group.tp)
    whole = arch.weight_bytes(part, storage)
    blocks = sum(n * block.weight_bytes(kept) for block, n, kept in arch.stored_uses(part, storage))
    sharded = workload.row.trains and group.ranks > 1
    gathered = _from_others(whole + blocks, group.ranks) if sharded else 0
    scattered = _from_others(in_float32(whole, storage), group.ranks) if sharded else 0
    sent = 2 * _from_others(reduced, group.tp) + gathered + scattered
    return LinkBytes(reduced, gathered, scattered, sent)


def _from_others(count: int, ranks: int) -> int:
    """The part of so many bytes that other ranks have."""
    return count * (ranks - 1) // ranks


def in_float32(count: int, storage: Storage) -> int:
    """Bytes in float32 of what takes ``count`` in the weights' dtype."""
    return count * FLOAT // storage.weight_bytes
