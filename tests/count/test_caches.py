"""Cache bytes are those of the tensors a cache names, by kind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hybridbench.count.caches import count_cache


@dataclass
class Held:
    named: dict[str, list[torch.Tensor]]

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        return self.named


def test_bytes_are_summed_by_kind_over_layers() -> None:
    attention = Held({"kv": [torch.zeros(2, 16, 4, 8, dtype=torch.bfloat16)] * 2})
    mamba = Held(
        {"ssm": [torch.zeros(2, 4, 8, 16)], "conv": [torch.zeros(2, 24, 4, dtype=torch.bfloat16)]}  # state in fp32
    )
    seen = count_cache([attention, mamba, mamba], tokens=16)
    assert seen.tokens == 16
    assert seen.kv_cache_bytes == 2 * (2 * 16 * 4 * 8) * 2
    assert seen.ssm_state_bytes == 2 * (2 * 4 * 8 * 16) * 4
    assert seen.conv_state_bytes == 2 * (2 * 24 * 4) * 2


def test_a_view_counts_what_it_shows() -> None:
    ring = torch.zeros(1, 100, 2, 4)
    assert count_cache([Held({"kv": [ring[:, :10]]})], tokens=10).kv_cache_bytes == 10 * 2 * 4 * 4


def test_no_caches_are_no_bytes_and_an_unknown_kind_is_an_error() -> None:
    empty = count_cache([], tokens=0)
    assert (empty.kv_cache_bytes, empty.ssm_state_bytes, empty.conv_state_bytes) == (0, 0, 0)
    with pytest.raises(ValueError, match="Held holds 'keys' tensors"):
        count_cache([Held({"keys": [torch.zeros(1)]})], tokens=1)
