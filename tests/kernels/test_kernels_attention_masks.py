"""FlexAttention's block masks, built from block corners, say what PyTorch finds by evaluating every pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from hybridbench.kernels.attention import flex, reference, sdpa
from hybridbench.kernels.attention.masks import visible

PATTERNS = [(None, 0), (1, 0), (100, 0), (128, 0), (129, 5), (512, 64), (300, 128), (300, 200)]


@pytest.mark.parametrize(("window", "sinks"), PATTERNS)
@pytest.mark.parametrize("T", [1, 100, 128, 129, 1000])
def test_block_mask_is_the_one_found_pair_by_pair(T: int, window: int | None, sinks: int) -> None:
    device = torch.device("cpu")
    ours = flex.block_mask(T, window, sinks, device)
    theirs = create_block_mask(visible(window, sinks), None, None, T, T, device="cpu")
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    assert ours.shape == theirs.shape
    # blocks called full are never masked inside the kernel, so each of them must really be full
    t = torch.arange(T)
    seen = visible(window, sinks)(None, None, t[:, None], t)
    n = math.ceil(T / flex.FLEX_BLOCK)
    for row in range(n):
        for column in ours.full_kv_indices[0, 0, row, : ours.full_kv_num_blocks[0, 0, row]].tolist():
            rows, columns = (slice(128 * i, 128 * (i + 1)) for i in (row, column))
            assert seen[rows, columns].all()


@pytest.mark.parametrize(("window", "sinks"), PATTERNS)
@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
def test_the_mask_function_is_the_references_mask(window: int | None, sinks: int) -> None:
    """Through FlexAttention's uncompiled form, which is good for this and nothing else."""
    q, k, v = torch.randn(1, 300, 4, 16), torch.randn(1, 300, 2, 16), torch.randn(1, 300, 2, 24)
    mask = flex.block_mask(300, window, sinks, torch.device("cpu"))
    out = flex_attention(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=mask, enable_gqa=True)
    expected = reference.attention(q, k, v, window=window, sinks=sinks)
    torch.testing.assert_close(out.transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_masks_are_kept() -> None:
    device = torch.device("cpu")
    assert flex.block_mask(257, 64, 4, device) is flex.block_mask(257, 64, 4, device)
    assert sdpa._window_mask(257, 64, 4, device) is sdpa._window_mask(257, 64, 4, device)
