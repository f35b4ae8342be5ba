"""group: the GPUs that share a model, and what one of them sends to the others in a step.

    tensor parallel   ``tp`` GPUs share every matrix and process the same sequences. They add up the partial results of
                      each block and of the embedding (``arch.model.shard``): once in a forward, and once more in a
                      backward, for the gradients of the inputs, where the head's stands for the embedding's. To pick a
                      token, each gathers the best logit of every GPU's words with its number. In training the head is
                      gathered, and its gradient is added up and scattered; gradients of what several GPUs hold
                      (``arch.held``) are added up in float32.
    FSDP2             groups of ``tp`` GPUs process different sequences. Parameters, gradients and moments are divided
                      among the groups (``ZeRO`` stage 3). A sublayer is gathered before its forward and before its
                      backward, in the dtype of its weights; embedding and head are gathered once and stay. Gradients
                      are added up in float32. Parameters that are in float32 beside weights of 16 bits, as Mamba-2 has
                      them, are whole on every GPU, and their gradients are added up.

A link's bytes are those of rings, as NCCL counts its bus bandwidth: of n bytes added up among t GPUs each sends
2 (t - 1) / t n, of n bytes gathered or scattered (t - 1) / t n. A switch that adds up itself may need less. Left out is
the loss, one number.

Sources: arXiv 1909.08053 (tensor parallelism), arXiv 1910.02054 (ZeRO), PyTorch's ``fully_shard``, nccl-tests'
``PERFORMANCE.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from hybridbench.arch import model as arch
from hybridbench.arch.block import Storage
from hybridbench.arch.held import runs, shared_params
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.terms import FLOAT
from hybridbench.errors import BadInput
from hybridbench.suite.workloads import DECODE, TRAIN, Workload, workload_row


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
        all_reduced: what GPUs add up: partial results, and gradients of what several of them hold whole.
        gathered: received from the others: parameters, the head, best logits.
        scattered: gradients sent to the others.
        sent: what its links carry for all of it, in each direction.
    """

    all_reduced: int = 0
    gathered: int = 0
    scattered: int = 0
    sent: int = 0

    @property
    def reduced_sent(self) -> int:
        """What its links carry for all-reduces."""
        return self.sent - self.gathered - self.scattered

    def __add__(self, other: LinkBytes) -> LinkBytes:
        return LinkBytes(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


PICKED_BYTES = 2 * FLOAT
"""What a GPU tells the others of a sequence whose next token is picked: its best logit, and the word's number."""
NOT_LINKED = LinkBytes()
"""What one GPU alone exchanges."""


def link_bytes(
    spec: ModelSpec, workload: Workload, storage: Storage, group: GpuGroup, *, fused: bool = False
) -> LinkBytes:
    """The bytes that a step of a workload exchanges.

    Args:
        spec: the whole model.
        workload: of a group of ``tp`` GPUs: its batch is what each of them processes.
        fused: decode steps are hybridbench's fused ones, which add up in float32; else sums are in the weights' dtype.

    Raises:
        BadInput: so many GPUs cannot share the model.
    """
    within = _of_tensor_parallel(spec, workload, storage, group.tp, fused) if group.tp > 1 else NOT_LINKED
    if group.ranks == 1 or not workload.row.trains:
        return within
    return within + _of_fsdp(arch.shard(spec, group.tp), storage, group.ranks)


def _of_tensor_parallel(spec: ModelSpec, workload: Workload, storage: Storage, tp: int, fused: bool) -> LinkBytes:
    size, part = storage.weight_bytes, arch.shard(spec, tp)
    reduced, picks = 0, 0
    for one in workload.passes:
        wide = FLOAT if fused and one.kind == DECODE else size
        tokens = one.tokens * (2 if one.kind == TRAIN else 1)  # a backward adds up once more
        reduced += workload.batch * tokens * arch.reduced_bytes(spec, tp, wide).total
        picks += one.tokens if one.kind == DECODE else 1
    gathered, scattered = (tp - 1) * picks * workload.batch * PICKED_BYTES, 0
    if workload.row.trains:
        gathered = scattered = (tp - 1) * part.vocab_size * part.d_model * size
        reduced += FLOAT * sum(n * shared_params(block, tp) for block, n in spec.uses if runs(block))
    return LinkBytes(reduced, gathered, scattered, 2 * _from_others(reduced, tp) + gathered + scattered)


def _of_fsdp(part: ModelSpec, storage: Storage, ranks: int) -> LinkBytes:
    """What groups that train on different sequences exchange."""
    odd = 0 if storage.weight_bytes == FLOAT else sum(n * block.params_fp32() for block, n in part.uses)
    whole = arch.weight_bytes(part, storage)
    blocks = sum(n * block.weight_bytes(kept) for block, n, kept in arch.stored_uses(part, storage))
    reduced = FLOAT * odd
    gathered = _from_others(whole + blocks - 2 * FLOAT * odd, ranks)
    scattered = _from_others(FLOAT * (arch.params(part) - odd), ranks)
    return LinkBytes(reduced, gathered, scattered, 2 * _from_others(reduced, ranks) + gathered + scattered)


def _from_others(count: int, ranks: int) -> int:
    """The part of so many bytes that other ranks have."""
    return count * (ranks - 1) // ranks
