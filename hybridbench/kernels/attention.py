"""attention: PyTorch's and flash-attn's attention kernels behind this package's signatures.

PyTorch picks among its SDPA kernels by itself, and falls back without a word. Here each kernel is its own backend and
is the only one PyTorch may use. Whether PyTorch's own checks pass for given widths and dtypes differs from release to
release, so on a CUDA device the answer is found by running the smallest such problem once.

On a CPU the flash kernel is the only fast one. It takes a causal or an explicit mask, and values as wide as keys:
``load_blocks`` brings windows, sinks and unequal widths to it, in blocks and by padding.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridbench.errors import Unsupported
from hybridbench.kernels.kept import kept
from hybridbench.kernels.problem import Problem, imported, needs_cuda, on_hopper
from hybridbench.sizes import QUERY_BLOCK, query_blocks

MASK_LENGTH = 8192
"""The longest sequence for which a T x T mask is built: 64 MiB as booleans, 128 MiB as bf16 biases."""

FLEX_BLOCK = 128
"""Side of FlexAttention's mask blocks, its default."""


# PyTorch's scaled_dot_product_attention, one kernel at a time -------------------------------------------------------


def load_sdpa(kernel: SDPBackend) -> Callable[..., Any]:
    """``attention`` by exactly one of PyTorch's SDPA kernels.

    The flash, cuDNN and math kernels take grouped heads as they are (``enable_gqa``); the memory-efficient kernel does
    not, so keys and values are copied out to all heads before it, which is part of its cost. A window goes in as an
    explicit T x T mask, for the kernels that take one (math, memory-efficient) and up to ``MASK_LENGTH`` positions.
    """

    def attention(
        q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0
    ) -> Tensor:
        q, k, v = q_BTHP.transpose(1, 2), k_BTKP.transpose(1, 2), v_BTKV.transpose(1, 2)
        grouped = int(q.shape[1]) != int(k.shape[1])  # ints also while torch.jit traces
        if grouped and kernel == SDPBackend.EFFICIENT_ATTENTION:
            k, v = (x.repeat_interleave(int(q.shape[1]) // int(k.shape[1]), 1) for x in (k, v))
            grouped = False
        mask = None if window is None else _window_mask(q.shape[2], window, sinks, q.device)
        with sdpa_kernel(kernel):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
        return out.transpose(1, 2)

    return attention


_masks: dict[tuple[int, int, int, torch.device], Tensor] = kept()


def _window_mask(T: int, window: int, sinks: int, device: torch.device) -> Tensor:
    """The boolean (T, T) mask, kept from call to call so that building it is not timed."""
    key = (T, window, sinks, device)
    if key not in _masks:
        t = torch.arange(T, device=device)
        _masks[key] = _visible(window, sinks)(None, None, t[:, None], t)
    return _masks[key]


def _visible(window: int | None, sinks: int) -> Callable[..., Tensor]:
    """The mask as FlexAttention wants it: a function of (batch, head, query position, key position)."""

    def causal(_b: Any, _h: Any, t: Tensor, j: Tensor) -> Tensor:
        return j <= t

    if window is None:
        return causal

    def windowed(_b: Any, _h: Any, t: Tensor, j: Tensor) -> Tensor:
        return (j <= t) & ((t - j < window) | (j < sinks))

    return windowed


_SDPA_NAMES = {
    SDPBackend.MATH: "math",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
}


def refuses_sdpa(kernel: SDPBackend) -> Callable[[Problem], str | None]:
    """The refusals of one SDPA kernel, as found with torch 2.13 on a CPU and by trial on a CUDA device."""
    name = _SDPA_NAMES[kernel]
    takes_mask = kernel in (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION)

    def refuses(problem: Problem) -> str | None:
        if problem.window is not None:
            if not takes_mask:
                alone = " by itself (sdpa-blocks gives it one in blocks)" if problem.device == "cpu" else ""
                return f"PyTorch's {name} kernel has no window{alone}, and a window of {problem.window} was asked for"
            if problem.length > MASK_LENGTH:
                return (
                    f"a window goes in as a T x T mask, which is built up to {MASK_LENGTH} positions, "
                    f"and {problem.length} were asked for"
                )
        if problem.device == "cpu":
            if kernel in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
                return f"PyTorch has its {name} kernel for CUDA only"
            if kernel == SDPBackend.FLASH_ATTENTION and problem.head_dim != problem.value_dim:
                return (
                    f"PyTorch's CPU flash kernel needs values as wide as keys (sdpa-blocks pads them), "
                    f"and they are {problem.value_dim} and {problem.head_dim}"
                )
            return None
        if kernel == SDPBackend.CUDNN_ATTENTION and problem.length == 1:
            return "PyTorch's cuDNN kernel is not trusted with a sequence of one, which nobody here has checked"
        if kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION) and problem.dtype.endswith(("32", "64")):
            return f"PyTorch's {name} kernel takes bfloat16 and float16 only, and the dtype is {problem.dtype}"
        return _trial(kernel, problem.any_size()) if torch.cuda.is_available() else None

    return refuses


@functools.cache
def _trial(kernel: SDPBackend, problem: Problem) -> str | None:
    """Run the smallest such problem on the CUDA device; the sentence is what PyTorch warned about while refusing."""
    dtype = getattr(torch, problem.dtype)

    def some(heads: int, width: int) -> Tensor:
        return torch.zeros(1, 128, heads, width, dtype=dtype, device="cuda", requires_grad=problem.training)

    q, k = some(problem.n_heads, problem.head_dim), some(problem.kv_heads, problem.head_dim)
    v = some(problem.kv_heads, problem.value_dim)
    with warnings.catch_warnings(record=True) as said, torch.enable_grad():
        warnings.simplefilter("always")
        try:
            out = load_sdpa(kernel)(q, k, v, window=problem.window, sinks=problem.sinks)
            if problem.training:
                out.sum().backward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as refused:
            reasons = [str(warning.message).split(" (Triggered")[0] for warning in said] or [str(refused)]
            return f"PyTorch's {_SDPA_NAMES[kernel]} kernel refuses this problem: {' '.join(reasons)}"
    return None


def load_blocks() -> Callable[..., Any]:
    """``attention`` by PyTorch's CPU flash kernel, with a window and sinks in blocks and unequal widths padded.

    The narrower of queries and values is padded with zeros to the width of the other, which leaves the result as it is:
    the softmax scale stays that of the true head_dim. A window runs as the calls of ``query_blocks``. All blocks share
    one mask, so memory grows with T; training keeps the keys and values of every block, each about
    ``1 + (window + sinks) / 256`` times.

    Keys and values are split up once, and a block joins the parts it sees. Slices of the whole would do as well
    forward, but the backward of each fills a gradient of the whole length, which is T x T work again.
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

    Of the first block after the causal call; sinks, window and block lie to each other in the same way in all others.
    """
    first = window + sinks
    t = torch.arange(first, first + rows, device=like.device)
    j = torch.cat([torch.arange(sinks, device=like.device), torch.arange(sinks + 1, first + rows, device=like.device)])
    visible = _visible(window, sinks)(None, None, t[:, None], j)
    return torch.zeros(visible.shape, dtype=like.dtype, device=like.device).masked_fill(~visible, -math.inf)


def _seen(parts: Sequence[Tensor], block: int, window: int) -> Tensor:
    """The keys or values of the ``block``-th block after the causal call, from the sinks, the first window, and blocks.

    Counted from behind the sinks, its first query stands at ``window + 256 block`` and sees back to ``256 block + 1``.
    """
    earliest = QUERY_BLOCK * block + 1
    if earliest < window:
        part, inside = 1, earliest
    else:
        part, inside = divmod(earliest - window, QUERY_BLOCK)
        part += 2
    return torch.cat([parts[0], parts[part][:, :, inside:], *parts[part + 1 : block + 3]], 2)


def refuses_blocks(problem: Problem) -> str | None:
    """It is for the CPU: PyTorch's flash kernel for CUDA takes no mask."""
    if problem.device == "cpu":
        return None
    return f"PyTorch's flash kernel takes a mask on a CPU only, and the device is {problem.device}"


def load_sdpa_mask() -> Callable[..., Any]:
    """``attention_decode`` by PyTorch's SDPA with a boolean mask made from the lengths on the device.

    The H/K heads that share a KV head go in as that many query positions, so the cache is read as it lies and grouped
    heads cost nothing. PyTorch chooses among its kernels that take a mask. All S slots are read whatever the lengths,
    and dead slots must hold finite numbers.
    """

    def attention_decode(q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor) -> Tensor:
        S, K = k_cache_BSKP.shape[1:3]
        live_BS = torch.arange(S, device=q_BHP.device) < length_B[:, None]
        out_BKRV = F.scaled_dot_product_attention(
            torch.unflatten(q_BHP, 1, (K, -1)),
            k_cache_BSKP.transpose(1, 2),
            v_cache_BSKV.transpose(1, 2),
            attn_mask=live_BS[:, None, None],
        )
        return out_BKRV.flatten(1, 2)

    return attention_decode


# FlexAttention --------------------------------------------------------------------------------------------------------


def load_flex() -> Callable[..., Any]:
    """``attention`` by FlexAttention, compiled, with a block mask for the causal, window and sink pattern.

    Static shapes: every new length compiles once. Reaching PyTorch's limit of recompilations is an error here, never
    the uncompiled form, which computes the whole score matrix.
    """
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def attention(
        q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0
    ) -> Tensor:
        q, k, v = q_BTHP.transpose(1, 2), k_BTKP.transpose(1, 2), v_BTKV.transpose(1, 2)
        mask = block_mask(q.shape[2], window, sinks, q.device)
        grouped = int(q.shape[1]) != int(k.shape[1])  # ints also while torch.jit traces
        # Left to itself it takes its decoding kernel below 128 queries, which has no configuration that trains.
        options: Any = {"BACKEND": "TRITON"}
        if torch.compiler.is_compiling():
            return flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped, kernel_options=options).transpose(1, 2)
        with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=4096):
            return compiled(q, k, v, block_mask=mask, enable_gqa=grouped, kernel_options=options).transpose(1, 2)

    return attention


