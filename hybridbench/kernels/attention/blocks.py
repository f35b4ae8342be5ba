"""blocks: a window, sinks and unequal widths for PyTorch's flash kernel on a CPU, in blocks and by padding.

On a CPU the flash kernel is the only fast one. It supports a causal or an explicit mask, and values as wide as keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridbench.kernels.attention.masks import visible
from hybridbench.kernels.backend import Implementation
from hybridbench.problem import Problem
from hybridbench.sizes import QUERY_BLOCK, query_blocks


def load_blocks() -> Callable[..., Any]:
    """``attention`` by PyTorch's CPU flash kernel, with a window and sinks in blocks and unequal widths padded.

    The narrower of queries and values is padded with zeros to the width of the other. The result is the same, since the
    softmax scale stays that of the true head_dim. A window runs as the calls of ``query_blocks``. All blocks share one
    mask, so memory grows with T; training keeps the keys and values of every block, each about
    ``1 + (window + sinks) / 256`` times.

    Keys and values are split once, and a block joins the parts that it sees. Slices of the whole would do for a
    forward, but the backward of each slice fills a gradient of the whole length, which is T x T work again.
    """

    def attention(
        q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0
    ) -> Tensor:
        # ints also while torch.jit traces
        T, H, K = int(q_BTHP.shape[1]), int(q_BTHP.shape[2]), int(k_BTKP.shape[2])
        P, V = int(q_BTHP.shape[3]), int(v_BTKV.shape[3])
        q, k, v = (_padded(x, max(P, V)).transpose(1, 2) for x in (q_BTHP, k_BTKP, v_BTKV))

        def flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            settings: Any = {"scale": 1 / math.sqrt(P), "enable_gqa": H != K}
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, **settings)

        (first, _), *later = query_blocks(T, window, sinks)
        if window is None or not later:
            return flash(q, k, v).transpose(1, 2)[..., :V]
        rows = [n for n, _ in later]
        mask = _block_mask(window, sinks, rows[0], q)
        q_parts = torch.split(q, [first, *rows], 2)
        k_parts, v_parts = (torch.split(x, [sinks, window, *rows], 2) for x in (k, v))
        outs = [flash(q_parts[0], torch.cat(k_parts[:2], 2), torch.cat(v_parts[:2], 2))]
        for block, (n, keys) in enumerate(later):
            k_seen, v_seen = _seen(k_parts, block, window), _seen(v_parts, block, window)
            outs.append(flash(q_parts[block + 1], k_seen, v_seen, mask[:n, :keys]))
        return torch.cat(outs, 2).transpose(1, 2)[..., :V]

    return attention


def _padded(x: Tensor, width: int) -> Tensor:
    """``x`` with zeros behind its last dimension, up to ``width``."""
    return x if int(x.shape[-1]) == width else F.pad(x, (0, width - int(x.shape[-1])))


def _block_mask(window: int, sinks: int, rows: int, like: Tensor) -> Tensor:
    """What is added to the scores of a block: 0 where a query sees a key, minus infinity elsewhere.

    It is the mask of the first block after the causal call. Sinks, window and block have the same offsets in all
    others.
    """
    first = window + sinks
    t = torch.arange(first, first + rows, device=like.device)
    j = torch.cat([torch.arange(sinks, device=like.device), torch.arange(sinks + 1, first + rows, device=like.device)])
    seen = visible(window, sinks)(None, None, t[:, None], j)
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, -math.inf)


def _seen(parts: Sequence[Tensor], block: int, window: int) -> Tensor:
    """The keys or values of the ``block``-th block after the causal call, from the sinks, the first window, and blocks.

    Counted from behind the sinks, its first query is at ``window + 256 block`` and sees back to ``256 block + 1``.
    """
    earliest = QUERY_BLOCK * block + 1
    if earliest < window:
        part, inside = 1, earliest
    else:
        part, inside = divmod(earliest - window, QUERY_BLOCK)
        part += 2
    return torch.cat([parts[0], parts[part][:, :, inside:], *parts[part + 1 : block + 3]], 2)


def unsupported_blocks(problem: Problem) -> str | None:
    """Why a problem is unsupported: PyTorch's flash kernel takes a mask on a CPU only."""
    if problem.device == "cpu":
        return None
    return f"PyTorch's flash kernel takes a mask on a CPU only, and the device is {problem.device}"


attention = Implementation(load_blocks, unsupported_blocks)
