"""sharing: how much of a card's memory each test may take, so that the tests of several processes fit side by side."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

GIB = 1 << 30
NEEDS = {
    "test_at_size_gpu.py": 90 * GIB,
    "test_size_gpu.py": 90 * GIB,
    "test_many_gpu.py": 36 * GIB,
    "test_kernel_timing_gpu.py": 1024 * GIB,  # the card to itself: others would be in its times
}
"""What a test of a file takes at most, in bytes; all of a smaller card."""
OTHERS = 9 * GIB
"""What a test of any other file takes, with the context and the libraries of its process (1.5 to 8 GiB seen)."""


def share_of_the_card(file: str) -> AbstractContextManager[None]:
    """For a test of ``file`` in a process of pytest-xdist; alone there is nothing to wait for."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None or not torch.cuda.is_available():
        return nullcontext()
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    total = torch.cuda.get_device_properties(0).total_memory
    return share(Path(tempfile.gettempdir()) / f"gpu-tests-{run}-{card}", NEEDS.get(file, OTHERS), total)


@contextmanager
def share(place: Path, need: int, total: int) -> Iterator[None]:
    """Waits until others leave ``need`` of ``total`` bytes; small needs do not overtake a large one that waits.

    What each process took stands in the file ``place``. Of a process that died it counts no more. Of large needs, those
    above a half, one waits here and the others before: else nothing small would begin while a large one runs.
    """
    with locked(place.with_suffix(".large")) if need > total // 2 else nullcontext():
        with locked(place.with_suffix(".turn")):
            while not _took(place, min(need, total), total):
                time.sleep(0.05)
        try:
            yield
        finally:
            _took(place, 0, total)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Among all processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _took(place: Path, need: int, total: int) -> bool:
    """Whether this process now has ``need`` bytes of ``total`` to itself; 0 gives back what it had."""
    with place.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        taken = {pid: size for pid, size in json.loads(file.read() or "{}").items() if _lives(int(pid))}
        taken.pop(str(os.getpid()), None)
        if sum(taken.values()) + need > total:
            return False
        if need:
            taken[str(os.getpid())] = need
        file.truncate(0)
        json.dump(taken, file)
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
