"""A capture leaves the random generator as it was, also when it fails; several share their memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from hybridbench import capture
from hybridbench.capture import _copied, captured_together


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
