"""A capture that fails leaves generator, stream and allocator as they were; several share their memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from hybridbench import capture
from hybridbench.capture import _copied, _given_back, captured_together


@dataclass
class State:
    captured: bool = False

    def clone_state(self) -> State:
        return State(self.captured)


@dataclass
class Generator:
    """What of ``torch.Generator`` a capture's generator is asked; CUDA's has a state that can be shared and set."""

    state: State = field(default_factory=State)

    def graphsafe_get_state(self) -> State:
        return self.state

    def graphsafe_set_state(self, state: State) -> None:
        self.state = state


def test_a_failed_capture_leaves_no_mark_on_the_generator() -> None:
    generator: Any = Generator()
    before = generator.state

    def fail() -> None:
        generator.state.captured = True
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"), _copied(generator):
        fail()
    assert generator.state is before
    assert not before.captured


POOL = (0, 7)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a CUDA device and its allocator are told; a CPU build of torch has neither."""
    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "before")
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: said.append(("stream", stream)))
    for name in ("endAllocateToPool", "releasePool"):
        monkeypatch.setattr(
            torch._C, f"_cuda_{name}", lambda device, pool, name=name: said.append((name, device, pool)), raising=False
        )
    return said


def fails() -> None:
    with _given_back(POOL):
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_failed_capture_leaves_the_stream_and_its_pool(allocator: list[tuple[Any, ...]]) -> None:
    with pytest.raises(RuntimeError, match="previous error"):
        fails()
    assert allocator == [("stream", "before"), ("endAllocateToPool", 3, POOL), ("releasePool", 3, POOL)]


def test_a_pool_that_torch_has_left_is_the_graphs(
    allocator: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(_device: int, _pool: tuple[int, int]) -> None:
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)
    with pytest.raises(RuntimeError, match="previous error"):
        fails()
    assert allocator == [("stream", "before")]


def test_a_capture_that_works_is_left_alone(allocator: list[tuple[Any, ...]]) -> None:
    with _given_back(POOL):
        pass
    assert allocator == []


def test_steps_that_are_captured_together_share_memory_and_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def captured(step: Any, **how: Any) -> Any:
        given.append(how)
        return step

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(capture, "captured", captured)
    steps = [list, dict, set]
    assert captured_together(steps) == steps
    assert len({how["pool"] for how in given}) == len({how["stream"] for how in given}) == 1
