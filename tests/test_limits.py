"""The size up to which each kernel is right: against what was seen on a GPU, and against the offsets themselves.

The sources' own expressions are evaluated here in wrapping integers of their width, at the last element a kernel
reaches; where none wraps the kernel is right, and where one does it is not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hybridbench import limits
from hybridbench.limits import Limit
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.mixer import padding
from hybridbench.operations import OPERATIONS
from hybridbench.operations.beyond import ran_beyond
from hybridbench.problem import Problem, of_op, problem_of
from hybridbench.suite.case import Case
from hybridbench.suite.ops import block_ops, block_uses
from hybridbench.suite.sweep import Sweep, cases

DECLARED = [declared for row in OPERATIONS.values() for declared in row.by_name.values()]
"""Every backend of every operation."""

OVER_SEQUENCES = [op for op, row in OPERATIONS.items() if row.sequences]
K128 = 131072


def limits_of(op: str, backend: str) -> tuple[Limit, ...]:
    return OPERATIONS[op].by_name[backend].limits


def rows_at_once(op: str, backend: str, problem: Problem) -> int:
    return limits.rows_at_once(limits_of(op, backend), problem)


def case_of(pattern: str, ctx: int, batch: int, workload: str = "prefill", **more: Any) -> Case:
    sweep = Sweep(workload, pattern=pattern, scale="1b", ctx=str(ctx), batch=str(batch), device="cuda", **more)
    (case,) = cases(sweep, has_gpu=True)
    return case


def problem(pattern: str, ctx: int, batch: int, op: str, workload: str = "prefill") -> Problem:
    """What the first block that runs ``op`` asks of it."""
    case = case_of(pattern, ctx, batch, workload)
    for block, borrows in block_uses(case.model):
        sequence, step = block_ops(block, borrows)
        if op in sequence + step:
            return of_op(op, problem_of(block, case, borrows), case, step=op in step)
    raise AssertionError(f"no {op} in {pattern}")


# One H200, prefill of 4 prompts of 128k tokens at 1b widths, each prompt's logits beside the same prompt's alone: how
# many of the four were right, from the first on. fla's kernels were seen with causal_conv1d's before them.
SEEN = [
    ("M-M-", {"mamba2_core": "one-pass"}, 4),
    ("M-M-", {"mamba2_core": "fused"}, 1),
    ("M-M-", {"mamba2_core": "mamba-ssm"}, 1),
    ("M-M-", {"ssd": "mamba-ssm", "conv1d": "causal-conv1d"}, 1),
    ("G-G-", {"conv1d": "causal-conv1d", "gated_delta": "fla"}, 3),
    ("K-K-", {"conv1d": "causal-conv1d", "kda": "fla"}, 3),
    ("m-m-", {"conv1d": "causal-conv1d", "selective_scan": "mamba-ssm"}, 4),
    ("*-*-", {"attention": "sdpa-cudnn"}, 4),
    ("*-*-", {"attention": "flash-attn"}, 4),
    ("*-S-", {"attention": "flex"}, 4),
]


@pytest.mark.parametrize(("pattern", "ran", "right"), SEEN)
def test_as_seen_on_an_h200(pattern: str, ran: dict[str, str], right: int) -> None:
    assert min(rows_at_once(op, name, problem(pattern, K128, 4, op)) for op, name in ran.items()) == right


def test_mamba3_ended_in_an_illegal_access_of_the_third_prompt() -> None:
    """An offset that wraps in 31 bits is negative, and lies before the tensor."""
    assert rows_at_once("mamba3_scan", "mamba-ssm", problem("3-3-", K128, 4, "mamba3_scan")) == 2
    assert ctypes.c_int32(2 * K128 * 8576).value < 0 < ctypes.c_int32(1 * K128 * 8576).value


def signed(value: int) -> int:
    return ctypes.c_int32(value).value


def unsigned(value: int) -> int:
    return ctypes.c_uint32(value).value


def chunk_cumsum(p: Problem, rows: int) -> list[tuple[int, int]]:
    """dt_ptr += pid_b * stride_dt_batch + pid_c * chunk_size * stride_dt_seqlen; those of the states and scores."""
    b, c = rows - 1, -(-p.length // p.chunk_size) - 1
    dt = b * p.length * p.row + c * p.chunk_size * p.row
    H, state = p.n_heads, p.head_dim * p.d_state
    states = b * (c + 1) * H * state + c * H * state + (H - 1) * state
    scores = b * (c + 1) * p.n_groups * p.chunk_size**2 + c * p.n_groups * p.chunk_size**2
    return [(offset, signed(offset)) for offset in (dt, states, scores)]


def convolution(p: Problem, rows: int) -> list[tuple[int, int]]:
    """x_ptr + batch_id * x_batch_stride + (chunk_l_id * kChunkSizeL + l_idx) * x_l_stride, one after the other."""
    if p.row:
        parts = [(rows - 1) * p.length * p.row, (p.length - 1) * p.row]
    else:
        parts = [(rows - 1) * p.length, (p.width - 1) * rows * p.length]
    return [(part, unsigned(part)) for part in parts]


def selective(p: Problem, rows: int) -> list[tuple[int, int]]:
    """dim_id * u_d_stride, and (batch_id * dim + dim_id) * n_chunks * dstate."""
    channel, chunks = (p.width - 1) * rows * p.length, -(-p.length // 2048)
    states = ((rows - 1) * p.width + p.width - 1) * chunks * p.d_state
    return [(channel, unsigned(channel)), (states, signed(states))]


def angles(p: Problem, rows: int) -> list[tuple[int, int]]:
    """ANGLE += pid_b * stride_angle_batch, (chunk_start + seq_range) * stride_angle_seq, and what training adds."""
    H, wide = p.n_heads, max(p.head_dim, p.d_state)
    parts = [(rows - 1) * p.length * p.row, (p.length - 1) * p.row]
    parts.append((rows - 1) * p.length * H * wide + (H - 1) * wide)
    if p.training:
        of_head = -(-p.length // p.chunk_size) * p.head_dim * p.d_state
        parts.append((rows - 1) * H * of_head + (H - 1) * of_head)
    return [(part, signed(part)) for part in parts]


Offsets = Callable[[Problem, int], list[tuple[int, int]]]
"""Of a problem's last sequence, with so many handed over: each offset, and what its width makes of it."""

