"""scan: the scans of Mamba-1, Mamba-2 and Mamba-3, their steps and their convolution."""

from __future__ import annotations

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.mamba1 import Mamba1
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.arch.blocks.mamba3 import Mamba3
from hybridbench.limits import SIGNED, Adds, Limit, in_training, of_sequence, row
from hybridbench.operations.operation import CONV, INSTALL_CUDA, SCAN, Operation, own, public
from hybridbench.operations.scan_limits import (
    CHUNKED_SCAN,
    CONV1D_STEP,
    CONVOLUTION,
    CORE,
    IN_ONE_PASS,
    MAMBA_SSM,
    SELECTIVE_SCAN,
    SELECTIVE_STEP,
    SSD_STEP,
    chunk_of,
    states_of,
)
from hybridbench.problem import Problem

# FLOPs: the cores of the blocks that problems come from ---------------------------------------------------------------


def _mamba1(problem: Problem) -> Mamba1:
    return Mamba1(d_model=1, d_inner=problem.width, dt_rank=1, d_state=problem.d_state)


def _mamba2(problem: Problem) -> Mamba2:
    H, P = problem.n_heads, problem.head_dim
    return Mamba2(d_model=1, d_inner=H * P, head_dim=P, d_state=problem.d_state, n_groups=problem.n_groups)


def _mamba3(problem: Problem) -> Mamba3:
    H, P = problem.n_heads, problem.head_dim
    sizes = {"d_state": problem.d_state, "n_groups": problem.n_groups, "n_angles": problem.n_angles}
    return Mamba3(d_model=1, d_inner=H * P, head_dim=P, **sizes)


def _convolved(problem: Problem) -> Mamba1:
    """A block whose convolution has a problem's channels and taps."""
    return Mamba1(d_model=1, d_inner=problem.conv_channels, dt_rank=1, d_conv=problem.d_conv)


def _ssd(problem: Problem) -> int:
    return problem.batch * _mamba2(problem).core_prefill(problem.length, Convention.EXACT).scan


def _conv1d(problem: Problem) -> int:
    return problem.batch * _convolved(problem).core_prefill(problem.length, Convention.EXACT).conv


MAMBA3_SCAN = (
    Limit(
        "rows of the projection, of which the angles are a view",
        row,
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
        in_training(states_of),
        SIGNED,
        f"{MAMBA_SSM}, mamba3/mamba3_siso_bwd.py: ssm_states_offset = pid_batch * stride_ssm_states_batch + "
        "pid_head * stride_ssm_states_head",
        per=chunk_of,
    ),
)
MAMBA3_STEP = (
    Limit(
        "states",
        states_of,
        SIGNED,
        f"{MAMBA_SSM}, mamba3/mamba3_siso_step.py: pid_batch * stride of every state",
        per=of_sequence,
    ),
)

ONE_PASS, IN_PIECES = "one-pass", "one-pass-pieces"
"""The names of ``mamba2_core`` with this package's scan, of states that a program has room for, and of wider ones."""

