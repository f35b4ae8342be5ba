"""once: each Triton kernel compiled by one process, where several start at the same time on the same disk cache.

Triton looks into its cache on disk before it compiles, and not again. Processes that make similar models ready at the
same time would each compile the same scans. Inside ``compiled_once`` a process waits for the one that compiles the same
kernel, and then reads it from the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Inside, Triton's compiler runs once at a time for the same source, target and options; nothing without Triton.

    Triton's function is replaced where its kernels take it from when they first run, and restored at the end.

    Args:
        folder: for lock files, which the processes share.
    """
    try:
        from triton import compiler
    except ImportError:
        yield
        return
    real: Callable[..., Any] = compiler.compile

    def compile_alone(src: Any, target: Any = None, options: Any = None, **more: Any) -> Any:
        with _locked(folder / _name(src, target, options)):
            return real(src, target=target, options=options, **more)

    compiler.compile = compile_alone
    try:
        yield
    finally:
        compiler.compile = real


def _name(src: Any, target: Any, options: Any) -> str:
    """The same for what compiles to the same. Other settings of a compilation are those of the environment."""
    said = f"{src.hash() if hasattr(src, 'hash') else src} {target} {sorted((options or {}).items(), key=str)}"
    return hashlib.sha256(said.encode()).hexdigest()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds a lock of this process's thread on a file; without room for the file there is none."""
    try:
        opened = file.open("wb")
    except OSError:
        yield
        return
    with opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
