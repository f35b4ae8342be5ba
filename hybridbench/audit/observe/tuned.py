"""tuned: the configurations that Triton's autotuners chose in one process, and their use in another one.

The second process runs under a profiler, which slows every launch, and tuning launches each kernel thousands of times.
Two processes that tune may also choose different tiles. Triton can keep its choices on disk, but it leaves out
configurations with a hook, which most of mamba_ssm's backward kernels have, and what is kept on disk silently steers
later runs. So the choices are passed as plain values to the one process that needs them, for the time that it needs
them. Compiled kernels stay in Triton's usual cache.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from hybridbench.audit.exchange import Taken


def taken() -> list[Taken]:
    """Every configuration that autotuning has chosen in this process so far; none without Triton."""
    return [
        Taken(module.__name__, name, list(key), str(configuration))
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType)
        for name, tuner in _tuners(module)
        for key, configuration in tuner.cache.items()
        if all(part is None or isinstance(part, bool | int | float | str) for part in key)
    ]


@contextmanager
def using(found: Iterable[Taken]) -> Iterator[None]:
    """Inside it, this process's autotuners use the configurations of another process instead of tuning.

    A kernel that is gone, or that no longer has the configuration, tunes itself. On the way out each autotuner's cache
    gets back what it held for these problems before, or nothing where it held nothing.
    """
    with ExitStack() as restoring:
        for one in found:
            try:
                tuners = dict(_tuners(importlib.import_module(one.module)))
            except ImportError:
                continue
            for configuration in tuners[one.kernel].configs if one.kernel in tuners else ():
                if str(configuration) == one.configuration:
                    restoring.enter_context(_entry(tuners[one.kernel].cache, tuple(one.key), configuration))
        yield


@contextmanager
def _entry(cache: dict[Any, Any], key: tuple[Any, ...], value: object) -> Iterator[None]:
    """Inside it, ``cache[key]`` is ``value``."""
    absent = object()
    before = cache.get(key, absent)
    cache[key] = value
    try:
        yield
    finally:
        if before is absent:
            cache.pop(key, None)  # an autotuner may have cleared its cache meanwhile
        else:
            cache[key] = before


def _tuners(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The autotuned kernels that a module defines itself, by name; other decorators may wrap the autotuner."""
    if "triton" not in sys.modules:
        return
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import KernelInterface

    for name, value in list(vars(module).items()):
        while issubclass(type(value), KernelInterface):  # isinstance would trigger warnings of deprecated attributes
            if issubclass(type(value), Autotuner):
                if value.base_fn.__module__ == module.__name__:
                    yield name, value
                break
            value = getattr(value, "fn", None)
