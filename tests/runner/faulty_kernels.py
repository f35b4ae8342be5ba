"""Attention kernels that pass verification and then fail in every way a kernel can, for the runner's tests.

They are named on a case as ``--backend attention=faulty_kernels:NAME`` and imported by the worker process.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from hybridbench.kernels.attention import reference

VERIFIED_LENGTHS = 300


def _failing(fail):
    def attention(q_BTHP, k_BTKP, v_BTKV, *, window=None, sinks=0):
        if q_BTHP.shape[1] > VERIFIED_LENGTHS:
            fail()
        return reference.attention(q_BTHP, k_BTKP, v_BTKV, window=window, sinks=sinks)

    return attention


def _out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def _raise():
    raise ZeroDivisionError("a kernel divided by zero")


def _kill_once():
    first = Path(os.environ["KILLED_ONCE"])
    if not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _hang():
    Path(os.environ["HANGS"]).touch()
    time.sleep(600)


good = _failing(lambda: None)
oom = _failing(_out_of_memory)
raises = _failing(_raise)
exits = _failing(lambda: os._exit(3))
killed = _failing(lambda: os.kill(os.getpid(), signal.SIGKILL))
killed_once = _failing(_kill_once)
hangs = _failing(_hang)


def wrong(q_BTHP, k_BTKP, v_BTKV, *, window=None, sinks=0):
    """Off by one per cent."""
    return 1.01 * reference.attention(q_BTHP, k_BTKP, v_BTKV, window=window, sinks=sinks)
