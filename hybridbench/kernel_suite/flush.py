"""flush: caches emptied of a call's inputs before it is timed, and memory that moves the next inputs elsewhere.

In a model hundreds of megabytes pass between two calls of a kernel, so its inputs come from memory. A loop over one
call finds them in the cache, unless something larger than the cache passes through it before each call.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from hybridbench.units import KIB, MIB

TIMES_CACHE = 2
"""Bytes of the buffer over bytes of the cache: no replacement policy keeps lines while twice the cache passes."""
DEFAULT_CACHE_BYTES = 32 * MIB
"""Of a CPU that does not say how large its last level is."""
DEFAULT_L2_BYTES = 128 * MIB
"""Of a GPU whose driver does not say: as much as any GPU of today has."""
CACHES = Path("/sys/devices/system/cpu")


class Flush:
    """Passes a buffer of twice the last cache of a device through it; on a GPU it is enqueued on the current stream.

    A GPU's buffer is written, a CPU's is read. Its pages are written once before: pages that never were are all one
    page of zeros, which stays in the cache.

    Attributes:
        buffer_bytes: size of the buffer; bytes.
    """

    def __init__(self, device: torch.device) -> None:
        self.buffer_bytes = TIMES_CACHE * last_cache_bytes(device)
        self._write = device.type == "cuda"
        self._buffer = torch.full((self.buffer_bytes // 8,), 1, dtype=torch.int64, device=device)

    def __call__(self) -> None:
        """One pass."""
        if self._write:
            self._buffer.zero_()
        else:
            self._buffer.sum()


def last_cache_bytes(device: torch.device) -> int:
    """Size of a GPU's L2, or of the last level of cache of this process's first core; bytes."""
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return int(properties.L2_cache_size) or DEFAULT_L2_BYTES
    return cpu_cache_bytes()


def cpu_cache_bytes(caches: Path = CACHES) -> int:
    """Size of the last level of cache for data, ``DEFAULT_CACHE_BYTES`` where Linux does not report it; bytes."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    levels = []
    for index in (caches / f"cpu{core}" / "cache").glob("index*"):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                levels.append((int(level), _bytes(size)))
        except (OSError, ValueError):
            continue
    return max(levels)[1] if levels else DEFAULT_CACHE_BYTES


def _bytes(size: str) -> int:
    """A size as Linux writes it: ``2048K``, ``32M``.

    Raises:
        ValueError: another form.
    """
    units = {"K": KIB, "M": MIB}
    return int(size[:-1]) * units[size[-1]] if size[-1:] in units else int(size)


def spacers(device: torch.device, number: int) -> list[torch.Tensor]:
    """Memory that is taken before inputs are allocated, so that set ``number`` of inputs lies where no earlier one did.

    PyTorch's allocator gives a freed block to the next tensor that fits, so a second set would get the memory of the
    first. Cached blocks are given back, and blocks of odd multiples of the two granularities of its pools (512 bytes
    and 2 MiB) shift what comes after. Nothing is written to them; free them when the inputs are freed.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    odd = 2 * number + 1
    return [torch.empty(odd * size, dtype=torch.uint8, device=device) for size in (512, 2 * MIB)] if number else []
