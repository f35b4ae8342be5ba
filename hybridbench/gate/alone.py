"""alone: whether a GPU is free to be timed, asked of its driver before any process of ours is on it."""

from __future__ import annotations

import importlib
from typing import Any

from hybridbench.errors import NotComparable


def check_alone(gpu: str, nvml: Any = None) -> None:
    """Check that nothing computes on a GPU. Where the driver does not say, nothing is refused.

    Args:
        gpu: one of ``machine.visible_gpus``: an index or a UUID.
        nvml: the ``pynvml`` module; None imports it.

    Raises:
        NotComparable: something does.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(gpu)
        others = sorted({int(one.pid) for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)})
    except nvml.NVMLError:
        return
    if others:
        shown = ", ".join(map(str, others[:5]))
        raise NotComparable(
            f"GPU {gpu} is in use by {len(others)} other process{'es' if len(others) > 1 else ''} ({shown}): wait for "
            "its end, or choose another GPU with CUDA_VISIBLE_DEVICES."
        )
