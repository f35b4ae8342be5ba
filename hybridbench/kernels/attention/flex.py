"""flex: PyTorch's FlexAttention, compiled, with a mask of blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridbench.kernels.attention.masks import visible
from hybridbench.kernels.backend import Implementation
from hybridbench.kernels.kept import kept
from hybridbench.problem import Problem

FLEX_BLOCK = 128
"""Side of FlexAttention's mask blocks, its default."""


def load_flex() -> Callable[..., Any]:
    """``attention`` by FlexAttention, compiled, with a block mask for the causal, window and sink pattern.

    Shapes are static: every new length is compiled once. Reaching PyTorch's limit of recompilations is an error, so
        that
    the uncompiled form, which computes the whole score matrix, never runs.
    """
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def attention(
        q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0
    ) -> Tensor:
        q, k, v = q_BTHP.transpose(1, 2), k_BTKP.transpose(1, 2), v_BTKV.transpose(1, 2)
        mask = block_mask(q.shape[2], window, sinks, q.device)
        grouped = int(q.shape[1]) != int(k.shape[1])  # ints, also while torch.jit traces
        # By default it takes its decoding kernel below 128 queries, which has no configuration that trains.
        options: Any = {"BACKEND": "TRITON"}
        if torch.compiler.is_compiling():
            return flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped, kernel_options=options).transpose(1, 2)
        with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=4096):
            return compiled(q, k, v, block_mask=mask, enable_gqa=grouped, kernel_options=options).transpose(1, 2)

    return attention


_block_masks: dict[tuple[int, int | None, int, torch.device], Any] = kept()


def block_mask(T: int, window: int | None, sinks: int, device: torch.device) -> Any:
    """FlexAttention's ``BlockMask`` of causal attention with a window and sinks, kept from call to call.

    Whether a block is empty, full or mixed follows from its corners, so this takes (T/128)^2 work and memory.
    ``create_block_mask`` evaluates T^2 pairs, 17 GB at 128k.
    """
    key = (T, window, sinks, device)
    if key in _block_masks:
        return _block_masks[key]
    from torch.nn.attention.flex_attention import BlockMask

    first = torch.arange(0, T, FLEX_BLOCK, device=device)
    last = (first + FLEX_BLOCK).clamp(max=T) - 1
    t_first, t_last, j_first, j_last = first[:, None], last[:, None], first, last
    touched, full = j_first <= t_last, j_last <= t_first
    if window is not None:
        touched = touched & ((t_first - j_last < window) | (j_first < sinks))
        full = full & ((t_last - j_first < window) | (j_last < sinks))
    mixed_count, mixed_order = _ordered(touched & ~full)
    full_count, full_order = _ordered(touched & full)
    _block_masks[key] = BlockMask.from_kv_blocks(
        mixed_count,
        mixed_order,
        full_count,
        full_order,
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=visible(window, sinks),
        seq_lengths=(T, T),
    )
    return _block_masks[key]


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks are set per row, and all column numbers with the set ones first; both (1, 1, rows, ...)."""
    count = blocks.sum(1, dtype=torch.int32)
    order = blocks.to(torch.int32).argsort(dim=1, descending=True, stable=True).to(torch.int32)
    return count[None, None], order[None, None].contiguous()


def unsupported_flex(problem: Problem) -> str | None:
    """Why a problem is unsupported: FlexAttention must run compiled, on CUDA, at widths that its templates have."""
    if problem.device != "cuda":
        return (
            "FlexAttention has no compiled backward pass on a CPU, and its uncompiled form computes the whole score "
            "matrix, which is another algorithm: use a CUDA device"
        )
    if problem.dtype == "float64":
        return "FlexAttention's Triton templates have no float64"
    if min(problem.head_dim, problem.value_dim) < 16:
        return f"FlexAttention needs heads at least 16 wide, and they are {problem.head_dim} and {problem.value_dim}"
    if problem.training and problem.value_dim > 128:
        # 96 and 192: 246,784 bytes where an H200 has 232,448 (torch 2.11).
        return f"FlexAttention's backward needs more shared memory than a GPU has at value width {problem.value_dim}"
    return None


attention = Implementation(load_flex, unsupported_flex)