_block_masks: dict[tuple[int, int | None, int, torch.device], Any] = kept()


def block_mask(T: int, window: int | None, sinks: int, device: torch.device) -> Any:
    """FlexAttention's ``BlockMask`` of causal attention with a window and sinks, kept from call to call.

    Which blocks are empty, full or mixed follows from their corners, so this takes (T/128)^2 work and memory;
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
        mask_mod=_visible(window, sinks),
        seq_lengths=(T, T),
    )
    return _block_masks[key]


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Per row of blocks: how many are set, and all column numbers, the set ones first; shaped (1, 1, rows, ...)."""
    count = blocks.sum(1, dtype=torch.int32)
    order = blocks.to(torch.int32).argsort(dim=1, descending=True, stable=True).to(torch.int32)
    return count[None, None], order[None, None].contiguous()


def refuses_flex(problem: Problem) -> str | None:
    """FlexAttention runs compiled, on CUDA, for widths its templates have."""
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


# flash-attn -----------------------------------------------------------------------------------------------------------

NO_FLASH_ATTN = "flash_attn is not importable: it is a compiled CUDA extension"


def load_flash_attn() -> Callable[..., Any]:
    """``attention`` by flash-attn 2.

    The kernel wants one width for queries, keys and values. Where they differ the narrower side is padded with zeros,
    which leaves the result as it is (the softmax scale stays that of the true head_dim) and costs the hardware a copy
    and the wider product: extra work that model FLOPs do not count.
    """
    flash: Callable[..., Any] = imported("flash_attn", NO_FLASH_ATTN).flash_attn_func

    def attention(
        q_BTHP: Tensor, k_BTKP: Tensor, v_BTKV: Tensor, *, window: int | None = None, sinks: int = 0
    ) -> Tensor:
        if window is not None and sinks:
            raise Unsupported(f"flash-attn has windows but no sinks, and {sinks} were asked for; use flex.")
        P, V = q_BTHP.shape[-1], v_BTKV.shape[-1]
        q, k, v = q_BTHP, k_BTKP, v_BTKV
        if P < V:
            q, k = F.pad(q, (0, V - P)), F.pad(k, (0, V - P))
        elif V < P:
            v = F.pad(v, (0, P - V))
        seen = (-1, -1) if window is None else (window - 1, 0)
        out: Tensor = flash(q, k, v, softmax_scale=1 / math.sqrt(P), causal=True, window_size=seen)
        return out[..., :V]

    return attention


