"""compiling: which Triton kernels compile and tune themselves inside a context, and for how long.

What lay on disk is not in the list, so it tells what a first run pays for and what compiling ahead left out. Kernels of
CUDA libraries and of Inductor's C++ side are not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hybridbench.kernels import tuning
from hybridbench.record.observed import CompiledKernel

NS_PER_US = 1000


@contextmanager
def noting() -> Iterator[list[CompiledKernel] | None]:
    """The list is filled on the way out, slowest first; None without Triton 3.5 or newer.

    Triton's own hook is put in place and restored. Times of compilations that run side by side are added up.
    """
    try:
        from triton.knobs import compilation

        before: Any = compilation.listener
    except (ImportError, AttributeError):  # older versions have no hook
        yield None
        return
    found: list[CompiledKernel] = []
    variants: Counter[str] = Counter()
    compile_ns: Counter[str] = Counter()

    def heard(*, src: Any, times: Any, cache_hit: bool, **more: Any) -> None:
        if not cache_hit:
            variants[_name(src)] += 1
            compile_ns[_name(src)] += times.total * NS_PER_US
        if before is not None:
            before(src=src, times=times, cache_hit=cache_hit, **more)

    tune_ns: Counter[str] = Counter()

    def tuned(kernel: str, spent_ns: int) -> None:
        tune_ns[kernel] += spent_ns

    compilation.listener, tuning.timed = heard, tuned
    try:
        yield found
    finally:
        compilation.listener, tuning.timed = before, None
        kernels = [CompiledKernel(name, variants[name], compile_ns[name], tune_ns[name]) for name in variants | tune_ns]
        found.extend(sorted(kernels, key=lambda one: (-one.compile_ns - one.tune_ns, one.kernel)))


def _name(src: Any) -> str:
    return str(getattr(src, "name", None) or getattr(getattr(src, "fn", None), "__name__", "unknown"))
