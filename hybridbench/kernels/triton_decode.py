"""triton_decode: split-KV flash decoding with lengths on the device, for any pair of key and value widths.

One decode step reads every live key and value once and does little else, so its floor is the bandwidth, and the whole
question is how to keep every SM loading. The cache of one (sequence, KV head) pair is cut into splits, one program
each. A program takes all H/K query heads of its KV head at once (they share the keys), so grouped heads cost no extra
reads. It walks its stretch of the cache with a running softmax and leaves a partial output with its log-sum-exp; a
second kernel weighs the partials together (Flash-Decoding, Dao et al. 2023).

    length 1000, block 64, 6 splits:  16 blocks -> 3 per split
    split 0 [0, 192)  1 [192, 384)  2 [384, 576)  3 [576, 768)  4 [768, 960)  5 [960, 1000)

The number of splits follows from static shapes, so the launch is the same at every length and a CUDA graph can hold it.
The stretch of a split follows from the live length, read on the device, so short sequences in a long cache still spread
over all splits; splits past the end return at once.

Importing this module needs triton. Its tests run on a CPU in triton's interpreter (``TRITON_INTERPRET=1``).
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS_PER_SM = 4
"""Programs meant to be resident on one SM: enough loads in flight to cover the memory's latency, in one wave."""

MAX_SPLITS = 128
"""More partials than this cost the second kernel more than the first one gains."""


