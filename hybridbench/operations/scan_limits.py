"""scan_limits: where the kernels of Mamba's scans, steps and convolution compute offsets in 32 bits.

Each limit names the kernel, its source and the line that is narrow, as ``hybridbench.limits`` explains.
"""

from __future__ import annotations

from hybridbench.limits import SIGNED, UNSIGNED, Adds, Limit, every, in_training, of_sequence, row
from hybridbench.problem import Problem
from hybridbench.sizes import SELECTIVE_SCAN_CHUNK


def states_of(problem: Problem) -> int:
    """H x P x N."""
    return problem.n_heads * problem.head_dim * problem.d_state


def chunk_of(problem: Problem) -> int:
    """Positions of a chunk; 1 where there are no chunks."""
    return problem.chunk_size or 1


def _scores(problem: Problem) -> int:
    """G x Q x Q, the products of C and B in a chunk."""
    return problem.n_groups * problem.chunk_size**2


MAMBA_SSM = "mamba_ssm 2.3.2.post1"
CAUSAL_CONV1D = "causal_conv1d 1.7.0"

CHUNKED_SCAN = (
    Limit(
        "rows of the projection, of which dt is a view",
        row,
        SIGNED,
        f"{MAMBA_SSM}, ssd_chunk_state.py, _chunk_cumsum_fwd_kernel and its backward: dt_ptr += pid_b * "
        "stride_dt_batch + pid_c * chunk_size * stride_dt_seqlen; its pull request 987",
    ),
    Limit(
        "states between chunks",
        states_of,
        SIGNED,
        f"{MAMBA_SSM}, ssd_chunk_state.py, _chunk_state_fwd_kernel, and all that read them: states_ptr += pid_b * "
        "stride_states_batch + pid_c * stride_states_chunk + pid_h * stride_states_head",
        per=chunk_of,
    ),
    Limit(
        "products of C and B in a chunk",
        _scores,
        SIGNED,
        f"{MAMBA_SSM}, ssd_bmm.py, _bmm_chunk_fwd_kernel: out_ptr += pid_b * stride_out_batch + pid_c * "
        "stride_out_chunk + pid_h * stride_out_head; their gradients split by head only where the batch is too small "
        "to fill the card",
        per=chunk_of,
    ),
)
"""x, B and C lie in the convolution's rows, which are narrower than the projection's; so does the output."""

CONVOLUTION = (
    Limit(
        "rows of the projection, of which its input is a view",
        row,
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

STATE_UPDATE = (
    f"{MAMBA_SSM}, selective_state_update.py: state_ptr += pid_b * stride_state_batch + pid_h * stride_state_head"
)

SSD_STEP = (Limit("states", states_of, SIGNED, STATE_UPDATE, per=of_sequence),)
CONV1D_STEP = (
    Limit(
        "convolution states, at most",
        lambda problem: (problem.row or problem.width) * problem.d_conv,
        UNSIGNED,
        f"{CAUSAL_CONV1D}, causal_conv1d_update.cu: conv_state_ptr + batch * conv_state_batch_stride, index_t = "
        "uint32_t",
        Adds.TO_POINTER,
        per=of_sequence,
    ),
)
IN_ONE_PASS = (
    *CONVOLUTION[:1],
    Limit(
        "rows of the states before every block",
        in_training(lambda problem: problem.n_heads * problem.head_dim),
        SIGNED,
        "triton_ssd.py: ((batch * blocks + block) * H + head) * P + part, a coordinate of a tile",
        per=every(64),
    ),
)
CORE = (*CHUNKED_SCAN, *CONVOLUTION[:1])
SELECTIVE_SCAN = (
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
        per=every(SELECTIVE_SCAN_CHUNK),
    ),
)
SELECTIVE_STEP = (
    Limit(
        "states",
        lambda problem: problem.width * problem.d_state,
        SIGNED,
        STATE_UPDATE,
        per=of_sequence,
    ),
)
