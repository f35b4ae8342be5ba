"""group_cost: the cost of one GPU of a group that trains a model divided by FSDP2."""

from __future__ import annotations

from dataclasses import replace

from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.model import Cost, ModelSpec, cost, rank_cost, shard, weight_bytes
from hybridbench.predict.group import GpuGroup, link_bytes
from hybridbench.predict.memory import MOMENTS
from hybridbench.predict.work import refuse_quantised
from hybridbench.suite.workloads import TRAIN, Workload


def shared_cost(
    spec: ModelSpec,
    group: GpuGroup | None,
    context: int,
    batch: int,
    convention: Convention,
    storage: Storage,
    *,
    trains: bool = False,
) -> Cost:
    """The cost of one GPU of a group; of the whole model where that is None.

    Args:
        trains: with what the GPU stores and exchanges in training.

    Raises:
        BadInput: so many GPUs cannot share the model, or quantised weights are to be trained.
    """
    if group is None:
        return cost(spec, context, batch, convention, storage)
    if trains:
        return group_cost(spec, group, context, batch, convention, storage)
    return rank_cost(spec, group.tp, context, batch, convention, storage)


def group_cost(
    spec: ModelSpec, group: GpuGroup, context: int, batch: int, convention: Convention, storage: Storage
) -> Cost:
    """``arch.model.cost`` of one GPU, with what it stores and exchanges in a training step.

    Raises:
        BadInput: so many GPUs cannot share the model, or weights are quantised, which nobody trains.
    """
    refuse_quantised(storage)
    one = rank_cost(spec, group.tp, context, batch, convention, storage)
    links = link_bytes(spec, Workload(TRAIN, context, batch), storage, group)
    held = -(-weight_bytes(shard(spec, group.tp), storage) // group.ranks)
    return replace(
        one,
        gpus=group.gpus,
        train_state_bytes=(2 + MOMENTS) * held,  # weights and their gradients
        gathered_bytes=links.gathered,
        scattered_bytes=links.scattered,
    )