def load_flash_decode() -> Callable[..., Any]:
    """``attention_decode`` by flash-attn's kvcache kernel, which reads the lengths on the device."""
    flash: Callable[..., Any] = imported("flash_attn", NO_FLASH_ATTN).flash_attn_with_kvcache

    def attention_decode(q_BHP: Tensor, k_cache_BSKP: Tensor, v_cache_BSKV: Tensor, length_B: Tensor) -> Tensor:
        out_B1HV: Tensor = flash(q_BHP[:, None], k_cache_BSKP, v_cache_BSKV, cache_seqlens=length_B)
        return out_B1HV[:, 0]

    return attention_decode


def refuses_flash_attn(problem: Problem) -> str | None:
    """Refuse what flash-attn cannot do, and what a build without all its head-width classes gets wrong without a word.

    Builds of flash-attn 2.8.3 that leave out the 32, 192 or float16 classes return wrong numbers there instead of an
    error (72-wide heads came out 105% off on an H200 without their class), so only the classes found right are taken.
    """
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype != "bfloat16":
        return f"only its bfloat16 kernels are known to be right in partial builds, and the dtype is {problem.dtype}"
    width = max(problem.head_dim, problem.value_dim)
    if not (32 < width <= 128 or 192 < width <= 256):
        return f"only widths 33 to 128 and 193 to 256 are known to be right in partial builds, and the width is {width}"
    if problem.window is not None and problem.sinks:
        return f"it has windows but no sinks, and {problem.sinks} sinks were asked for"
    return None