@triton.jit  # type: ignore[untyped-decorator]
def _attention_decode_partials(  # type: ignore[no-untyped-def]
    q_ptr,
    k_ptr,
    v_ptr,
    length_ptr,
    out_ptr,
    lse_ptr,
    scale_log2,
    q_stride_b,
    q_stride_h,
    k_stride_b,
    k_stride_s,
    k_stride_k,
    v_stride_b,
    v_stride_s,
    v_stride_k,
    K: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    P_TILE: tl.constexpr,
    V_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    split = tl.program_id(0)
    pair = tl.program_id(1)
    b = (pair // K).to(tl.int64)  # a cache of more than 2^31 elements is ordinary
    kv_head = pair % K
    length = tl.load(length_ptr + b)
    stretch = tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK
    first = split * stretch
    last = tl.minimum(first + stretch, length)
    if first >= last:
        return

    r = tl.arange(0, ROWS)
    p = tl.arange(0, P_TILE)
    v = tl.arange(0, V_TILE)
    s = tl.arange(0, BLOCK)
    q_at = q_ptr + b * q_stride_b + (kv_head * R + r)[:, None] * q_stride_h + p[None, :]
    q = tl.load(q_at, mask=(r < R)[:, None] & (p < P)[None, :], other=0.0)
    k_base = k_ptr + b * k_stride_b + kv_head * k_stride_k
    v_base = v_ptr + b * v_stride_b + kv_head * v_stride_k

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, V_TILE), tl.float32)
    for start in tl.range(first, last, BLOCK, num_stages=STAGES):
        slot = (start + s).to(tl.int64)
        live = slot < last
        keys = tl.load(
            k_base + slot[None, :] * k_stride_s + p[:, None], mask=live[None, :] & (p < P)[:, None], other=0.0
        )
        scores = tl.dot(q, keys, input_precision="ieee") * scale_log2
        scores = tl.where(live[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        keep = tl.exp2(top - new_top)
        values = tl.load(
            v_base + slot[:, None] * v_stride_s + v[None, :], mask=live[:, None] & (v < V)[None, :], other=0.0
        )
        total = total * keep + tl.sum(weights, 1)
        acc = acc * keep[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        top = new_top

    row = (pair * SPLITS + split).to(tl.int64) * R + r
    tl.store(out_ptr + row[:, None] * V + v[None, :], acc / total[:, None], mask=(r < R)[:, None] & (v < V)[None, :])
    tl.store(lse_ptr + row, top + tl.log2(total), mask=r < R)


@triton.jit  # type: ignore[untyped-decorator]
def _attention_decode_combine(  # type: ignore[no-untyped-def]
    part_ptr,
    lse_ptr,
    length_ptr,
    out_ptr,
    K: tl.constexpr,
    R: tl.constexpr,
    V: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_TILE: tl.constexpr,
    V_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pair = tl.program_id(0)
    r = tl.program_id(1)
    length = tl.load(length_ptr + pair // K)
    stretch = tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK
    used = tl.cdiv(length, stretch)  # splits past this one wrote nothing
    i = tl.arange(0, SPLITS_TILE)
    v = tl.arange(0, V_TILE)
    row = (pair * SPLITS).to(tl.int64) * R + r
    lse = tl.load(lse_ptr + row + i * R, mask=i < used, other=float("-inf"))
    top = tl.max(lse, 0)
    total = tl.sum(tl.exp2(lse - top), 0)
    acc = tl.zeros((V_TILE,), tl.float32)
    for split in tl.range(0, used):
        weight = tl.exp2(tl.load(lse_ptr + row + split * R) - top) / total
        acc += weight * tl.load(part_ptr + (row + split * R) * V + v, mask=v < V, other=0.0)
    tl.store(out_ptr + (pair.to(tl.int64) * R + r) * V + v, acc.to(out_ptr.dtype.element_ty), mask=v < V)


def block_size(head_dim: int, v_head_dim: int, element_bytes: int) -> int:
    """Cache slots per step of the loop, a power of two.

    One stage of keys and values stays within 16 KiB of shared memory, so that three stages of ``PROGRAMS_PER_SM``
    programs fit into the 228 KiB of a Hopper SM. 16 slots are the least a tensor-core product takes.
    """
    row_bytes = (triton.next_power_of_2(head_dim) + triton.next_power_of_2(v_head_dim)) * element_bytes
    slots = 16384 // row_bytes
    return min(128, max(16, 1 << (slots.bit_length() - 1 if slots else 0)))


def split_count(pairs: int, slots: int, block: int, n_sms: int) -> int:
    """Splits per (sequence, KV head) pair, from static shapes alone: fill the GPU once, at least one block each.

    Args:
        pairs: batch times KV heads.
        slots: S, the size of the cache.
        block: slots per step of the loop.
        n_sms: streaming multiprocessors of the GPU.
    """
    return max(1, min(PROGRAMS_PER_SM * n_sms // pairs, math.ceil(slots / block), MAX_SPLITS))


def attention_decode(
    q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor, *, splits: int | None = None
) -> Tensor:
    """``attention_decode`` of the reference, by the two kernels of this module.

    Args:
        q_BHP: bfloat16, float16 or float32; the caches have the same dtype. Last dimensions are contiguous.
        length_B: int32, at least 1 each, on the same device; it is read on the device only.
        splits: splits per (sequence, KV head) pair; chosen by ``split_count`` when None.

    Returns:
        out_BHV in the dtype of ``q_BHP``. Two launches, no host synchronisation: a CUDA graph can capture it.
    """
    B, H, P = q_BHP.shape
    S, K, V = v_cache_BSKV.shape[1:]
    R = H // K
    block = block_size(P, V, q_BHP.element_size())
    if splits is None:
        splits = split_count(B * K, S, block, torch.cuda.get_device_properties(q_BHP.device).multi_processor_count)
    partial = torch.empty(B * K * splits * R, V, dtype=torch.float32, device=q_BHP.device)
    lse = torch.empty(B * K * splits * R, dtype=torch.float32, device=q_BHP.device)
    out_BHV = torch.empty(B, H, V, dtype=q_BHP.dtype, device=q_BHP.device)
    v_tile = triton.next_power_of_2(V)
    _attention_decode_partials[(splits, B * K)](
        q_BHP,
        k_cache_BSKP,
        v_cache_BSKV,
        length_B,
        partial,
        lse,
        math.log2(math.e) / math.sqrt(P),
        *q_BHP.stride()[:2],
        *k_cache_BSKP.stride()[:3],
        *v_cache_BSKV.stride()[:3],
        K=K,
        R=R,
        P=P,
        V=V,
        SPLITS=splits,
        ROWS=max(16, triton.next_power_of_2(R)),  # 16 rows is the least a tensor-core product takes
        P_TILE=max(16, triton.next_power_of_2(P)),
        V_TILE=max(16, v_tile),
        BLOCK=block,
        STAGES=3,
        num_warps=4,
    )
    _attention_decode_combine[(B * K, R)](
        partial,
        lse,
        length_B,
        out_BHV,
        K=K,
        R=R,
        V=V,
        SPLITS=splits,
        SPLITS_TILE=triton.next_power_of_2(splits),
        V_TILE=v_tile,
        BLOCK=block,
        num_warps=1 if v_tile <= 128 else 2,
    )
    return out_BHV
