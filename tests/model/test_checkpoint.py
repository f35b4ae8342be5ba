"""Checkpointing changes what a step keeps, and nothing else: equal losses and gradients, less and less memory."""

from __future__ import annotations

import functools
import gc
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from variants import VARIANTS

from hybridbench.errors import BadInput
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.checkpoint import SavedTensors, _Kept, _Made, cheap, remembering
from hybridbench.model.moe import MoeModule
from hybridbench.suite.case import CHECKPOINTS, Case, Execution
from hybridbench.suite.ops import CORE
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import TRAIN, Workload

T, B = 40, 2


def built(name: str, checkpoint: str, backends: dict[str, str] | None = None) -> Any:
    execution = Execution("cpu", "float32", "eager", backends=backends or {}, checkpoint=checkpoint)
    case = Case(VARIANTS[name], Workload(TRAIN, T, B), execution)
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), 0)
    return model.train()


def tokens(model: Any) -> torch.Tensor:
    return torch.randint(model.embedding_VD.shape[0], (B, T + 1), generator=torch.Generator().manual_seed(1))


def loss_and_gradients(model: Any) -> list[torch.Tensor]:
    batch = tokens(model)
    loss = model.loss(batch[:, :-1], batch[:, 1:])
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


def held_bytes(model: Any) -> int:
    """What a forward leaves allocated as long as its loss lives."""
    batch = tokens(model)
    model.loss(batch[:, :-1], batch[:, 1:]).backward()  # what is allocated once and for all
    model.zero_grad(set_to_none=True)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = model.loss(batch[:, :-1], batch[:, 1:])
    events = profiler.profiler.kineto_results.events()
    assert loss.requires_grad
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


@functools.lru_cache(maxsize=1)
def without_checkpoints(name: str) -> list[torch.Tensor]:
    return loss_and_gradients(built(name, "none"))


def takes_longer(name: str, checkpoint: str) -> bool:
    """Whether another variant shows nearly the same and is quick.

    Of how branches are fused full checkpointing sees nothing, and selective checkpointing whether values are shared;
    each other mixer is quick beside attention.
    """
    if name.startswith("inter ") or (checkpoint == "full" and name.startswith("recipe")):
        return True
    return name.startswith("fusion") and (checkpoint == "full" or not name.startswith("fusion gate"))


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        pytest.param(name, how, marks=[pytest.mark.slow] if takes_longer(name, how) else [])
        for name in VARIANTS
        for how in CHECKPOINTS[1:]
    ],
)
@pytest.mark.sampled
def test_gradients_are_equal(name: str, checkpoint: str) -> None:
    found = loss_and_gradients(built(name, checkpoint))
    for one, other in zip(found, without_checkpoints(name), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_core_in_one_piece_is_kept_whole() -> None:
    expected, found = (loss_and_gradients(built("mamba", how, {CORE: "reference"})) for how in ("none", "selective"))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["transformer", "mamba", *(pytest.param(name, marks=pytest.mark.slow) for name in ("inter", "intra"))]
)
def test_less_is_held_from_none_to_full(name: str) -> None:
    held = [held_bytes(built(name, checkpoint)) for checkpoint in CHECKPOINTS]
    assert held[0] > held[1] > held[2] > 0, held


def test_what_full_holds_is_the_stream_before_each_sublayer() -> None:
    """Beside it there are the head's gradient and up to four tensors like the stream around the last norm."""
    model = built("transformer", "full")
    stream = 4 * B * T * model.d_model
    head = 4 * model.embedding_VD.numel()
    streams = (held_bytes(model) - head) / stream
    assert len(model.layers) <= streams < len(model.layers) + 4


def test_nothing_is_remembered_after_the_backward() -> None:
    model = built("intra", "selective")
    loss_and_gradients(model)
    assert not [one for one in gc.get_objects() if type(one) in (_Kept, _Made, SavedTensors)]


def test_a_tensor_in_the_memory_of_another_is_not_taken_for_it() -> None:
    """What is freed leaves its address to the next: recomputations go by storages that cannot be given out again."""
    x = torch.randn(64, requires_grad=True)
    with remembering():
        total = x.sum()
        for _ in range(50):
            first = cheap(torch.neg, x)  # nobody keeps it
            del first
            total = total + (x * 2).square().sum()
    total.backward()
    torch.testing.assert_close(x.grad, 1 + 50 * 8 * x.detach())


def test_a_repeated_forward_counts_no_load_twice() -> None:
    name = next(name for name in VARIANTS if "moe" in name)
    loads = []
    for checkpoint in CHECKPOINTS:
        model = built(name, checkpoint)
        loss_and_gradients(model)
        loads.append([layer.load_E.clone() for layer in model.layers if isinstance(layer, MoeModule)])
    assert loads[0]
    for other in loads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(loads[0], other, strict=True))


def test_only_training_checkpoints_and_a_compiler_chooses_itself() -> None:
    assert {case.execution.checkpoint for case in cases(Sweep("train", checkpoint="full"), has_gpu=False)} == {"full"}
    with pytest.raises(BadInput, match="only training"):
        cases(Sweep("prefill", checkpoint="full"), has_gpu=False)
    with pytest.raises(BadInput, match="'all'"):
        cases(Sweep("train", checkpoint="all"), has_gpu=False)
    with pytest.raises(BadInput, match="compiler"):
        cases(Sweep("train", checkpoint="selective", mode="compile"), has_gpu=False)