KERNELS: list[tuple[str, str, str, Offsets]] = [
    ("M-", "ssd", "mamba-ssm", chunk_cumsum),
    ("M-", "conv1d", "causal-conv1d", convolution),
    ("m-", "conv1d", "causal-conv1d", convolution),
    ("G-", "conv1d", "causal-conv1d", convolution),
    ("K-", "conv1d", "causal-conv1d", convolution),
    ("m-", "selective_scan", "mamba-ssm", selective),
    ("3-", "mamba3_scan", "mamba-ssm", angles),
]


@pytest.mark.parametrize("workload", ["prefill", "train"])
@pytest.mark.parametrize("length", [8192, 100_000, K128, 200_000, 2 * K128, 500_000, 2**20])
@pytest.mark.parametrize(("pattern", "op", "backend", "offsets"), KERNELS)
def test_what_is_allowed_wraps_nowhere_and_one_more_does(
    pattern: str,
    op: str,
    backend: str,
    offsets: Offsets,
    length: int,
    workload: str,
) -> None:
    asked = problem(pattern, length, 64, op, workload)
    rows = rows_at_once(op, backend, asked)
    if rows:
        assert all(true == found for true, found in offsets(asked, rows)), "what is allowed is right"
    if rows < 64:
        assert any(true != found for true, found in offsets(asked, rows + 1)), "and no more is"


def test_every_published_kernel_was_looked_at() -> None:
    """Those of PyTorch that are plain products and additions, and those of this package, have 64 bits by nature."""
    published = [row for row in DECLARED if row.package not in ("hybridbench", "triton")]
    on_gpus = [row for row in published if row.name in OPERATIONS[row.op].order["cuda"]]
    assert [(row.op, row.name) for row in on_gpus if not (row.limits or row.wide)] == [("adamw", "torch")]
    known = [row for row in DECLARED if row.limits or row.wide]
    assert len(known) > 20
    for row in known:
        assert not (row.limits and row.wide)
        assert row in on_gpus
    assert {row.op for row in known if row.limits} <= set(OVER_SEQUENCES), "only sequences can be split off"


def test_sources_name_a_release() -> None:
    for row in DECLARED:
        for limit in row.limits:
            assert limit.what
            assert limit.source.startswith(
                ("mamba_ssm 2.", "causal_conv1d 1.", "flash", "torch 2.", "cuDNN", "triton_ssd.py")
            )
        assert not row.wide or row.wide.startswith(("fla-core 0.", "torch 2.", "liger_kernel 0."))


def test_a_cpu_and_an_unknown_size_have_no_limit() -> None:
    long = problem("M-M-", K128, 4, "ssd")
    assert rows_at_once("ssd", "mamba-ssm", replace(long, device="cpu")) == 4
    assert rows_at_once("ssd", "mamba-ssm", long.any_size()) == 0 == long.any_size().batch
    assert rows_at_once("ssd", "reference", long) == 4
    assert limits.tightest(limits_of("ssd", "reference"), long) is None
    assert limits.beyond(limits_of("ssd", "mamba-ssm"), long.any_size()) is None


def test_one_sequence_too_long_is_a_sentence() -> None:
    sentence = limits.beyond(limits_of("ssd", "mamba-ssm"), problem("M-M-", 2 * K128, 1, "ssd"))
    assert sentence == (
        "it is right up to 2^31 elements of B x T x 8,480 (rows of the projection, of which dt is a view), and one "
        "sequence of 262,144 tokens has 2,222,981,120"
    )
    assert limits.beyond(limits_of("ssd", "mamba-ssm"), problem("M-M-", K128, 1, "ssd")) is None


def test_rows_of_the_projection_are_what_the_modules_project() -> None:
    for symbol in "*M3GK":
        sweep = Sweep("prefill", pattern=f"{symbol}-", scale="350m", ctx="128", device="cpu")
        (case,) = cases(sweep, has_gpu=False)
        parameters = build_model(case, resolve_backends(case)).named_parameters()
        columns, *_ = (parameter.shape[0] for name, parameter in parameters if name.endswith("in_proj.weight"))
        aligned = columns if symbol == "*" else columns + padding(columns, torch.device("cuda"))
        assert case.model.blocks[symbol].packed_row == aligned, symbol


def test_a_generation_meets_its_prompt_with_the_kernels_of_sequences() -> None:
    case = case_of("M-M-", 4096, 4, "generate", prompt=512)
    (block, borrows), *_ = block_uses(case.model)
    whole = problem_of(block, case, borrows)
    assert whole.length == 4096
    assert of_op("ssd", whole, case, step=False).length == 512
    assert of_op("ssd_step", whole, case, step=True).length == 4096


def test_a_borrowing_branch_may_read_the_widest_row() -> None:
    sweep = Sweep("prefill", arch="intra", scale="1b", ctx="4k", fusion_value="shared", device="cuda")
    (case,) = cases(sweep, has_gpu=True)
    rows = {borrows: problem_of(block, case, borrows).row for block, borrows in block_uses(case.model)}
    assert rows[True] == max(block.packed_row for block, _ in block_uses(case.model))


def test_stored_records_are_told_from_what_ran() -> None:
    case = case_of("M-M-", K128, 4)
    fused, one_pass, conv = ("mamba2_core", "fused"), ("mamba2_core", "one-pass"), ("conv1d", "causal-conv1d")
    assert ran_beyond(case, [fused, ("swiglu", "triton")]) == [fused]
    assert ran_beyond(case, [one_pass, conv]) == []
    assert ran_beyond(case, [("mamba2_core", "fused, 1 row at a time")]) == []
    two = ("mamba2_core", "fused, 2 rows at a time")
    assert ran_beyond(case, [two]) == [two]
    assert ran_beyond(case_of("M-M-", 32768, 4), [fused]) == []
    assert ran_beyond(case_of("G-G-", K128, 4), [conv, ("gated_delta", "fla")]) == [conv]
    # a decode step runs nothing over a sequence, whatever its context
    assert ran_beyond(case_of("M-M-", 2**20, 4, "decode"), [fused, ("ssd_step", "mamba-ssm")]) == []
