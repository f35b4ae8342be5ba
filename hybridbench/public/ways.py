"""ways: in which ways the public library of each family runs a decode and a training step."""

from __future__ import annotations

from dataclasses import dataclass

from hybridbench.public.llama import (
    CompiledFlashLlama,
    CompiledLlama,
    FlashLlama,
    GrowingLlama,
    GrowingSdpaLlama,
    TheirLlama,
)
from hybridbench.public.mamba import EagerMamba, TheirMamba
from hybridbench.public.theirs import PublicModel
from hybridbench.suite.workloads import DECODE, TRAIN


@dataclass(frozen=True)
class Way:
    """A way to run a step: its words, the model that runs so, and whether it needs a GPU."""

    words: str
    model: type[PublicModel]
    on_gpu: bool = True


WAYS: dict[tuple[str, str], tuple[Way, ...]] = {
    (DECODE, "transformer"): (
        Way("sdpa, static cache, compiled", CompiledLlama),
        Way("flash_attention_2, growing cache, eager", GrowingLlama),
        Way("sdpa, growing cache, eager", GrowingSdpaLlama, on_gpu=False),
        Way("sdpa, static cache, eager", TheirLlama, on_gpu=False),
    ),
    (DECODE, "mamba"): (Way("CUDA graph", TheirMamba, on_gpu=False), Way("eager", EagerMamba, on_gpu=False)),
    (TRAIN, "transformer"): (
        Way("sdpa, compiled", CompiledLlama),
        Way("flash_attention_2, compiled", CompiledFlashLlama),
        Way("flash_attention_2, eager", FlashLlama),
        Way("sdpa, eager", TheirLlama, on_gpu=False),
    ),
    (TRAIN, "mamba"): (Way("eager", TheirMamba, on_gpu=False),),
}
"""By workload and family, the one that the library documents as fast first."""


def ways(workload: str, arch: str, device: str) -> list[Way]:
    """Those that can run on a device at all. What is not installed is found out when it is tried."""
    return [way for way in WAYS[workload, arch] if device == "cuda" or not way.on_gpu]