ROWS = (
    # Of the scans and convolutions the third-party kernels, then plain PyTorch: there is nothing in between.
    Operation(
        name="ssd",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba2:ssd",
        spends=SCAN,
        inputs=(
            "x_BTHP",
            "dt_BTH",
            "A_H: float32",
            "B_BTGN",
            "C_BTGN",
            "D_H: float32",
            "dt_bias_H: float32",
            "initial_state_BHPN: float32, optional",
        ),
        outputs=("y_BTHP", "final_state_BHPN: float32"),
        settings=("chunk_size",),
        forward=_ssd,
        backends=(public("mamba-ssm", "mamba_ssm", "kernels.scan.third_party:ssd", limits=CHUNKED_SCAN),),
        kernels=("chunk_(scan|state|cumsum)", "state_passing", "bmm_chunk", "ssd"),
        sequences=True,
        sums={"dt_bias_H": "dt_BTH"},
    ),
    Operation(
        name="ssd_step",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba2:ssd_step",
        spends=SCAN,
        inputs=(
            "state_BHPN: in place",
            "x_BHP",
            "dt_BH",
            "A_H: float32",
            "B_BGN",
            "C_BGN",
            "D_H: float32",
            "dt_bias_H: float32",
        ),
        outputs=("y_BHP",),
        forward=lambda problem: problem.batch * _mamba2(problem).core_decode(0, Convention.EXACT).scan,
        backends=(public("mamba-ssm", "mamba_ssm", "kernels.scan.third_party:ssd_step", limits=SSD_STEP),),
        kernels=("update_state",),
        sequences=True,
    ),
    Operation(
        name="conv1d",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba2:conv1d",
        spends=CONV,
        inputs=("x_BTC", "weight_CW", "bias_C"),
        outputs=("y_BTC",),
        forward=_conv1d,
        backends=(public("causal-conv1d", "causal_conv1d", "kernels.scan.third_party:conv1d", limits=CONVOLUTION),),
        kernels=("causal_conv1d", "conv1d", "convolution"),
        sequences=True,
        again="of_whole",
    ),
    Operation(
        name="conv1d_step",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba2:conv1d_step",
        spends=CONV,
        inputs=("state_BCW: in place", "x_BC", "weight_CW", "bias_C"),
        outputs=("y_BC",),
        forward=lambda problem: problem.batch * _convolved(problem).core_decode(0, Convention.EXACT).conv,
        backends=(
            public("causal-conv1d", "causal_conv1d", "kernels.scan.third_party:conv1d_step", limits=CONV1D_STEP),
        ),
        sequences=True,
    ),
    Operation(
        name="mamba2_core",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba2:mamba2_core",
        spends=SCAN,
        inputs=(
            "packed_BTE",
            "conv_weight_CW",
            "conv_bias_C",
            "A_H: float32",
            "D_H: float32",
            "dt_bias_H: float32",
            "norm_weight_I",
            "initial_state_BHPN: float32, optional",
        ),
        outputs=("out_BTI", "final_state_BHPN: float32"),
        settings=("head_dim", "n_groups", "chunk_size", "eps"),
        # z, the convolution's channels and dt, and columns behind them that nobody reads
        dimensions={"E": lambda problem: problem.row or problem.width + problem.conv_channels + problem.n_heads},
        forward=lambda problem: _ssd(problem) + _conv1d(problem),
        # without a fused one, its parts are resolved in its place
        backends=(
            own(ONE_PASS, "causal_conv1d", "kernels.scan.core:one_pass", limits=IN_ONE_PASS, install=INSTALL_CUDA),
            own(IN_PIECES, "causal_conv1d", "kernels.scan.core:in_pieces", limits=IN_ONE_PASS, install=INSTALL_CUDA),
            own("fused", "mamba_ssm", "kernels.scan.core:fused", limits=CORE, install=INSTALL_CUDA),
            public("mamba-ssm", "mamba_ssm", "kernels.scan.core:third_party", limits=CORE),
        ),
        kernels=(r"^scan_(forward|reverse|steps|finish|d_[xbc])_kernel$",),
        sequences=True,
        sums={"dt_bias_H": "dt_BTH"},
        again="of_core",
    ),
    Operation(
        name="selective_scan",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba1:selective_scan",
        spends=SCAN,
        inputs=(
            "x_BTI",
            "dt_BTI",
            "A_IN: float32",
            "B_BTN",
            "C_BTN",
            "D_I: float32",
            "z_BTI",
            "dt_bias_I",
            "initial_state_BIN: float32, optional",
        ),
        outputs=("y_BTI", "final_state_BIN: float32"),
        forward=lambda problem: problem.batch * _mamba1(problem).core_prefill(problem.length, Convention.EXACT).scan,
        backends=(public("mamba-ssm", "mamba_ssm", "kernels.scan.third_party:selective_scan", limits=SELECTIVE_SCAN),),
        kernels=("selective_(scan|state)",),
        sequences=True,
        sums={"dt_bias_I": "dt_BTI"},
    ),
    Operation(
        name="selective_step",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba1:selective_step",
        spends=SCAN,
        inputs=(
            "state_BIN: in place",
            "x_BI",
            "dt_BI",
            "A_IN: float32",
            "B_BN",
            "C_BN",
            "D_I: float32",
            "z_BI",
            "dt_bias_I",
        ),
        outputs=("y_BI",),
        forward=lambda problem: problem.batch * _mamba1(problem).core_decode(0, Convention.EXACT).scan,
        backends=(public("mamba-ssm", "mamba_ssm", "kernels.scan.third_party:selective_step", limits=SELECTIVE_STEP),),
        sequences=True,
    ),
    Operation(
        name="mamba3_scan",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba3:mamba3_scan",
        spends=SCAN,
        inputs=(
            "x_BTHP",
            "dt_BTH",
            "rate_BTH",
            "trap_BTH",
            "B_BTGN",
            "C_BTGN",
            "angle_BTR",
            "z_BTHP",
            "dt_bias_H: float32",
            "B_bias_HN: float32",
            "C_bias_HN: float32",
            "D_H: float32",
            "initial: optional",
        ),
        outputs=(
            "y_BTHP",
            "final_angle_BHR: float32",
            "final_state_BHPN: float32",
            "last_k_BHN: float32",
            "last_x_BHP: float32",
        ),
        settings=("chunk_size",),
        forward=lambda problem: problem.batch * _mamba3(problem).core_prefill(problem.length, Convention.EXACT).scan,
        backends=(public("mamba-ssm", "mamba_ssm", "kernels.scan.mamba3:mamba3_scan", limits=MAMBA3_SCAN),),
        kernels=("mamba3_siso_", "angle_dt_"),
        sequences=True,
        # Turning C and B alike from some position on changes nothing among the positions after it. What the public
        # kernels round, emulated beside exact arithmetic, makes 1.6% of this gradient at length 65, 3.3% at 1024; an
        # H200 3.9%.
        cancels={"angle_BTR": 3},
        sums={"dt_bias_H": "dt_BTH"},
    ),
    Operation(
        name="mamba3_step",
        family="kernels.scan",
        plain_path="kernels.scan.reference.mamba3:mamba3_step",
        spends=SCAN,
        inputs=(
            "angle_BHR: float32, in place",
            "state_BHPN: in place",
            "last_k_BHN: in place",
            "last_x_BHP: in place",
            "x_BHP",
            "dt_BH",
            "rate_BH",
            "trap_BH",
            "B_BGN",
            "C_BGN",
            "angle_BR",
            "z_BHP",
            "dt_bias_H: float32",
            "B_bias_HN: float32",
            "C_bias_HN: float32",
            "D_H: float32",
        ),
        outputs=("y_BHP",),
        forward=lambda problem: problem.batch * _mamba3(problem).core_decode(0, Convention.EXACT).scan,
        angles=("angle_BHR",),
        backends=(public("mamba-ssm", "mamba_ssm", "kernels.scan.mamba3:mamba3_step", limits=MAMBA3_STEP),),
        sequences=True,
    ),
)
