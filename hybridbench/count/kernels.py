"""kernels: the names of the GPU kernels one step launched, as CUPTI saw them: proof of what really ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hybridbench.count.names import shortened


def kernel_names(step: Callable[[], object], device: torch.device) -> list[str]:
    """Distinct kernel names in order of the time they took, longest first; empty on a CPU.

    A replayed CUDA graph shows its kernels too, which no operator-level counter can see.
    """
    if device.type != "cuda":
        return []
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        step()
        torch.cuda.synchronize(device)
    return longest_first(profiler.events() or ())


def longest_first(events: Iterable[Any]) -> list[str]:
    """The distinct names of a profiler's GPU events in order of the time they took together, shortened."""
    total: dict[str, float] = {}
    for event in events:
        if ran_on_gpu(event):
            total[event.name] = total.get(event.name, 0.0) + event.device_time_total
    short: dict[str, None] = {}
    for name in sorted(total, key=lambda name: -total[name]):
        short.setdefault(shortened(name))
    return list(short)


def ran_on_gpu(event: Any) -> bool:
    """Whether a profiler's event is a kernel, a copy or a fill.

    A range of the host's, such as an optimizer's step, has a shadow on the GPU that covers what was launched in it, and
    that has a device, a name and a duration as kernels have.
    """
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation
