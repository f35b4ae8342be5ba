"""kept: what kernels keep on a device from call to call, and how it is freed between cases.

A mask or the scratch of a launch is made once per shape, so that making it is not timed. It must not outlive its case,
or the next one's memory would depend on what ran before it. A module that keeps tensors keeps them in a dictionary made
here, and nowhere else:

    _masks: dict[tuple[int, torch.device], Tensor] = kept()

A plain dictionary, since a compiler that traces through a kernel reads it.
"""

from __future__ import annotations

from typing import Any

_all: list[dict[Any, Any]] = []


def kept() -> dict[Any, Any]:
    """A new dictionary that ``release`` empties."""
    made: dict[Any, Any] = {}
    _all.append(made)
    return made


def is_kept(container: object) -> bool:
    """Whether ``release`` empties it."""
    return any(container is one for one in _all)


def release() -> None:
    """Frees everything that kernels keep. Graphs and compiled code that read it must be gone."""
    for one in _all:
        one.clear()
