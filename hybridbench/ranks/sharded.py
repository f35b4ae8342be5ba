"""sharded: training in which each rank holds a part of every weight and works at its own sequences (FSDP2).

``fully_shard`` of torch.distributed.fsdp is applied to each sublayer, and to the model for the embedding and the
norms. Before a sublayer runs, forward or backward, its weights are gathered in their own dtype, which is bfloat16 by
default on a GPU; after its backward the gradients are reduced in float32. Activations are all kept. The kernels are
those of one GPU. The few parameters of another dtype than the model's (Mamba-2's A_log, dt_bias and D) are whole on
every rank, and their gradients are averaged by one all-reduce, since FSDP2 wants one dtype in a group.

The optimizer updates each rank's own part as a plain tensor, so that any kernel can run it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from hybridbench.model.across import all_gather, reduce_scatter
from hybridbench.model.language import LanguageModel
from hybridbench.ranks.weights import Whole, draw


@dataclass
class Traffic:
    """What FSDP2 moves between ranks. ``silent`` leaves the transfers out: what is gathered is this rank's part again,
    so that the step computes with plausible numbers, and wrong ones.
    """

    silent: bool = False
    gathers: _Gather = field(init=False)
    scatters: _Scatter = field(init=False)

    def __post_init__(self) -> None:
        self.gathers, self.scatters = _Gather(self), _Scatter(self)


class _Transfer:
    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer, as FSDP2 asks for one."""
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Transfer):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        if self.traffic.silent:
            for slot in output_tensor.view(-1, input_tensor.numel()):
                if slot.data_ptr() != input_tensor.data_ptr():  # the input is this rank's slot of the output
                    slot.copy_(input_tensor)
            return None
        return all_gather(output_tensor, input_tensor, group=group, async_op=async_op)


class _Scatter(_Transfer):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        if self.traffic.silent:
            output_tensor.copy_(input_tensor[: output_tensor.numel()])
            return None
        return reduce_scatter(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


def shard(model: LanguageModel, whole: Whole, device: torch.device) -> Traffic:
    """Shards a model that is on the meta device, and allocates and initialises this rank's part."""
    count, traffic = dist.get_world_size(), Traffic()
    mesh = init_device_mesh(device.type, (count,))
    dtype = model.embedding_VD.dtype
    odd = [parameter for parameter in model.parameters() if parameter.dtype != dtype]
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=set(odd))
    for module in (*model.blocks, model):
        assert isinstance(module, FSDPModule)
        module.set_custom_all_gather(traffic.gathers)  # type: ignore[arg-type]
        module.set_custom_reduce_scatter(traffic.scatters)  # type: ignore[arg-type]
    register_fsdp_forward_method(model, "loss")
    model.to_empty(device=device)
    draw(model, whole, device, lambda _index, _name: _part)
    fsdp: Any = model
    fsdp._get_fsdp_state()._lazy_init()  # else a sublayer whose weights are gathered first would have no streams
    model.share = dist.get_rank(), count
    model.ops = {**model.ops, "adamw": partial(_adamw, model.ops["adamw"], model, traffic)}
    model.gathering = partial(_gathered, model)
    return traffic


def _part(part: Tensor, drawn: Tensor) -> None:
    """Copies this rank's part of a parameter; all of one that is not sharded."""
    if isinstance(part, DTensor):
        local = distribute_tensor(drawn, part.device_mesh, part.placements, src_data_rank=None).to_local()
        part.to_local().copy_(local)
    else:
        part.copy_(drawn)


def local_of(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _adamw(
    made: Callable[..., torch.optim.Optimizer],
    model: LanguageModel,
    traffic: Traffic,
    _parameters: Iterable[nn.Parameter],
    *,
    lr: float,
) -> torch.optim.Optimizer:
    """An optimizer of this rank's parts as plain tensors, which share their memory with the model's."""
    sharded = list(model.parameters())
    on_every_rank = [parameter for parameter in sharded if not isinstance(parameter, DTensor)]
    parts = [nn.Parameter(local_of(parameter.detach()), requires_grad=True) for parameter in sharded]
    optimizer = made([part for part in parts if part.numel()], lr=lr)  # of a single number one rank has nothing
    clear = optimizer.zero_grad

    def take_gradients(*_: Any) -> None:
        _average([parameter for parameter in on_every_rank if parameter.grad is not None], traffic)
        for parameter, part in zip(sharded, parts, strict=True):
            part.grad = None if parameter.grad is None else local_of(parameter.grad)

    def zero_grad(set_to_none: bool = True) -> None:
        clear(set_to_none=set_to_none)
        for parameter in sharded:
            parameter.grad = None

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
    return optimizer


def _average(parameters: list[nn.Parameter], traffic: Traffic) -> None:
    """Averages the gradients of parameters that are whole on every rank."""
    if not parameters or traffic.silent:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joined)
    joined /= dist.get_world_size()
    for gradient, mean in zip(gradients, joined.split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@contextlib.contextmanager
def _gathered(model: LanguageModel, index: int | None) -> Iterator[None]:
    """Inside, a sublayer's weights are whole on every rank, or those of the model itself, and it runs without FSDP2."""
    module: Any = model if index is None else model.layers[index]
    module.unshard()
    compiled = model.compiled if index is None else {**model.compiled, index: module.forward}
    try:
        with model.compiling(compiled):
            yield
    finally:
        module.reshard()
