"""tuned: the configurations that Triton's autotuning took in one process, handed to another so that it does not tune.

A profiler slows every launch, and tuning launches each kernel thousands of times; and two processes that tune may take
different tiles. Triton can keep its results on disk, but not those of configurations with a hook, which most of
mamba_ssm's backward kernels have, and whatever is kept there steers later runs unseen. So what was taken travels as
plain values to the one process that is meant. Compiled kernels stay in Triton's usual cache.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from hybridbench.audit.exchange import Taken


def taken() -> list[Taken]:
    """Every configuration that autotuning has taken in this process so far; nothing without Triton."""
    return [
        Taken(module.__name__, name, list(key), str(configuration))
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType)
        for name, tuner in _tuners(module)
        for key, configuration in tuner.cache.items()
        if all(part is None or isinstance(part, bool | int | float | str) for part in key)
    ]


def take(found: Iterable[Taken]) -> None:
    """Makes configurations those of this process; a kernel or configuration that is gone is tuned again."""
    for one in found:
        try:
            tuners = dict(_tuners(importlib.import_module(one.module)))
        except ImportError:
            continue
        for configuration in tuners[one.kernel].configs if one.kernel in tuners else ():
            if str(configuration) == one.configuration:
                tuners[one.kernel].cache[tuple(one.key)] = configuration


def _tuners(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The autotuned kernels that a module defines itself, by name; other decorators may stand around the tuner."""
    if "triton" not in sys.modules:
        return
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import KernelInterface

    for name, value in list(vars(module).items()):
        while issubclass(type(value), KernelInterface):  # isinstance would wake what is deprecated
            if issubclass(type(value), Autotuner):
                if value.base_fn.__module__ == module.__name__:
                    yield name, value
                break
            value = getattr(value, "fn", None)