def refuses_flash_decode(problem: Problem) -> str | None:
    """The kvcache kernel wants keys as wide as values, in multiples of 8; padding a cache each step is no answer."""
    if problem.head_dim != problem.value_dim:
        return (
            f"its cache kernel wants values as wide as keys, they are {problem.value_dim} and {problem.head_dim}, "
            "and padding the whole cache at every step would copy it"
        )
    if problem.head_dim % 8:
        return f"it would copy the whole cache to pad {problem.head_dim}-wide heads to a multiple of 8"
    return refuses_flash_attn(problem)


# flash-attn 4 ---------------------------------------------------------------------------------------------------------

NO_FLASH_ATTN_4 = "its flash_attn.cute cannot be imported: it is the package flash-attn-4 and needs nvidia-cutlass-dsl"


def load_flash_attn_4() -> Callable[..., Any]:
    """``attention`` by flash-attn 4, whose kernels for Hopper and Blackwell are written in CUTLASS's Python DSL.

    flash-attn 2.8.3 brings an early ``flash_attn.cute`` of its own, so the distribution is asked for too.
    """
    module = imported("hybridbench.kernels.flash_attn_4", NO_FLASH_ATTN_4, distribution="flash-attn-4")
    function: Callable[..., Any] = module.attention
    return function


def refuses_flash_attn_4(problem: Problem) -> str | None:
    """Refuse what 4.0.0b36 asserts against, and all GPUs but Hopper, on which alone it was tried."""
    if reason := needs_cuda(problem):
        return reason
    if problem.dtype not in ("bfloat16", "float16"):
        return f"it takes bfloat16 and float16 only, and the dtype is {problem.dtype}"
    widths = problem.head_dim, problem.value_dim
    if any(width % 8 for width in widths) or not 8 <= min(widths) <= max(widths) <= 256:
        return f"it takes heads of multiples of 8 from 8 to 256 channels, and they are {widths[0]} and {widths[1]}"
    if widths[0] != widths[1] > 128:
        return f"unequal heads of more than 128 channels were not tried, and they are {widths[0]} and {widths[1]}"
    if problem.window is not None and problem.sinks:
        return f"it has windows but no sinks, and {problem.sinks} sinks were asked for"
    if problem.training and widths[0] != widths[1] and problem.n_heads != problem.kv_heads:
        return f"its backward of grouped heads wants values as wide as keys, and they are {widths[1]} and {widths[0]}"
    if not torch.cuda.is_available() or on_hopper():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"it is used on Hopper only so far, and this GPU's compute capability is {major}.{minor}"


# this package's Triton kernel -----------------------------------------------------------------------------------------


def load_triton_decode() -> Callable[..., Any]:
    """``attention_decode`` by the split-KV kernel of ``triton_decode``."""
    module = imported("hybridbench.kernels.triton_decode", "triton is not importable")
    decode: Callable[..., Any] = module.attention_decode
    return decode


def refuses_triton_decode(problem: Problem) -> str | None:
    """Any widths, bfloat16, float16 or float32, on a CUDA device."""
    if reason := needs_cuda(problem):
        return reason
    return "Triton's products have no float64" if problem.dtype == "float64" else None
