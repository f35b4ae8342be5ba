"""machine: the peak rates of every known GPU, and the GPUs and cores that this process may use."""

from __future__ import annotations

from hybridbench.machine.host import (
    DEVICES,
    alike_gpus,
    check_gpu,
    device_of,
    first_gpu_name,
    free_bytes,
    gpu_uuids,
    in_groups,
    thread_settings,
    usable_cores,
    visible_gpus,
)
from hybridbench.machine.peaks import PEAKS, Peak, find_gpu, find_gpus, find_peak

__all__ = [
    "DEVICES",
    "PEAKS",
    "Peak",
    "alike_gpus",
    "check_gpu",
    "device_of",
    "find_gpu",
    "find_gpus",
    "find_peak",
    "first_gpu_name",
    "free_bytes",
    "gpu_uuids",
    "in_groups",
    "thread_settings",
    "usable_cores",
    "visible_gpus",
]
