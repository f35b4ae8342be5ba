"""memory: bytes of weights, gradients and optimizer state, and the allocator's peaks.

Parts are summed over tensors. Each storage counts once, so tied weights do not count twice. Peaks come from PyTorch's
CUDA allocator and include what the parts do not: activations and workspaces. On a CPU the peaks are None: there is no
such allocator, and the process's resident size would include Python and its libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hybridbench.record import Memory
from hybridbench.units import KIB

MEMINFO = Path("/proc/meminfo")


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors' storages. Each storage counts once and whole, even where a tensor views a part of it.

    Of a tensor that is spread over ranks this rank's part counts.
    """
    # only a DTensor has this method; importing the class takes a second of every process that measures
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    storages = (tensor.untyped_storage() for tensor in local if not tensor.is_meta)
    return sum({(storage.device, storage.data_ptr()): storage.nbytes() for storage in storages}.values())


def weights_bytes(module: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return tensor_bytes([*module.parameters(), *module.buffers()])


def gradients_bytes(module: torch.nn.Module) -> int | None:
    """Bytes of the gradients that exist now; None where there are none, as in inference."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return tensor_bytes(gradients) if gradients else None


def optimizer_bytes(optimizer: torch.optim.Optimizer | None) -> int | None:
    """Bytes of the optimizer's state; None without an optimizer."""
    return None if optimizer is None else tensor_bytes(_tensors(list(optimizer.state.values())))


def reset_peaks(device: torch.device) -> None:
    """Resets the allocator's peaks to what is allocated now; does nothing on a device without such an allocator."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free or that PyTorch would give back; bytes. On a CPU what Linux says, None elsewhere."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + idle)
    try:
        text = MEMINFO.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    found = re.search(r"^MemAvailable: +(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * KIB if found else None


def observe_memory(
    device: torch.device,
    module: torch.nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    cache_bytes: int | None = None,
) -> Memory:
    """The current bytes of the parts, and the peaks since ``reset_peaks``."""
    on_gpu = device.type == "cuda"
    return Memory(
        weights_bytes=weights_bytes(module),
        gradients_bytes=gradients_bytes(module),
        optimizer_bytes=optimizer_bytes(optimizer),
        cache_bytes=cache_bytes,
        peak_allocated_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else None,
        peak_reserved_bytes=torch.cuda.max_memory_reserved(device) if on_gpu else None,
    )


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested dicts and sequences: optimizers nest their state as they like."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
