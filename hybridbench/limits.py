"""limits: up to which size each kernel is right, by its source, and how much of a batch it may be given at once.

Published kernels compute where an element lies in 32 bits, signed (Triton's products of a program's number and a
stride) or unsigned (``index_t`` of the CUDA extensions). Past that the offset wraps, and the kernel reads and writes
other elements: most often without an error. What counts is the stride, not the tensor's own size: dt of Mamba-2 has one
column a head, and lies in rows of all that was projected.

    >>> four = Problem("cuda", "bfloat16", head_dim=128, n_heads=32, d_state=128, chunk_size=256, length=131072,
    ...                batch=4, row=8480)
    >>> rows_at_once("ssd", "mamba-ssm", four)
    1
    >>> tightest("ssd", "mamba-ssm", four).in_words(four)
    '2^31 elements of B x T x 8,480 (rows of the projection, of which dt is a view)'

An operation and backend without an entry has no known limit: plain PyTorch, and this package's kernels, whose offsets
have 64 bits. Where a source is not published, or what a compiler makes of it is not certain, the smaller size is taken.
Grids end at larger sizes than any of these, with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from hybridbench.problem import Problem, of_op, problem_of
from hybridbench.sizes import SELECTIVE_SCAN_CHUNK
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_ops_in, block_uses

SIGNED, UNSIGNED = 31, 32
"""Bits of an offset: what fits is below 2 to this."""


class Adds(Enum):
    """How the offsets of a sequence and of a position in it come together."""

    IN_NARROW = "in one narrow sum: all elements of the batch count"
    TO_POINTER = "to the pointer, one after the other: the last sequence's first element counts, and a sequence"
    IN_SEQUENCE = "to the pointer, and only a position's offset is narrow: a sequence counts, whatever the batch"


def _one(_problem: Problem) -> int:
    return 1


@dataclass(frozen=True)
class Limit:
    """One tensor whose offsets are narrow.

    Attributes:
        what: the tensor, in words.
        width: its elements for every ``per`` positions of a sequence; 0 where a problem has no such tensor.
        bits: of the offset.
        source: the release it was read in, the file and kernel, and the expression.
        adds: how a sequence's offset and a position's come together.
        per: positions that ``width`` is of; 0 where it is of a sequence, however long.
    """

    what: str
    width: Callable[[Problem], int]
    bits: int
    source: str
    adds: Adds = Adds.IN_NARROW
    per: Callable[[Problem], int] = _one

    def elements(self, problem: Problem) -> int:
        """Of one sequence."""
        per = self.per(problem)
        return self.width(problem) * (-(-problem.length // per) if per else 1)

    def rows(self, problem: Problem) -> int:
        """Sequences of the batch that may be handed over at once: all of them, fewer, or 0."""
        one, most = self.elements(problem), 1 << self.bits
        if one == 0:
            return problem.batch
        if one > most:
            return 0
        if self.adds is Adds.IN_SEQUENCE:
            return problem.batch
        fit = most // one if self.adds is Adds.IN_NARROW else (most - 1) // one + 1
        return min(fit, problem.batch)

    def in_words(self, problem: Problem) -> str:
        """Such as "2^31 elements of B x T x 8,480 (rows of the projection)"; of chunks, T is of whole ones."""
        batch = {Adds.IN_NARROW: "B x ", Adds.TO_POINTER: "(B - 1) x ", Adds.IN_SEQUENCE: ""}[self.adds]
        per, width = self.per(problem), self.width(problem)
        if per and width % per == 0:
            length, width = "T x ", width // per
        else:
            length = f"T / {per} x " if per else ""
        return f"2^{self.bits} elements of {batch}{length}{width:,} ({self.what})"


# What the tensors are -------------------------------------------------------------------------------------------------


def _row(problem: Problem) -> int:
    return problem.row


def _states(problem: Problem) -> int:
    """H x P x N."""
    return problem.n_heads * problem.head_dim * problem.d_state


def _in_training(width: Callable[[Problem], int]) -> Callable[[Problem], int]:
    return lambda problem: width(problem) if problem.training else 0


def _chunk(problem: Problem) -> int:
    return problem.chunk_size or 1


def _sequence(_problem: Problem) -> int:
    return 0


def _every(positions: int) -> Callable[[Problem], int]:
    return lambda _problem: positions


def _scores(problem: Problem) -> int:
    """G x Q x Q, the products of C and B in a chunk."""
    return problem.n_groups * problem.chunk_size**2


def _rounded_heads(problem: Problem) -> int:
    """H x D for 128 positions, as flash-attn 2 rounds them: 32 channels at a time, above 128 at a time 64."""
    width = max(problem.head_dim, problem.value_dim)
    return 128 * problem.n_heads * (width + -width % (32 if width <= 128 else 64))


MAMBA_SSM = "mamba_ssm 2.3.2.post1"
CAUSAL_CONV1D = "causal_conv1d 1.7.0"

_CHUNKED_SCAN = (
    Limit(
        "rows of the projection, of which dt is a view",
        _row,
        SIGNED,
        f"{MAMBA_SSM}, ssd_chunk_state.py, _chunk_cumsum_fwd_kernel and its backward: dt_ptr += pid_b * "
        "stride_dt_batch + pid_c * chunk_size * stride_dt_seqlen; its pull request 987",
    ),
    Limit(
        "states between chunks",
        _states,
        SIGNED,
        f"{MAMBA_SSM}, ssd_chunk_state.py, _chunk_state_fwd_kernel, and all that read them: states_ptr += pid_b * "
        "stride_states_batch + pid_c * stride_states_chunk + pid_h * stride_states_head",
        per=_chunk,
    ),
    Limit(
        "products of C and B in a chunk",
        _scores,
        SIGNED,
        f"{MAMBA_SSM}, ssd_bmm.py, _bmm_chunk_fwd_kernel: out_ptr += pid_b * stride_out_batch + pid_c * "
        "stride_out_chunk + pid_h * stride_out_head; their gradients split by head only where the batch is too small "
        "to fill the card",
        per=_chunk,
    ),
)
"""x, B and C lie in the convolution's rows, which are narrower than the projection's; so does the output."""

_CONVOLUTION = (
    Limit(
        "rows of the projection, of which its input is a view",
        _row,
        UNSIGNED,
        f"{CAUSAL_CONV1D}, causal_conv1d_fwd.cu and _bwd.cu, the channels-last kernels: x_ptr + batch_id * "
        "x_batch_stride + (chunk_l_id * kChunkSizeL + l_idx) * x_l_stride, index_t = uint32_t; its pull request 114",
        Adds.TO_POINTER,
    ),
    Limit(
        "channels with their positions side by side",
        lambda problem: 0 if problem.row else problem.width,
        UNSIGNED,
        f"{CAUSAL_CONV1D}, causal_conv1d_fwd.cu and _bwd.cu: x_ptr + batch_id * x_batch_stride + channel_id * "
        "x_c_stride, where a channel's stride is B x T",
    ),
)

_STATE_UPDATE = (
    f"{MAMBA_SSM}, selective_state_update.py: state_ptr += pid_b * stride_state_batch + pid_h * stride_state_head"
)


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
            _in_training(_rounded_heads),
            SIGNED,
            f"{release}, flash_bwd_kernel.h: ((bidb * h + bidh) * seqlen_q_rounded + m_block * kBlockM) * d_rounded, "
            "multiplied as int before it is widened; flash-attention's pull request 2260",
            per=_every(128),
        ),
    )


def _taken(what: str) -> tuple[Limit, ...]:
    """The smaller size, where the source does not say."""
    return (Limit("rows of the projection, of which values are a view", _row, SIGNED, f"{what}: taken as 32 bits"),)


LIMITS: dict[tuple[str, str], tuple[Limit, ...]] = {
    ("attention", "sdpa-flash"): _flash_2("torch 2.11, whose flash kernel is flash-attn 2"),
    ("attention", "flash-attn"): _flash_2("flash_attn 2.8.3"),
    ("attention", "flash-attn-4"): _taken(
        "flash-attn-4 4.0.0b36, whose cute.crd2idx multiplies coordinates and strides in 32 bits (its issue 2611)"
    ),
    ("attention", "sdpa-cudnn"): _taken("cuDNN 9, whose source is not published"),
    ("attention", "flex"): _taken(
        "torch 2.11 to 2.13, flex_attention.py.jinja: offs_n * stride_kn in 32 bits, and what INDEX_DTYPE is to the "
        "batch is inductor's choice (PyTorch's issue 190857)"
    ),
    ("attention", "sdpa-efficient"): (
        Limit(
            "rows of the projection, of which values are a view",
            _row,
            SIGNED,
            "torch 2.11, mem_eff_attention/kernel_forward.h: key_ptr + iter_key_start * k_strideM with an int32_t "
            "stride; those of the batch are int64_t",
            Adds.IN_SEQUENCE,
        ),
    ),
    ("attention_decode", "sdpa-mask"): (
        Limit(
            "a sequence's cache",
            lambda problem: problem.kv_heads * max(problem.head_dim, problem.value_dim),
            SIGNED,
            "torch 2.11, mem_eff_attention/kernel_forward.h: key_ptr + iter_key_start * k_strideM, an int32_t",
            Adds.IN_SEQUENCE,
        ),
    ),
    ("attention_decode", "flash-attn"): (
        Limit(
            "outputs of at most 128 splits of the cache",
            lambda problem: 128 * problem.n_heads * max(problem.head_dim, problem.value_dim),
            SIGNED,
            "flash_attn 2.8.3, flash_fwd_kernel.h: (((n_split_idx * b + bidb) * h + bidh) * seqlen_q + ...) * "
            "d_rounded; strides of caches are int64_t",
            per=_sequence,
        ),
    ),
    ("ssd", "mamba-ssm"): _CHUNKED_SCAN,
    ("ssd_step", "mamba-ssm"): (Limit("states", _states, SIGNED, _STATE_UPDATE, per=_sequence),),
    ("conv1d", "causal-conv1d"): _CONVOLUTION,
    ("conv1d_step", "causal-conv1d"): (
        Limit(
            "convolution states, at most",
            lambda problem: (problem.row or problem.width) * problem.d_conv,
            UNSIGNED,
            f"{CAUSAL_CONV1D}, causal_conv1d_update.cu: conv_state_ptr + batch * conv_state_batch_stride, index_t = "
            "uint32_t",
            Adds.TO_POINTER,
            per=_sequence,
        ),
    ),
    ("mamba2_core", "fused"): (*_CHUNKED_SCAN, *_CONVOLUTION[:1]),
    ("mamba2_core", "mamba-ssm"): (*_CHUNKED_SCAN, *_CONVOLUTION[:1]),
    ("mamba2_core", "one-pass"): (
        *_CONVOLUTION[:1],
        Limit(
            "rows of the states before every block",
            _in_training(lambda problem: problem.n_heads * problem.head_dim),
            SIGNED,
            "triton_ssd.py: ((batch * blocks + block) * H + head) * P + part, a coordinate of a tile",
            per=_every(64),
        ),
    ),
    ("selective_scan", "mamba-ssm"): (
        Limit(
            "channels with their positions side by side",
            lambda problem: problem.width,
            UNSIGNED,
            f"{MAMBA_SSM}, selective_scan_fwd_kernel.cuh and _bwd_kernel.cuh: u_ptr + batch_id * u_batch_stride + "
            "dim_id * u_d_stride with index_t = uint32_t, where a channel's stride is B x T",
        ),
        Limit(
            f"states of every {SELECTIVE_SCAN_CHUNK:,} positions",
            lambda problem: problem.width * problem.d_state,
            SIGNED,
            f"{MAMBA_SSM}, selective_scan_fwd_kernel.cuh and _bwd_kernel.cuh: x_ptr + (batch_id * dim + dim_id) * "
            "n_chunks * dstate; its issue 884",
            per=_every(SELECTIVE_SCAN_CHUNK),
        ),
    ),
    ("selective_step", "mamba-ssm"): (
        Limit("states", lambda problem: problem.width * problem.d_state, SIGNED, _STATE_UPDATE, per=_sequence),
    ),
    ("mamba3_scan", "mamba-ssm"): (
        Limit(
            "rows of the projection, of which the angles are a view",
            _row,
            SIGNED,
            f"{MAMBA_SSM}, mamba3/angle_dt.py, angle_dt_fwd_kernel and its backward: ANGLE += pid_b * "
            "stride_angle_batch + ..., then (chunk_start + seq_range) * stride_angle_seq; all else is copied first",
            Adds.TO_POINTER,
        ),
        Limit(
            "outputs, and B and C turned for every head",
            lambda problem: problem.n_heads * max(problem.head_dim, problem.d_state),
            SIGNED,
            f"{MAMBA_SSM}, mamba3/mamba3_siso_fwd.py: Q_store + pid_batch * stride_q_store_batch + ...; "
            "mamba3_siso_bwd.py: dq_offset = pid_batch * stride_dq_batch + pid_head * stride_dq_head",
        ),
        Limit(
            "states between chunks",
            _in_training(_states),
            SIGNED,
            f"{MAMBA_SSM}, mamba3/mamba3_siso_bwd.py: ssm_states_offset = pid_batch * stride_ssm_states_batch + "
            "pid_head * stride_ssm_states_head",
            per=_chunk,
        ),
    ),
    ("mamba3_step", "mamba-ssm"): (
        Limit(
            "states",
            _states,
            SIGNED,
            f"{MAMBA_SSM}, mamba3/mamba3_siso_step.py: pid_batch * stride of every state",
            per=_sequence,
        ),
    ),
}
"""Operation and backend to what limits it."""

_FLA = "fla-core 0.6.0: programs' numbers are widened to 64 bits before any product (its issue 1080)"

WIDE: dict[tuple[str, str], str] = {
    ("gated_delta", "fla"): _FLA,
    ("gated_delta", "fla-kda"): _FLA,
    ("gated_delta_step", "fla"): _FLA,
    ("kda", "fla"): _FLA,
    ("kda_step", "fla"): _FLA,
    ("attention", "sdpa-math"): "torch 2.11: products and a softmax, whose offsets have 64 bits where needed",
    ("experts", "grouped-mm"): "torch 2.11, GroupMMCommon.cuh: strides are int64_t",
    ("linear_cross_entropy", "liger"): "liger_kernel 0.8.5, cross_entropy.py: the program's number is widened first",
}
"""Published kernels whose offsets have 64 bits, and where that was read."""

ANY_SIZE = "right at any size: its offsets have 64 bits"


# What follows for a problem -------------------------------------------------------------------------------------------


def rows_at_once(op: str, backend: str, problem: Problem) -> int:
    """Sequences of the batch that a backend may be handed at once: as many as there are where nothing limits it, and 0
    where not even one is right."""
    limit = tightest(op, backend, problem)
    return problem.batch if limit is None else limit.rows(problem)


def tightest(op: str, backend: str, problem: Problem) -> Limit | None:
    """What allows the fewest sequences at once; None where nothing limits this backend."""
    limits = [limit for limit in LIMITS.get((op, backend), ()) if limit.width(problem)]
    if problem.device != "cuda" or not limits:
        return None
    # of limits that allow as many, the one that a little more of the same would pass first
    return min(limits, key=lambda limit: (limit.rows(problem), -limit.elements(problem) / 2**limit.bits))


def beyond(op: str, backend: str, problem: Problem) -> str | None:
    """Why a backend is not right even on one sequence of a problem, without a full stop; None if it is."""
    limit = tightest(op, backend, problem)
    if limit is None or not problem.batch or limit.rows(problem):
        return None
    return (
        f"it is right up to {limit.in_words(problem)}, and one sequence of {problem.length:,} tokens has "
        f"{limit.elements(problem):,}"
    )


def ran_beyond(case: Case, ran: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the operations and what ran, as records name them, that were given more than they are right on.

    What ran may say how many sequences it was given at a time, as "fla, 2 rows at a time"; else it was all.
    """
    used = dict.fromkeys(ran)
    found = []
    for block, borrows in block_uses(case.model):
        whole = problem_of(block, case, borrows)
        for op, in_step in block_ops_in(block, borrows, case.workload.row):
            problem = of_op(op, whole, case, step=in_step)
            for pair in used:
                name, _, groups = pair[1].partition(", ")
                given = int(groups.split()[0]) if groups else problem.batch
                if pair[0] == op and rows_at_once(op, name, problem) < min(given, problem.batch):
                    found.append(pair)
    return list(dict.fromkeys(found))
