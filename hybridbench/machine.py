"""machine: one sourced row of dense peak rates per GPU; a GPU that is not in the table has no peak.

A peak is what a utilisation is divided by, so a wrong one is worse than none. Two rules follow. The rates are dense:
vendors print tensor-core figures with 2:4 sparsity, twice what a model without sparse weights can reach, and those are
halved here. And a name matches a row only when it is exactly a name that driver gives that product: a laptop part, a
regional variant or a MIG slice carries the name of its big sister with something behind it, and gets ``None``.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

from hybridbench.units import GIB

_T = 1e12


@dataclass(frozen=True)
class Peak:
    """What one GPU could do at best.

    Attributes:
        name: the product, as people say it.
        device_names: exactly what the driver calls it, without the leading "NVIDIA".
        bf16_dense_flops_per_s: tensor cores, bf16 (and fp16) inputs, fp32 accumulation, no sparsity; FLOP/s.
        tf32_dense_flops_per_s: tensor cores, TF32 inputs, no sparsity; FLOP/s. None where the part has no such mode.
        fp32_flops_per_s: vector units, a fused multiply-add being 2 FLOPs; FLOP/s.
        memory_bytes_per_s: device memory bandwidth; bytes/s.
        memory_bytes: installed device memory; bytes. What a data sheet calls GB of device memory are powers of two;
            ECC and the driver leave about half a percent less.
        tdp_w: board power limit as shipped; watts.
        source: title of the vendor's document the row was read from.
    """

    name: str
    device_names: tuple[str, ...]
    bf16_dense_flops_per_s: float
    tf32_dense_flops_per_s: float | None
    fp32_flops_per_s: float
    memory_bytes_per_s: float
    memory_bytes: int
    tdp_w: float
    source: str


_A100 = "NVIDIA A100 Tensor Core GPU data sheet"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture white paper, table of peak rates without sparsity"
_H100_NVL = "NVIDIA H100 Tensor Core GPU data sheet, H100 NVL column; sparse rates halved"
_H200 = "NVIDIA H200 Tensor Core GPU data sheet, SXM column; dense rates of the same chip from the H100 white paper"
_H200_NVL = "NVIDIA H200 Tensor Core GPU data sheet, H200 NVL column; sparse rates halved"
_B200 = "NVIDIA Blackwell data sheet, HGX B200 column, sparse rates halved; memory: NVIDIA DGX B200 data sheet"
_GB200 = "NVIDIA Blackwell data sheet, GB200 NVL72 column per GPU; sparse rates halved"

PEAKS: tuple[Peak, ...] = (
    Peak("A100 40GB SXM", ("A100-SXM4-40GB",), 312 * _T, 156 * _T, 19.5 * _T, 1.555 * _T, 40 * GIB, 400, _A100),
    Peak("A100 40GB PCIe", ("A100-PCIE-40GB",), 312 * _T, 156 * _T, 19.5 * _T, 1.555 * _T, 40 * GIB, 250, _A100),
    Peak("A100 80GB SXM", ("A100-SXM4-80GB",), 312 * _T, 156 * _T, 19.5 * _T, 2.039 * _T, 80 * GIB, 400, _A100),
    Peak("A100 80GB PCIe", ("A100 80GB PCIe",), 312 * _T, 156 * _T, 19.5 * _T, 1.935 * _T, 80 * GIB, 300, _A100),
    Peak("H100 SXM", ("H100 80GB HBM3",), 989.4 * _T, 494.7 * _T, 66.9 * _T, 3.352 * _T, 80 * GIB, 700, _H100),
    Peak("H100 PCIe", ("H100 PCIe",), 756 * _T, 378 * _T, 51.2 * _T, 2.039 * _T, 80 * GIB, 350, _H100),
    Peak("H100 NVL", ("H100 NVL",), 835.5 * _T, 417.5 * _T, 60 * _T, 3.9 * _T, 94 * GIB, 400, _H100_NVL),
    Peak("H200 SXM", ("H200",), 989.4 * _T, 494.7 * _T, 66.9 * _T, 4.8 * _T, 141 * GIB, 700, _H200),
    Peak("H200 NVL", ("H200 NVL",), 835.5 * _T, 417.5 * _T, 60 * _T, 4.8 * _T, 141 * GIB, 600, _H200_NVL),
    Peak("B200", ("B200",), 2250 * _T, 1100 * _T, 75 * _T, 8.0 * _T, 180 * GIB, 1000, _B200),
    Peak("GB200", ("GB200",), 2500 * _T, 1250 * _T, 80 * _T, 8.0 * _T, 186 * GIB, 1200, _GB200),
    Peak("L40S", ("L40S",), 362.05 * _T, 183 * _T, 91.6 * _T, 0.864 * _T, 48 * GIB, 350, "NVIDIA L40S GPU data sheet"),
    Peak(
        "L4",
        ("L4",),
        121 * _T,
        60 * _T,
        30.3 * _T,
        0.3 * _T,
        24 * GIB,
        72,
        "NVIDIA L4 Tensor Core GPU data sheet; sparse rates halved",
    ),
    Peak(
        "RTX 3090",
        ("GeForce RTX 3090",),
        71 * _T,
        35.6 * _T,
        35.6 * _T,
        0.936 * _T,
        24 * GIB,
        350,
        "NVIDIA Ampere GA102 GPU Architecture white paper, BF16 with FP32 accumulation, without sparsity",
    ),
    Peak(
        "RTX 4090",
        ("GeForce RTX 4090",),
        165.2 * _T,
        82.6 * _T,
        82.6 * _T,
        1.008 * _T,
        24 * GIB,
        450,
        "NVIDIA Ada GPU Architecture white paper, BF16 with FP32 accumulation, without sparsity",
    ),
    Peak(
        "RTX 5090",
        ("GeForce RTX 5090",),
        209.5 * _T,
        104.8 * _T,
        104.8 * _T,
        1.792 * _T,
        32 * GIB,
        575,
        "NVIDIA RTX Blackwell GPU Architecture white paper, BF16 with FP32 accumulation, without sparsity",
    ),
    Peak(
        "MI300X",
        ("AMD Instinct MI300X", "AMD Instinct MI300X OAM"),
        1307.4 * _T,
        653.7 * _T,
        163.4 * _T,
        5.325 * _T,
        192 * GIB,
        750,
        "AMD Instinct MI300X Accelerator data sheet, without structured sparsity",
    ),
)

_BY_DEVICE_NAME = {device_name: peak for peak in PEAKS for device_name in peak.device_names}


def find_peak(device_name: str) -> Peak | None:
    """The row of exactly this GPU, or None: an unknown GPU, a variant of a known one and a CPU have no peak.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it. Drivers before 465 left out the leading "NVIDIA".

    >>> find_peak("NVIDIA H200").name
    'H200 SXM'
    >>> find_peak("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    True
    """
    return _BY_DEVICE_NAME.get(device_name.removeprefix("NVIDIA "))


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
        # CUDA stops reading the list at the first name that is no device.
        if not name or name.startswith("-") or (name.isdecimal() and int(name) >= count):
            break
        gpus.append(name)
    return gpus
