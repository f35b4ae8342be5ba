"""triton_decode: split-KV flash decoding with lengths on the device, for any pair of key and value widths.

One decode step reads every used key and value once and does little else, so the bandwidth limits it and every SM must
keep loading. The cache of one (sequence, KV head) pair is cut into splits, one program each. A program handles all H/K
query heads of its KV head at once, since they share the keys, so grouped heads cost no extra reads. It goes over its
part of the cache with a running softmax and writes a partial output with its log-sum-exp. The last program of a pair
combines the partial outputs (Flash-Decoding, Dao et al. 2023, in one launch).

    length 1000, block 64, 6 splits:  16 blocks -> 3 per split
    split 0 [0, 192)  1 [192, 384)  2 [384, 576)  3 [576, 768)  4 [768, 960)  5 [960, 1000)

The number of splits follows from static shapes, so the launch is the same at every length and fits into a CUDA graph.
The part of a split follows from the used length, which is read on the device, so short sequences in a long cache still
use all splits; splits past the end return at once.

Importing this module needs triton. Its tests run on a CPU in triton's interpreter (``TRITON_INTERPRET=1``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybridbench.kernels.kept import kept
from hybridbench.kernels.triton_jit import jit
from hybridbench.kernels.triton_launch import wait
from hybridbench.kernels.triton_narrow import as_factor, as_kind, as_pointed, pairs_as_factors

COMBINED = 128 * 128
"""Elements of partial outputs that one program adds up at a time, 128 a thread. With half as many a launch took up to
1.7 times as long on an H200 (one sequence of 4k, values 128 wide: 14.6 us against 8.4). All 66 parts at once spilled:
67 us, and 86 where values are 192 wide, which now take 13."""

WINDOW_SLOTS = 1024
"""Up to as many slots a cache is short: a program has a few blocks of it at most."""

MAX_SPLITS = 128
"""More partials than this cost more to combine than they gain."""


@jit
def combined(
    part_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    row: tl.tensor,
    row_ok: tl.tensor,
    used: tl.tensor,
    V: tl.constexpr,
    V_TILE: tl.constexpr,
    R_TILE: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """Partial outputs (rows, splits, V) of some rows, weighted by their log-sum-exps, (R_TILE, V_TILE).

    CHUNK splits are added up at a time: all 66 of one sequence with values 192 wide would take a thread 1,024
    registers.
    """
    v = tl.arange(0, V_TILE)
    top = tl.full((R_TILE,), float("-inf"), tl.float32)
    total = tl.zeros((R_TILE,), tl.float32)
    out = tl.zeros((R_TILE, V_TILE), tl.float32)
    for first in tl.range(0, used, CHUNK, num_stages=1):
        split = first + tl.arange(0, CHUNK)
        ok = row_ok[:, None] & (split < used)[None, :]
        at = row[:, None] + split[None, :]
        lse = tl.load(lse_ptr + at, mask=ok, other=float("-inf"), cache_modifier=".cg")
        parts = tl.load(
            part_ptr + at[:, :, None] * V + v[None, None, :],
            mask=ok[:, :, None] & (v < V)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        # a padding row has no splits: its shares are 0, and not of -inf less -inf
        new_top = tl.where(row_ok, tl.maximum(top, tl.max(lse, 1)), 0.0)
        share, keep = tl.exp2(lse - new_top[:, None]), tl.exp2(top - new_top)
        total = total * keep + tl.sum(share, 1)
        out = out * keep[:, None] + tl.sum(parts * share[:, :, None], 1)
        top = new_top
    return out / tl.where(row_ok, total, 1.0)[:, None]


@jit
def attention_decode_kernel(
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    v_ptr: tl.tensor,
    k_scale_ptr: tl.tensor,
    v_scale_ptr: tl.tensor,
    length_ptr: tl.tensor,
    out_ptr: tl.tensor,
    part_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    count_ptr: tl.tensor,
    scale_log2: tl.tensor,
    q_stride_b: tl.tensor,
    k_stride_b: tl.tensor,
    v_stride_b: tl.tensor,
    eps: tl.tensor,
    q_stride_h: tl.constexpr,  # constants, so that the compiler sees aligned rows and copies 16 bytes at a time
    k_stride_s: tl.constexpr,
    k_stride_k: tl.constexpr,
    v_stride_s: tl.constexpr,
    v_stride_k: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    V: tl.constexpr,
    SPLITS: tl.constexpr,
    CHUNK: tl.constexpr,
    R_TILE: tl.constexpr,
    ROWS: tl.constexpr,
    P_TILE: tl.constexpr,
    V_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    HEAD_NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """One split of one (sequence, KV head) pair; the last one to finish combines them.

    Where the caches hold codes, which are multiplied in float16, or in float32 as the queries are, the scales of keys
    and values are (B, K): one for all that a program reads, so that scores and outputs are scaled, not the codes. Else
    they are None. Two codes of a value are one integer of 16 bits in ``v_ptr``, whose strides are in such pairs.

    With HEAD_NORM each head's output is divided by its own root mean square, as a parallel block wants it.
    """
    split = tl.program_id(0)
    pair = tl.program_id(1)
    b = (pair // K).to(tl.int64)  # caches of more than 2^31 elements are common
    kv_head = pair % K
    length = tl.load(length_ptr + b)
    stretch = tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK
    used = tl.cdiv(length, stretch)  # splits past this one have nothing to do
    first = split * stretch
    last = tl.minimum(first + stretch, length)
    k_base = k_ptr + b * k_stride_b + kv_head.to(tl.int64) * k_stride_k
    v_base = v_ptr + b * v_stride_b + kv_head.to(tl.int64) * v_stride_k
    s = tl.arange(0, BLOCK)
    wait(PDL)
    if first >= last:
        return

    r = tl.arange(0, ROWS)
    p = tl.arange(0, P_TILE)
    v = tl.arange(0, V_TILE)
    q_at = q_ptr + b * q_stride_b + (kv_head * R + r)[:, None] * q_stride_h + p[None, :]
    q = tl.load(q_at, mask=(r < R)[:, None] & (p < P)[None, :], other=0.0)
    if k_scale_ptr is not None:
        scale_log2 *= tl.load(k_scale_ptr + pair)
        if q.dtype == tl.bfloat16:
            q = as_kind(q, tl.float16)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    # codes of values are loaded in pairs, whose tiles take the same instructions to transpose as numbers of 16 bits
    PAIRS: tl.constexpr = v_scale_ptr is not None
    V_LOADS: tl.constexpr = V_TILE // 2 if PAIRS else V_TILE
    V_USED: tl.constexpr = V // 2 if PAIRS else V
    column = tl.arange(0, V_LOADS)
    acc = tl.zeros((ROWS, V_LOADS), tl.float32)
    odd_acc = tl.zeros((ROWS, V_LOADS), tl.float32)
    for start in tl.range(first, last, BLOCK, num_stages=STAGES):
        slot = (start + s).to(tl.int64)
        live = slot < last
        keys = tl.load(
            k_base + slot[None, :] * k_stride_s + p[:, None], mask=live[None, :] & (p < P)[:, None], other=0.0
        )
        scores = tl.dot(q, as_factor(keys, q), input_precision="ieee") * scale_log2
        scores = tl.where(live[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        keep = tl.exp2(top - new_top)
        values = tl.load(
            v_base + slot[:, None] * v_stride_s + column[None, :],
            mask=live[:, None] & (column < V_USED)[None, :],
            other=0,
        )
        total = total * keep + tl.sum(weights, 1)
        weights = weights.to(q.dtype)
        if PAIRS:
            values, odd = pairs_as_factors(values, q)
            odd_acc = odd_acc * keep[:, None] + tl.dot(weights, odd, input_precision="ieee")
        acc = acc * keep[:, None] + tl.dot(weights, as_factor(values, q), input_precision="ieee")
        top = new_top

    if PAIRS:
        acc = tl.reshape(tl.join(acc, odd_acc), (ROWS, V_TILE))
    lse = top + tl.log2(total)
    if v_scale_ptr is not None:
        total /= tl.load(v_scale_ptr + pair)
    # (pair, query row, split): the parts of one row are contiguous
    row = (pair.to(tl.int64) * R + r) * SPLITS + split
    tl.store(part_ptr + row[:, None] * V + v[None, :], acc / total[:, None], mask=(r < R)[:, None] & (v < V)[None, :])
    tl.store(lse_ptr + row, lse, mask=r < R)
    tl.debug_barrier()
    if tl.atomic_add(count_ptr + pair, 1, sem="acq_rel", scope="gpu") != used - 1:
        return
    tl.store(count_ptr + pair, 0)  # for the next launch
    query = tl.arange(0, R_TILE)
    query_ok = query < R
    row = (pair.to(tl.int64) * R + query) * SPLITS
    out = combined(part_ptr, lse_ptr, row, query_ok, used, V, V_TILE, R_TILE, CHUNK)
    if HEAD_NORM:
        out = out * tl.rsqrt(tl.sum(out * out, 1) / V + eps)[:, None]
    at = out_ptr + (pair.to(tl.int64) * R + query)[:, None] * V + v[None, :]
    tl.store(at, as_pointed(out, out_ptr), mask=query_ok[:, None] & (v < V)[None, :])


@dataclass(frozen=True)
class CacheReading:
    """How programs read a cache.

    Attributes:
        stage_bytes: of the keys and values of one block.
        stages: blocks in flight or in use at a time, one of them in registers.
        per_sm: programs for which splits are made, so many on each SM: enough loads in flight to hide the memory's
            latency, in one wave.
    """

    stage_bytes: int
    stages: int
    per_sm: int

    def block_size(self, row_bytes: int, pairs: int, slots: int, n_sms: int) -> int:
        """Cache slots per step of the loop, a power of two.

        Short caches use smaller blocks, to have a program for every SM. 16 slots are the least of a tensor-core
        product.

        Args:
            row_bytes: of one slot's key and value of one head, each padded to a power of two.
            pairs: batch times KV heads.
            slots: S, the size of the cache.
            n_sms: streaming multiprocessors of the GPU.
        """
        block = min(256, max(16, self.stage_bytes // row_bytes))
        block = 1 << (block.bit_length() - 1)
        while block > 32 and pairs * math.ceil(slots / block) < self.per_sm * n_sms:
            block //= 2
        return block

    def split_count(self, pairs: int, slots: int, block: int, n_sms: int) -> int:
        """Splits per (sequence, KV head) pair, from static shapes alone: fill the GPU once, at least one block each.

        Args:
            pairs, slots, n_sms: as of ``block_size``.
            block: slots per step of the loop.
        """
        return max(1, min(self.per_sm * n_sms // pairs, math.ceil(slots / block), MAX_SPLITS))


SMALL = CacheReading(16 << 10, 4, 2)
"""Four programs fit on a Hopper SM, or two beside a product's. Those that start while the product still runs crowd onto
the SMs that are free first, and the others wait for these."""

SMALL_PROGRAM = (SMALL.stages - 1) * SMALL.stage_bytes + (5 << 10)
"""Bytes of shared memory that such a program takes of an SM, where heads are up to 64 wide."""

MEDIUM = CacheReading(32 << 10, 4, 2)
"""Two programs fit on a Hopper SM."""

LARGE = CacheReading(64 << 10, 3, 1)
"""One program fits, and the programs of one wave are spread evenly."""


def reading(row_bytes: int, element_bytes: int, pairs: int, slots: int, n_sms: int, room: int = 0) -> CacheReading:
    """How a cache is read so that a whole step is fast.

    By steps of 4k on H200s, each pair of figures of one card, of the transformer where no family is named:

    - ``LARGE`` took less than ``MEDIUM``: 7% with 4 sequences at 350m; 2% with 4 at 3b, 7 to 9% with 16 and 32 and 3 to
      5% with 64; nothing with 16 at 1b, but 2% at 32k. With more pairs than SMs and heads of 64 it took 4% more, and
      where swa's windows of 3b had it too, 2 to 3% more.
    - Where a row's bytes are no power of two its blocks are of 48 KiB. Then it took 0 to 5% less with 1 and 4 sequences
      (intra), and with more between 1% less and 7% more.
    - ``SMALL`` took 7% less than ``MEDIUM`` with one sequence at 1b, where every SM has room for two programs beside
      the product's, and as much as ``LARGE`` with 4. Where some SMs have no such room it took 7 to 20% more, and with
      heads of 96 up to 35%. With 64, which are more programs than fit at a time, it took up to 5% less at 350m and 1b.
    - Codes of 16 and 32 sequences took 5 and 6% less with ``MEDIUM`` than with ``SMALL``, and on another card of 16
      sequences 3% more.

    Args:
        row_bytes, pairs, slots, n_sms: as of ``CacheReading.block_size``.
        element_bytes: 1 of codes.
        room: as of ``DecodePlan.make``.
    """
    if element_bytes == 1:
        return MEDIUM
    wide, window = row_bytes > 256, slots <= WINDOW_SLOTS
    if not window and LARGE.stage_bytes % row_bytes:
        return LARGE if 4 * pairs <= n_sms else MEDIUM
    few = 2 * pairs <= n_sms if window else 10 * pairs < n_sms
    if wide:
        return MEDIUM if window or few else LARGE
    if pairs > n_sms:
        return SMALL if pairs >= SMALL.per_sm * n_sms else MEDIUM
    if few and room > SMALL.per_sm * SMALL_PROGRAM:
        return SMALL
    return MEDIUM if window else LARGE


def starts_late(element_bytes: int, pairs: int, slots: int, n_sms: int) -> bool:
    """Whether programs should start when the product before is done, for which ``project_qkv`` has LATE.

    Then all SMs have room, and programs are spread evenly. That is worth more than an early start where a program has
    one or two blocks, as of a window, and where codes of many sequences are read: on an H200 at 1b, swa's step of 4
    sequences took 1 to 2% less, and one of 16 with codes 2%. Elsewhere it changes little with stages of 32 KiB, and
    with 16 KiB it adds 5% to the transformer's step of 4. Of one sequence it adds 1.5 to 3%.
    """
    return (slots <= WINDOW_SLOTS and 8 * pairs >= n_sms) or (element_bytes == 1 and 2 * pairs > n_sms)


@contextmanager
def stated_multiprocessors(count: int) -> Iterator[None]:
    """Inside, ``multiprocessors`` is a stated number: kernels are compiled for a GPU that is not there."""
    token = _stated.set(count)
    try:
        yield
    finally:
        _stated.reset(token)


_stated: ContextVar[int | None] = ContextVar("stated_multiprocessors", default=None)


def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; a small number where the kernels are interpreted on a CPU."""
    stated = _stated.get()
    if stated is not None:
        return stated
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@dataclass(frozen=True)
class DecodePlan:
    """The launch parameters of one shape of decode attention, and the memory in which its splits are combined.

    The counts are zero between launches. Launches that may run at the same time need a plan each.

    Attributes:
        splits, block: of the cache of each pair, and slots per step of the loop.
        chunk: splits that are added up at a time.
        late: whether the launch before should let this one start only when it is done (``starts_late``).
        part, lse, count: partial outputs, their log-sum-exps, and the splits of each pair that are done.
    """

    splits: int
    block: int
    warps: int
    stages: int
    chunk: int
    late: bool
    part: Tensor
    lse: Tensor
    count: Tensor

    @classmethod
    def make(
        cls, B: int, H: int, K: int, P: int, V: int, S: int, like: Tensor, *, splits: int | None = None, room: int = 0
    ) -> DecodePlan:
        """A plan for caches (B, S, K, P) and (B, S, K, V) in the dtype and on the device of ``like``, a cache.

        Args:
            splits: splits per (sequence, KV head) pair; chosen by ``CacheReading.split_count`` when None.
            room: bytes of shared memory that the launch before leaves on the fullest SM; 0 where none is known.
        """
        n_sms = multiprocessors(like.device)
        row_bytes = (triton.next_power_of_2(P) + triton.next_power_of_2(V)) * like.element_size()
        how = reading(row_bytes, like.element_size(), B * K, S, n_sms, room)
        block = how.block_size(row_bytes, B * K, S, n_sms)
        if splits is None:
            splits = how.split_count(B * K, S, block, n_sms)
        tile = triton.next_power_of_2(H // K) * triton.next_power_of_2(V)
        chunk = max(1, min(triton.next_power_of_2(splits), COMBINED // tile))
        part = torch.empty(B * H * splits, V, device=like.device, dtype=torch.float32)
        lse = torch.empty(B * H * splits, device=like.device, dtype=torch.float32)
        count = torch.zeros(B * K, dtype=torch.int32, device=like.device)
        late = starts_late(like.element_size(), B * K, S, n_sms)
        return cls(splits, block, 4, how.stages, chunk, late, part, lse, count)


def launch_attention_decode(
    plan: DecodePlan,
    q_BHP: Tensor,
    k_cache_BSKP: Tensor,
    v_cache_BSKV: Tensor,
    length_B: Tensor,
    out_BHV: Tensor,
    *,
    scales_BK: tuple[Tensor | None, Tensor | None] = (None, None),
    norm_eps: float | None = None,
    pdl: bool = False,
    compile_only: bool = False,
) -> None:
    """One launch of the kernel, or its compilation only.

    Args:
        scales_BK: of keys and of values, where the caches hold codes.
        norm_eps: asks for each head's output over its root mean square.
    """
    B, H, P = q_BHP.shape
    K, V = v_cache_BSKV.shape[2:]
    R = H // K
    if scales_BK[1] is not None:
        v_cache_BSKV = v_cache_BSKV.view(torch.int16)
    options = {"launch_pdl": True} if pdl else {}
    grid = (plan.splits, B * K)
    run = partial(attention_decode_kernel.warmup, grid=grid) if compile_only else attention_decode_kernel[grid]
    run(
        q_BHP,
        k_cache_BSKP,
        v_cache_BSKV,
        *scales_BK,
        length_B,
        out_BHV,
        plan.part,
        plan.lse,
        plan.count,
        math.log2(math.e) / math.sqrt(P),
        q_BHP.stride(0),
        k_cache_BSKP.stride(0),
        v_cache_BSKV.stride(0),
        norm_eps or 0.0,
        q_stride_h=q_BHP.stride(1),
        k_stride_s=k_cache_BSKP.stride(1),
        k_stride_k=k_cache_BSKP.stride(2),
        v_stride_s=v_cache_BSKV.stride(1),
        v_stride_k=v_cache_BSKV.stride(2),
        K=K,
        R=R,
        P=P,
        V=V,
        SPLITS=plan.splits,
        CHUNK=plan.chunk,
        R_TILE=triton.next_power_of_2(R),
        ROWS=max(16, triton.next_power_of_2(R)),  # 16 rows is the least a tensor-core product takes
        P_TILE=max(16, triton.next_power_of_2(P)),
        V_TILE=max(16 if scales_BK[1] is None else 32, triton.next_power_of_2(V)),
        BLOCK=plan.block,
        STAGES=plan.stages,
        HEAD_NORM=norm_eps is not None,
        PDL=pdl,
        num_warps=plan.warps,
        **options,
    )


_plans: dict[tuple[object, ...], DecodePlan] = kept()


def attention_decode(
    q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor, *, splits: int | None = None
) -> Tensor:
    """``attention_decode`` of the reference, in one launch.

    Args:
        q_BHP: bfloat16, float16 or float32; the caches have the same dtype. Last dimensions are contiguous.
        length_B: int32, at least 1 each, on the same device; it is read on the device only.
        splits: splits per (sequence, KV head) pair; chosen by ``CacheReading.split_count`` when None.

    Returns:
        out_BHV in the dtype of ``q_BHP``. No host synchronisation: a CUDA graph can capture it. Calls of one shape
        share their scratch memory, so they must follow one another.
    """
    B, H, P = q_BHP.shape
    S, K, V = v_cache_BSKV.shape[1:]
    key = (B, H, K, P, V, S, q_BHP.dtype, q_BHP.device, splits)
    if key not in _plans:
        _plans[key] = DecodePlan.make(B, H, K, P, V, S, q_BHP, splits=splits)
    out_BHV = torch.empty(B, H, V, dtype=q_BHP.dtype, device=q_BHP.device)
    launch_attention_decode(_plans[key], q_BHP, k_cache_BSKP, v_cache_BSKV, length_B, out_BHV)
    return out_BHV
