"""A driver for Triton of a Hopper GPU that is not there: kernels are compiled as for one, and launched nowhere.

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
    """

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 2**18},
        load_binary=lambda *binary: (1, 1, 0, 0, 1024),
    )

    def __init__(self, launched: Callable[[Any, Any], object] = lambda source, metadata: None) -> None:
        self._launched = launched

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(*_given: Any) -> None:
            self._launched(source, metadata)

        return launch
