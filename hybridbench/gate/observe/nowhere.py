"""nowhere: a driver for Triton of a GPU that is not there: kernels are compiled as for one, and launched nowhere.

For programs of their own, because a driver holds for a whole process.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from triton.backends.compiler import GPUTarget

TARGET = GPUTarget("cuda", 90, 32)


class Nowhere:
    """The driver.

    Args:
        launched: told of every launch with the kernel's source and metadata.
        target: the GPU that kernels are compiled for.
    """

    utils = SimpleNamespace(
        get_device_properties=lambda _device: {"max_shared_mem": 2**18},
        load_binary=lambda *_binary: (1, 1, 0, 0, 1024),
    )

    def __init__(
        self, launched: Callable[[Any, Any], object] = lambda _source, _metadata: None, target: GPUTarget = TARGET
    ) -> None:
        self._launched = launched
        self._target = target

    def get_current_target(self) -> GPUTarget:
        """The GPU that kernels are compiled for."""
        return self._target

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_current_stream(self, _device: int) -> int:
        """The only one."""
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """A launcher that tells of the launch and does nothing."""

        def launch(*_given: Any) -> None:
            self._launched(source, metadata)

        return launch
