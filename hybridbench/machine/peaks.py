"""peaks: one sourced row of dense peak rates per GPU; a GPU that is not in the table has no peak.

Utilisation is a rate divided by a peak, so a wrong peak is worse than none. Two rules follow. The rates are dense:
vendors print tensor-core figures with 2:4 sparsity, which are twice what a model without sparse weights can reach, so
those are halved here. And a name matches a row only if it is exactly a name that the driver gives that product: the
name of a laptop part, a regional variant or a MIG slice starts with that of the full product, and gets ``None``.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.errors import BadInput, unknown_name
from hybridbench.units import GIB

_T = 1e12

REPORTED_SHARE = 0.985
"""Share of the installed memory that PyTorch reports for a GPU whose row does not state it."""


@dataclass(frozen=True)
class Link:
    """What connects a GPU to the others of its host or rack.

    Attributes:
        name: NVLink or Infinity Fabric, with its generation.
        bytes_per_s: over all of its links, in each direction; vendors print the sum of both directions.
        source: title of the vendor's document.
    """

    name: str
    bytes_per_s: float
    source: str


@dataclass(frozen=True)
class Peak:
    """The peak rates and the memory of one GPU.

    Attributes:
        name: the product's usual name.
        device_names: exactly what the driver calls it, without the leading "NVIDIA".
        bf16_dense_flops_per_s: tensor cores, bf16 (and fp16) inputs, fp32 accumulation, no sparsity; FLOP/s.
        tf32_dense_flops_per_s: tensor cores, TF32 inputs, no sparsity; FLOP/s. None where the part has no such mode.
        fp32_flops_per_s: vector units, a fused multiply-add being 2 FLOPs; FLOP/s.
        memory_bytes_per_s: device memory bandwidth; bytes/s.
        memory_bytes: installed device memory; bytes. What a data sheet calls GB of device memory are powers of two;
            ECC and the driver leave about half a percent less.
        tdp_w: board power limit as shipped; watts.
        source: title of the vendor's document the row was read from.
        aliases: what people type for it, the shortest first; the short name of a family means its SXM part. Without
            any it is the name in lower case.
        reported_bytes: what PyTorch reports as the card's total memory, less than installed by ECC and the driver's
            share; as its out-of-memory messages in public issues state it (H200: read here), None where none was found.
        link: to all other GPUs of its board or rack at once; None for parts that have bridges between pairs, or none.
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
    aliases: tuple[str, ...] = ()
    reported_bytes: int | None = None
    link: Link | None = None

    @property
    def short(self) -> str:
        """What is shown as the word to type for it: one without spaces."""
        return self.aliases[0] if self.aliases else "-".join(self.name.lower().split())

    def flops_per_s(self, dtype: str) -> float | None:
        """The most FLOP/s with tensors of a dtype.

        float32 is measured against TF32 where the part has it: Triton kernels use it unless told otherwise, and a
        floor must hold for them too. float64 has no peak in the table.
        """
        if dtype in ("bfloat16", "float16"):
            return self.bf16_dense_flops_per_s
        return (self.tf32_dense_flops_per_s or self.fp32_flops_per_s) if dtype == "float32" else None

    @property
    def usable_bytes(self) -> int:
        """Memory a process can use: as reported, else ``REPORTED_SHARE`` of what is installed; bytes."""
        return self.reported_bytes or int(self.memory_bytes * REPORTED_SHARE)


_A100 = "NVIDIA A100 Tensor Core GPU data sheet"

_H100 = "NVIDIA H100 Tensor Core GPU Architecture white paper, table of peak rates without sparsity"

_H100_NVL = "NVIDIA H100 Tensor Core GPU data sheet, H100 NVL column; sparse rates halved"

_H200 = "NVIDIA H200 Tensor Core GPU data sheet, SXM column; dense rates of the same chip from the H100 white paper"

_H200_NVL = "NVIDIA H200 Tensor Core GPU data sheet, H200 NVL column; sparse rates halved"

_B200 = "NVIDIA Blackwell data sheet, HGX B200 column, sparse rates halved; memory: NVIDIA DGX B200 data sheet"

_GB200 = "NVIDIA Blackwell data sheet, GB200 NVL72 column per GPU; sparse rates halved"

_NVLINK_3 = Link("NVLink 3", 0.3 * _T, "NVIDIA A100 Tensor Core GPU data sheet, 600 GB/s in both directions")
_NVLINK_4 = Link("NVLink 4", 0.45 * _T, "NVIDIA H100 and H200 Tensor Core GPU data sheets, 900 GB/s in both directions")
_NVLINK_5 = Link("NVLink 5", 0.9 * _T, "NVIDIA Blackwell data sheet, 1.8 TB/s a GPU in both directions")
_XGMI = Link(
    "Infinity Fabric", 0.448 * _T, "AMD Instinct MI300X Platform data sheet, 896 GB/s between GPUs in both directions"
)

