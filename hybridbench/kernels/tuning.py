"""tuning: kernels compiled side by side: the configurations of one that tunes itself, and those of a whole step.

An autotuner compiles a configuration and times it, then the next one, on one core. Published kernels have up to
dozens of them, Mamba-3's and KDA's so many that the first step of a training takes minutes. Compiling needs no GPU, so
all cores can do it before any is timed; what is timed, and how, stays as it is. The kernels of a fused decode step, a
dozen of them, are compiled together for the same reason.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from hybridbench.machine import usable_cores

MOST_THREADS = 32
"""More would need memory rather than save time: each holds a module of LLVM's."""


def compile_together(compilations: Sequence[Callable[[], object]]) -> None:
    """Compiles kernels side by side where Triton can (from 3.4 on), else leaves each to its first launch.

    Args:
        compilations: calls of kernels' ``warmup``, with the arguments of a launch.
    """
    try:
        from triton.runtime._async_compile import AsyncCompileMode, active_mode
    except ImportError:
        return
    if len(compilations) < 2 or active_mode.get() is not None:
        return
    threads = ThreadPoolExecutor(min(len(compilations), usable_cores(), MOST_THREADS))
    # What does not compile fails again when it is launched, where the error belongs.
    with threads, AsyncCompileMode(threads, ignore_errors=True):
        for compile_one in compilations:
            compile_one()


@contextmanager
def side_by_side() -> Iterator[None]:
    """Inside, every autotuner of this process compiles in that way, where Triton can (from 3.4 on).

    An autotuner says which configurations it will time when it prunes them, and asks for them one after the other. A
    result that is on disk is not asked for, so nothing is compiled before the first is. Triton's class is changed when
    Triton is there, now or by a kernel's import (``extend``), and is as it was afterwards. It may be entered again
    inside.
    """
    global _ending
    if _ending is not None:
        yield
        return
    with ExitStack() as _ending:
        try:
            extend()
            yield
        finally:
            _ending = None


_ending: ExitStack | None = None
"""What puts Triton's own functions back at the end of the outermost ``side_by_side``; None outside."""


def extend() -> None:
    """Takes in Triton, if it has been imported since ``side_by_side`` was entered; outside it does nothing."""
    if _ending is None or "triton" not in sys.modules:
        return
    try:
        from triton.runtime._async_compile import AsyncCompileMode, active_mode
        from triton.runtime.autotuner import Autotuner
    except ImportError:
        return
    prune: Callable[..., Any] = Autotuner.prune_configs
    bench: Callable[..., Any] = Autotuner._bench
    if hasattr(bench, "__wrapped__"):
        return
    planned: WeakKeyDictionary[Any, Sequence[Any]] = WeakKeyDictionary()

    @functools.wraps(prune)
    def pruned(self: Any, *args: Any, **kwargs: Any) -> Any:
        planned[self] = prune(self, *args, **kwargs)
        return planned[self]

    @functools.wraps(bench)
    def compiled_first(self: Any, *args: Any, config: Any, **meta: Any) -> Any:
        configs = planned.pop(self, ())
        if len(configs) > 1 and active_mode.get() is None:
            settings = {name: value for name, value in meta.items() if name != "warmup"}
            threads = ThreadPoolExecutor(min(len(configs), usable_cores(), MOST_THREADS))
            # What does not compile fails again when it is asked for, where the autotuner leaves it out.
            with threads, AsyncCompileMode(threads, ignore_errors=True):
                for each in configs:
                    self.fn.warmup(*args, **{**settings, **each.all_kwargs()})
        return bench(self, *args, config=config, **meta)

    def restore() -> None:
        Autotuner.prune_configs, Autotuner._bench = prune, bench

    Autotuner.prune_configs, Autotuner._bench = pruned, compiled_first
    _ending.callback(restore)
