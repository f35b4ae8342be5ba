"""tuning: kernels compiled side by side: the configurations of one that tunes itself, and those of a whole step.

An autotuner compiles a configuration and times it, then the next one, on one core. Third-party kernels have up to
dozens of configurations; with Mamba-3's and KDA's the first training step takes minutes. Compiling needs no GPU, so all
cores compile them before the first is timed. What is timed, and how, does not change. The dozen kernels of a fused
decode step, and those of a scan's backward, are compiled together for the same reason.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from hybridbench.kernels.kept import kept
from hybridbench.machine import usable_cores

MOST_THREADS = 32
"""The most compilations at a time. More would take memory rather than save time: each holds an LLVM module."""

timed: Callable[[str, int], object] | None = None
"""Called in ``side_by_side`` when an autotuner has timed a configuration, with the kernel's name and the time; ns."""


def compile_together(compilations: Sequence[Callable[[], object]]) -> None:
    """Compiles kernels in parallel where Triton can (from 3.4 on); else each is compiled at its first launch.

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
    # A failed compilation fails again at the launch, which is where the error should be raised.
    with threads, AsyncCompileMode(threads, ignore_errors=True):
        for compile_one in compilations:
            compile_one()


class KernelCall(NamedTuple):
    """A Triton kernel with its grid, its arguments in order, and those that have a name."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]


def launch_in_order(launches: Sequence[KernelCall], like: Hashable) -> None:
    """Launches kernels one after the other. The first time in a case, they are compiled side by side before.

    Args:
        launches: none needs what another one returns to be launched.
        like: equal where the same variants of the kernels run, and where it is wrong they only compile one by one.
    """
    if like not in _launched:
        _launched[like] = True
        compile_together(
            [functools.partial(one.kernel.warmup, *one.args, grid=one.grid, **one.constants) for one in launches]
        )
    for kernel, grid, args, constants in launches:
        kernel[grid](*args, **constants)


_launched: dict[Hashable, bool] = kept()
"""What ``launch_in_order`` was called with in this case."""


@contextmanager
def side_by_side() -> Iterator[None]:
    """Inside, every autotuner of this process compiles its configurations in parallel, where Triton can (from 3.4 on).

    An autotuner prunes its configurations, which tells the ones that it will time, and then compiles them one by one.
    Where its result is on disk it compiles none, so nothing is compiled before it asks for the first one. Triton's
    class is changed when Triton is imported, now or by a kernel's import (``extend``), and restored at the end. The
    context can be nested.
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
"""Restores Triton's own functions at the end of the outermost ``side_by_side``; None outside."""


def extend() -> None:
    """Extends ``side_by_side`` to Triton if it was imported after entering it; does nothing outside."""
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
            # A failed compilation fails again in the autotuner, which then leaves the configuration out.
            with threads, AsyncCompileMode(threads, ignore_errors=True):
                for each in configs:
                    self.fn.warmup(*args, **{**settings, **each.all_kwargs()})
        started = time.perf_counter_ns()
        try:
            return bench(self, *args, config=config, **meta)
        finally:
            if timed is not None:
                timed(self.base_fn.__name__, time.perf_counter_ns() - started)

    def restore() -> None:
        Autotuner.prune_configs, Autotuner._bench = prune, bench

    Autotuner.prune_configs, Autotuner._bench = pruned, compiled_first
    _ending.callback(restore)