PEAKS: tuple[Peak, ...] = (
    Peak(
        "A100 40GB SXM",
        ("A100-SXM4-40GB",),
        312 * _T,
        156 * _T,
        19.5 * _T,
        1.555 * _T,
        40 * GIB,
        400,
        _A100,
        aliases=("a100-40gb", "a100-40gb-sxm"),
        reported_bytes=int(39.5 * GIB),
        link=_NVLINK_3,
    ),
    Peak(
        "A100 40GB PCIe",
        ("A100-PCIE-40GB",),
        312 * _T,
        156 * _T,
        19.5 * _T,
        1.555 * _T,
        40 * GIB,
        250,
        _A100,
        aliases=("a100-40gb-pcie",),
        reported_bytes=int(39.5 * GIB),
    ),
    Peak(
        "A100 80GB SXM",
        ("A100-SXM4-80GB",),
        312 * _T,
        156 * _T,
        19.5 * _T,
        2.039 * _T,
        80 * GIB,
        400,
        _A100,
        aliases=("a100-80gb", "a100-80gb-sxm"),
        reported_bytes=int(79.25 * GIB),
        link=_NVLINK_3,
    ),
    Peak(
        "A100 80GB PCIe",
        ("A100 80GB PCIe",),
        312 * _T,
        156 * _T,
        19.5 * _T,
        1.935 * _T,
        80 * GIB,
        300,
        _A100,
        aliases=("a100-80gb-pcie",),
        reported_bytes=int(79.25 * GIB),
    ),
    Peak(
        "H100 SXM",
        ("H100 80GB HBM3",),
        989.4 * _T,
        494.7 * _T,
        66.9 * _T,
        3.352 * _T,
        80 * GIB,
        700,
        _H100,
        aliases=("h100", "h100-sxm", "h100-80gb"),
        reported_bytes=int(79.1 * GIB),
        link=_NVLINK_4,
    ),
    Peak(
        "H100 PCIe",
        ("H100 PCIe",),
        756 * _T,
        378 * _T,
        51.2 * _T,
        2.039 * _T,
        80 * GIB,
        350,
        _H100,
        aliases=("h100-pcie",),
    ),
    Peak(
        "H100 NVL",
        ("H100 NVL",),
        835.5 * _T,
        417.5 * _T,
        60 * _T,
        3.9 * _T,
        94 * GIB,
        400,
        _H100_NVL,
        aliases=("h100-nvl",),
    ),
    Peak(
        "H200 SXM",
        ("H200",),
        989.4 * _T,
        494.7 * _T,
        66.9 * _T,
        4.8 * _T,
        141 * GIB,
        700,
        _H200,
        aliases=("h200", "h200-sxm"),
        reported_bytes=150_109_880_320,
        link=_NVLINK_4,
    ),
    Peak(
        "H200 NVL",
        ("H200 NVL",),
        835.5 * _T,
        417.5 * _T,
        60 * _T,
        4.8 * _T,
        141 * GIB,
        600,
        _H200_NVL,
        aliases=("h200-nvl",),
    ),
    Peak(
        "B200",
        ("B200",),
        2250 * _T,
        1100 * _T,
        75 * _T,
        8.0 * _T,
        180 * GIB,
        1000,
        _B200,
        aliases=("b200",),
        link=_NVLINK_5,
    ),
    Peak(
        "GB200",
        ("GB200",),
        2500 * _T,
        1250 * _T,
        80 * _T,
        8.0 * _T,
        186 * GIB,
        1200,
        _GB200,
        aliases=("gb200",),
        link=_NVLINK_5,
    ),
    Peak(
        "L40S",
        ("L40S",),
        362.05 * _T,
        183 * _T,
        91.6 * _T,
        0.864 * _T,
        48 * GIB,
        350,
        "NVIDIA L40S GPU data sheet",
        aliases=("l40s",),
        reported_bytes=int(44.4 * GIB),
    ),
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
        aliases=("l4",),
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
        aliases=("rtx-3090", "3090"),
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
        aliases=("rtx-4090", "4090"),
        reported_bytes=int(23.5 * GIB),
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
        aliases=("rtx-5090", "5090"),
        reported_bytes=int(31.36 * GIB),
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
        aliases=("mi300x",),
        reported_bytes=201_310_208 * 1024,
        link=_XGMI,
    ),
)

_BY_DEVICE_NAME = {device_name: peak for peak in PEAKS for device_name in peak.device_names}


def find_gpu(name: str) -> Peak:
    """The row of a GPU by an alias, the product's name or the driver's; case and hyphens do not matter.

    >>> find_gpu("A100 80GB").name, find_gpu("nvidia h200").name
    ('A100 80GB SXM', 'H200 SXM')

    Raises:
        BadInput: no such row, with the nearest one.
    """
    typed = _plain(name)
    for peak in PEAKS:
        if typed in {_plain(known) for known in (peak.name, *peak.device_names, *peak.aliases)}:
            return peak
    family = [peak.short for peak in PEAKS if typed and peak.short.startswith(f"{typed}-")]
    if family:
        raise BadInput(f"GPU '{name}' is {len(family)} products: say which of {', '.join(family)}.")
    raise unknown_name("GPU", name, [peak.short for peak in PEAKS])


def find_gpus(text: str) -> list[Peak]:
    """The rows of a list of names with commas between them, each once; ``all`` is the whole table.

    Raises:
        BadInput: an empty part, or a name that is not in the table.
    """
    if text.strip().lower() == "all":
        return list(PEAKS)
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise BadInput(
            f"GPU '{text}' has an empty part: write names with single commas between them, such as h200,b200."
        )
    return list(dict.fromkeys(find_gpu(part) for part in parts))


def _plain(name: str) -> str:
    """A name in lower case, without hyphens and without the vendor's prefixes."""
    words = name.lower().replace("-", " ").replace("_", " ").split()
    return "".join(word for word in words if word not in ("nvidia", "amd", "instinct", "geforce"))


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
