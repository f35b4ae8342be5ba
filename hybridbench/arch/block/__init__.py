"""block: what every kind of block answers: parameters, FLOPs, cache bytes, bytes moved, in three conventions."""

from __future__ import annotations

from hybridbench.arch.block.counts import (
    TILE,
    WORKS,
    CacheBytes,
    CachePart,
    Convention,
    Flops,
    refuse_paper,
)
from hybridbench.arch.block.cut import Cut, Uncut, rows_of
from hybridbench.arch.block.mixer import Mixer
from hybridbench.arch.block.packed import Packed, Packing
from hybridbench.arch.block.storage import DTYPE_BYTES, KV_FORMATS, KvFormat, Storage
from hybridbench.arch.block.sublayer import Block, KernelSizes, Rescale, check_sizes, spec_to_dict, variant

__all__ = [
    "DTYPE_BYTES",
    "KV_FORMATS",
    "TILE",
    "WORKS",
    "Block",
    "CacheBytes",
    "CachePart",
    "Convention",
    "Cut",
    "Flops",
    "KernelSizes",
    "KvFormat",
    "Mixer",
    "Packed",
    "Packing",
    "Rescale",
    "Storage",
    "Uncut",
    "check_sizes",
    "refuse_paper",
    "rows_of",
    "spec_to_dict",
    "variant",
]
