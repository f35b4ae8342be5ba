"""A capture leaves the random generator as it was, also when it fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from hybridbench.capture import _copied


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
