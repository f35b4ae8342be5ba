"""caches: bytes of the keys and values, SSM states and convolution states that a model really holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from hybridbench.record import CacheObserved


class Cache(Protocol):
    """What a mixer keeps between tokens, as tensors by kind: ``kv``, ``ssm`` and ``conv``; a kind may be absent."""

    def tensors(self) -> dict[str, list[torch.Tensor]]: ...


def count_cache(caches: Iterable[Cache], tokens: int) -> CacheObserved:
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
