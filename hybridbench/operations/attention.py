"""attention: attention over a sequence, and one decode step of it."""

from __future__ import annotations

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.attention import Attention
from hybridbench.limits import SIGNED, Adds, Limit, every, in_training, of_sequence, row
from hybridbench.operations.operation import ATTENTION, INSTALL_FLASH_ATTN_4, Declared, Operation, own, public
from hybridbench.problem import Problem


def _spec(problem: Problem) -> Attention:
    """The block whose core the problem describes."""
    return Attention(
        d_model=1,
        n_heads=problem.n_heads,
        n_kv_heads=problem.kv_heads,
        head_dim=problem.head_dim,
        v_head_dim=problem.value_dim,
        window=problem.window,
        sinks=problem.sinks,
    )


def _over_sequence(problem: Problem) -> int:
    return problem.batch * _spec(problem).core_prefill(problem.length, Convention.EXACT).total


def _of_step(problem: Problem) -> int:
    """Of one decode step: over a full cache, whose last slot is the new token's."""
    return problem.batch * _spec(problem).core_decode(problem.length - 1, Convention.EXACT).total


def _rounded_heads(problem: Problem) -> int:
    """H x D for 128 positions, as flash-attn 2 rounds D: to 32 channels, above 128 to 64."""
    width = max(problem.head_dim, problem.value_dim)
    return 128 * problem.n_heads * (width + -width % (32 if width <= 128 else 64))


def _flash_2(release: str) -> tuple[Limit, ...]:
    return (
        Limit(
            "sums of the softmax",
            lambda problem: problem.n_heads,
            SIGNED,
            f"{release}, flash_fwd_kernel.h: (bidb * h + bidh) * seqlen_q + m_block * kBlockM; all strides are int64_t",
        ),
        Limit(
            "sums of the queries' gradient",
            in_training(_rounded_heads),
            SIGNED,
            f"{release}, flash_bwd_kernel.h: ((bidb * h + bidh) * seqlen_q_rounded + m_block * kBlockM) * d_rounded, "
            "multiplied as int before it is widened; flash-attention's pull request 2260",
            per=every(128),
        ),
    )


def _taken(what: str) -> tuple[Limit, ...]:
    """The limit of a kernel whose source does not state one: the smaller size."""
    return (Limit("rows of the projection, of which values are a view", row, SIGNED, f"{what}: taken as 32 bits"),)


_FLASH_ATTN_4 = _taken(
    "flash-attn-4 4.0.0b36, whose cute.crd2idx multiplies coordinates and strides in 32 bits (its issue 2611)"
)
_CUDNN = _taken("cuDNN 9, whose source is not published")
_FLASH_ATTN = _flash_2("flash_attn 2.8.3")
_SDPA_FLASH = _flash_2("torch 2.11, whose flash kernel is flash-attn 2")
_FLEX = _taken(
    "torch 2.11 to 2.13, flex_attention.py.jinja: offs_n * stride_kn in 32 bits, and what INDEX_DTYPE is to the "
    "batch is inductor's choice (PyTorch's issue 190857)"
)
_EFFICIENT = (
    Limit(
        "rows of the projection, of which values are a view",
        row,
        SIGNED,
        "torch 2.11, mem_eff_attention/kernel_forward.h: key_ptr + iter_key_start * k_strideM with an int32_t "
        "stride; those of the batch are int64_t",
        Adds.IN_SEQUENCE,
    ),
)
_FLASH_ATTN_STEP = (
    Limit(
        "outputs of at most 128 splits of the cache",
        lambda problem: 128 * problem.n_heads * max(problem.head_dim, problem.value_dim),
        SIGNED,
        "flash_attn 2.8.3, flash_fwd_kernel.h: (((n_split_idx * b + bidb) * h + bidh) * seqlen_q + ...) * "
        "d_rounded; strides of caches are int64_t",
        per=of_sequence,
    ),
)
_MASK = (
    Limit(
        "a sequence's cache",
        lambda problem: problem.kv_heads * max(problem.head_dim, problem.value_dim),
        SIGNED,
        "torch 2.11, mem_eff_attention/kernel_forward.h: key_ptr + iter_key_start * k_strideM, an int32_t",
        Adds.IN_SEQUENCE,
    ),
)

ROWS = (
    Operation(
        name="attention",
        family="kernels.attention",
        spends=ATTENTION,
        inputs=("q_BTHP", "k_BTKP", "v_BTKV"),
        outputs=("out_BTHV",),
        settings=("window", "sinks"),
        forward=_over_sequence,
        # Measured on an H200 with heads of 64, in TFLOP/s: forward at 8k, forward at 32k, backward at 8k.
        # Full attention: flash-attn-4 509, 525, 381; cuDNN 441, 456, 326; flash-attn 301, 309, 228.
        # Window of 512: flash-attn-4 295, 290, 196; flex 219, 227, 130; flash-attn 143, 152, 130.
        # flash-attn is before SDPA flash because it pads unequal widths and has windows. Only flex has sinks.
        backends=(
            public(
                "flash-attn-4",
                "flash-attn-4",
                "kernels.attention.flash_attn:attention_4",
                limits=_FLASH_ATTN_4,
                install=INSTALL_FLASH_ATTN_4,
            ),
            own("sdpa-cudnn", "torch", "kernels.attention.sdpa:cudnn", limits=_CUDNN),
            public("flash-attn", "flash_attn", "kernels.attention.flash_attn:attention", limits=_FLASH_ATTN),
            own("sdpa-flash", "torch", "kernels.attention.sdpa:flash", limits=_SDPA_FLASH),
            Declared(
                name="flex",
                package="torch",
                path="kernels.attention.flex:attention",
                dispatched=False,
                compiles_per_length=True,
                limits=_FLEX,
            ),
            own("sdpa-efficient", "torch", "kernels.attention.sdpa:efficient", limits=_EFFICIENT),
            own(
                "sdpa-math",
                "torch",
                "kernels.attention.sdpa:of_products",
                wide="torch 2.11: products and a softmax, whose offsets have 64 bits where needed",
            ),
        ),
        cpu_only=(own("sdpa-blocks", "torch", "kernels.attention.blocks:attention"),),
        # the flash kernel is blocked and threaded, with windows, sinks and unequal widths too; not the math kernel,
        # which takes H x T x T
        on_cpu=("sdpa-flash", "sdpa-blocks"),
        kernels=("flash", "fmha", "attention", "sdpa", "cudnn::fusion"),
        sequences=True,
    ),
    Operation(
        name="attention_decode",
        family="kernels.attention",
        spends=ATTENTION,
        inputs=("q_BHP", "k_cache_BSKP", "v_cache_BSKV", "length_B: int32"),
        outputs=("out_BHV",),
        forward=_of_step,
        # An H200 read the 1B Transformer's cache at 4k, 32k and 128k with 2.4, 3.8 and 4.3 TB/s in triton, and with
        # 1.5, 3.0 and 3.5 TB/s in flash-attn. These two read only the live part of the cache, a mask reads all of it.
        # naive is for mode published.
        backends=(
            public("triton", "triton", "kernels.attention.split_kv:attention_decode"),
            public(
                "flash-attn", "flash_attn", "kernels.attention.flash_attn:attention_decode", limits=_FLASH_ATTN_STEP
            ),
            own("sdpa-mask", "torch", "kernels.attention.sdpa:attention_decode", limits=_MASK),
            own("naive", "hybridbench", "kernels.attention.naive:attention_decode"),
        ),
        # makes no float32 copy of the cache at each step, unlike the reference
        on_cpu=("sdpa-mask",),
        sequences=True,
    ),
)
