"""host: the GPUs and cores that this process may use, without torch."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Sequence
from typing import Any

from hybridbench.errors import BadInput, unknown_name

DEVICES = ("cpu", "cuda")


def device_of(asked: str | None, has_gpu: bool) -> str:
    """The device that is asked for, else a GPU where there is one.

    Raises:
        BadInput: a name that is none.
    """
    device = ("cuda" if has_gpu else "cpu") if asked is None else asked
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    return device


def check_gpu(device: str, gpus: Sequence[str]) -> None:
    """Check that there is a GPU for a device that needs one.

    Args:
        gpus: what ``visible_gpus`` found.

    Raises:
        BadInput: there is none; the text says what to do instead.
    """
    if device == "cuda" and not gpus:
        raise BadInput("device cuda: this machine shows no NVIDIA GPU; use --device cpu, or see hybridbench doctor.")


def visible_gpus(nvml: Any = None) -> list[str]:
    """The NVIDIA GPUs this process may use, each as a value for a child's CUDA_VISIBLE_DEVICES; asks NVML, not torch.

    Args:
        nvml: the ``pynvml`` module; imported if not given.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return []
    try:
        nvml.nvmlInit()
        count = int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not count:
        return [str(index) for index in range(count)]
    gpus = []
    for name in (part.strip() for part in allowed.split(",")):
        # CUDA ignores the rest of the list after the first name that is no device.
        if not name or name.startswith("-") or (name.isdecimal() and int(name) >= count):
            break
        gpus.append(name)
    return gpus


def in_groups(gpus: Sequence[str], each: int) -> list[str]:
    """The GPUs in groups of ``each``, as values of CUDA_VISIBLE_DEVICES; those that are left over are in none.

    >>> in_groups(["0", "1", "2"], 2)
    ['0,1']
    """
    if each == 1:
        return list(gpus)
    return [",".join(gpus[first : first + each]) for first in range(0, len(gpus) - each + 1, each)]


def first_gpu_name(nvml: Any = None) -> str | None:
    """The name that the driver gives the first visible GPU; None where there is none or NVML does not tell.

    Args:
        nvml: the ``pynvml`` module; imported if not given.
    """
    gpus = visible_gpus(nvml)
    if not gpus:
        return None
    nvml = nvml or importlib.import_module("pynvml")
    try:
        return str(nvml.nvmlDeviceGetName(_handle(gpus[0], nvml)))
    except nvml.NVMLError:
        return None


def free_bytes(gpu: str, nvml: Any = None) -> int | None:
    """Device memory of one of ``visible_gpus`` that no process uses; None where the driver does not tell.

    Args:
        nvml: the ``pynvml`` module; imported if not given.
    """
    nvml = nvml or importlib.import_module("pynvml")
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(_handle(gpu, nvml)).free)
    except nvml.NVMLError:
        return None


def _handle(gpu: str, nvml: Any) -> Any:
    """NVML's handle of a value of ``visible_gpus``."""
    return nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(gpu)


def alike_gpus(gpus: Sequence[str], nvml: Any = None) -> Sequence[str]:
    """The GPUs of ``visible_gpus`` if the driver gives all of them the same name, else none.

    Args:
        nvml: the ``pynvml`` module; imported if not given.
    """
    if not gpus:
        return ()
    nvml = nvml or importlib.import_module("pynvml")
    try:
        names = {str(nvml.nvmlDeviceGetName(_handle(gpu, nvml))) for gpu in gpus}
    except nvml.NVMLError:
        return ()
    return gpus if len(names) == 1 else ()


def gpu_uuids(gpus: Sequence[str], nvml: Any = None) -> dict[str, str]:
    """The UUID of each of ``visible_gpus``, which every process of a machine gives the same GPU.

    Where the driver does not tell, it is the host's name with the value.

    Args:
        nvml: the ``pynvml`` module; imported if not given.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return {gpu: f"{socket.gethostname()}-{gpu}" for gpu in gpus}
    return {gpu: _uuid(gpu, nvml) or f"{socket.gethostname()}-{gpu}" for gpu in gpus}


def _uuid(gpu: str, nvml: Any) -> str | None:
    try:
        if gpu.isdecimal():
            return str(nvml.nvmlDeviceGetUUID(_handle(gpu, nvml)))
        count = int(nvml.nvmlDeviceGetCount())
        known = [str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index))) for index in range(count)]
    except nvml.NVMLError:
        return None
    # CUDA takes the beginning of a UUID too. Those of MIG are not among the devices that NVML counts.
    return next((uuid for uuid in known if uuid.startswith(gpu)), gpu)


def thread_settings(workers: int = 1) -> dict[str, str]:
    """Variables that a process needs before it imports PyTorch to time models, without those already set.

    Args:
        workers: processes that share the cores.

    OpenMP threads sleep while they wait. Spinning threads slow small operators fiftyfold as soon as anything else needs
    a core (2.7 ms steps became 140 ms on two cores); sleeping ones cost a quarter on a quiet machine. One core is left
    to other processes. If every core has a thread, any other process stops one of them, and each operator waits for its
    slowest thread. Beside other work on two cores, steps of tiny models stayed within 6% of their median on one thread,
    and within 10 to 40% on two, which were 1.05 to 1.35 times as fast.
    """
    wanted = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(max(1, (usable_cores() - 1) // workers))}
    return {name: value for name, value in wanted.items() if name not in os.environ}


def usable_cores() -> int:
    """Cores this process may use: a container or taskset may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
