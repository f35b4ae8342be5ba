"""Kernels that go wrong on rank 1 only, once its checks are over.

They are named as ``--backend attention=faulty_on_a_rank:dies``. Each runs plain attention so many times first that
verification and the checks at size have passed.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch

from hybridbench.kernels.attention.reference import attention
from hybridbench.standing import Standing

CALLS = {"n": 0}


def _after_checks() -> bool:
    """Whether this is rank 1, in its timed steps."""
    CALLS["n"] += 1
    return Standing.here().rank == 1 and CALLS["n"] > int(os.environ.get("FAULTY_FROM", "60"))


def good(*given: Any, **options: Any) -> Any:
    return attention(*given, **options)


def dies(*given: Any, **options: Any) -> Any:
    if _after_checks():
        os.kill(os.getpid(), signal.SIGKILL)
    return attention(*given, **options)


def oom(*given: Any, **options: Any) -> Any:
    if _after_checks():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return attention(*given, **options)


def hangs(*given: Any, **options: Any) -> Any:
    while _after_checks():
        time.sleep(0.1)
    return attention(*given, **options)
