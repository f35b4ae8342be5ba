"""caches: bytes of the keys and values, SSM states and convolution states that a model really holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from hybridbench.arch.block import DTYPE_BYTES, Storage
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput, Unsupported
from hybridbench.model.build import build_model, check_buildable
from hybridbench.model.language import LanguageModel
from hybridbench.model.mixer import MixerModule
from hybridbench.model.parallel import ParallelModule
from hybridbench.predict.layouts import find_layout, layout_bytes
from hybridbench.record import CacheObserved
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import DECODE, Workload

_ADDRESSED = 2**63
"""Bytes from which on a size does not fit the 64-bit numbers that torch counts in."""


class CountedCache(Protocol):
    """What a mixer keeps between tokens, as tensors by kind: ``kv``, ``ssm`` and ``conv``; a kind may be absent."""

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """The tensors by kind."""


def count_cache(caches: Iterable[CountedCache], tokens: int) -> CacheObserved:
    """Bytes of the caches' tensors by kind, summed over layers and the batch.

    Bytes are logical, ``numel * element_size``: what the tensors hold, not what the allocator rounded it up to, so that
    they compare with the closed form to the byte.

    Args:
        caches: one per mixer.
        tokens: how many each sequence has room for.

    Raises:
        ValueError: a cache names a kind that is not counted here.
    """
    total = {"kv": 0, "ssm": 0, "conv": 0}
    for cache in caches:
        for kind, tensors in cache.tensors().items():
            if kind not in total:
                raise ValueError(f"{type(cache).__name__} holds '{kind}' tensors: known are {', '.join(total)}.")
            total[kind] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return CacheObserved(
        tokens, kv_cache_bytes=total["kv"], ssm_state_bytes=total["ssm"], conv_state_bytes=total["conv"]
    )


class _Built:
    """The last model that was built, on the meta device: its modules are the same at every batch and context, and
    building them takes ten times as long as building their caches.
    """

    def __init__(self) -> None:
        self._last: tuple[ModelSpec, str, LanguageModel] | None = None

    def model(self, spec: ModelSpec, dtype: str) -> LanguageModel:
        """The model of a spec.

        Raises:
            Unsupported: it has no modules.
        """
        if self._last is None or self._last[0] is not spec or self._last[1] != dtype:
            check_buildable(spec)
            case = Case(spec, Workload(DECODE, 1, 1), Execution("cpu", dtype, "eager"))
            self._last = spec, dtype, build_model(case, [])
        return self._last[2]


_BUILT = _Built()


def cache_bytes_of(
    spec: ModelSpec, batch: int, capacity: int, dtype: str, storage: Storage, device: torch.device | None = None
) -> tuple[int, int | None]:
    """Bytes of the tensors in the caches of a model built for the purpose, and what the allocator gave for them.

    The model itself stays on the meta device. Without a ``device`` the caches do too, and nothing is allocated.

    Raises:
        Unsupported: a model that has no modules.
        torch.OutOfMemoryError: the caches do not fit the device.
    """
    model = _BUILT.model(spec, dtype)
    if device is None:
        return _logical_bytes(model.new_caches(batch, capacity, storage)), None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    caches = [
        layer.new_cache(batch, capacity, storage, device)
        for layer in model.layers
        if isinstance(layer, MixerModule | ParallelModule)
    ]
    return _logical_bytes(caches), torch.cuda.memory_allocated(device) - before


def built_bytes(
    spec: ModelSpec, batch: int, context: int, layout: str, dtype: str, storage: Storage
) -> tuple[int | None, int | None]:
    """What the caches of a built model hold in a layout, and what the first GPU allocates for them.

    None where no module here keeps such a cache, and for the GPU where there is none or they do not fit.

    Args:
        layout: a name in ``predict.layouts.LAYOUTS``.
        dtype, storage: as of the layout's keys, values and states.

    Raises:
        BadInput: more bytes than torch can count.
    """
    if not find_layout(layout).built or (layout == "transformers" and "S" in spec.pattern):
        return None, None  # that library's window is one token shorter than any module here keeps
    kind = "bfloat16" if layout == "paper" else dtype
    size = DTYPE_BYTES[kind]
    if not (storage.kv_codes or storage.kv_bytes == size) or storage.conv_bytes != size or storage.ssm_bytes < size:
        return (
            None,
            None,
        )  # modules keep conv states and plain keys and values in their dtype, and states in none narrower
    if batch * layout_bytes(spec, context, layout, storage).total >= _ADDRESSED:
        raise BadInput(
            f"a cache of {batch} x {context} tokens is more than a tensor can hold: give a smaller context or batch."
        )
    try:
        tensors, _ = cache_bytes_of(spec, batch, context, kind, storage)
    except Unsupported:
        return None, None
    if not torch.cuda.is_available():
        return tensors, None
    try:
        return tensors, cache_bytes_of(spec, batch, context, kind, storage, torch.device("cuda", 0))[1]
    except torch.OutOfMemoryError:
        return tensors, None


def _logical_bytes(caches: Iterable[CountedCache | None]) -> int:
    kept = count_cache([cache for cache in caches if cache is not None], 0)
    return kept.kv_cache_bytes + kept.ssm_state_bytes + kept.conv_state_bytes
