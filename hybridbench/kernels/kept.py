"""kept: what kernels keep on a device from call to call, and how it is freed between cases.

A mask or the scratch of a launch is made once per shape, so that making it is not timed. It must not outlive its case,
else the memory of the next case would depend on what ran before it. A module may keep tensors only in a dictionary made
here:

    _masks: dict[tuple[int, torch.device], Tensor] = kept()

It is a plain dictionary, since torch.compile reads it when it traces through a kernel.
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
    """Frees everything that kernels keep. Graphs and compiled code that use it must be gone."""
    for one in _all:
        one.clear()
