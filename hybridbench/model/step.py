"""step: the two ways to decode one token: module by module, or as one plan of fused kernels.

They are the backends ``modules`` and ``fused`` of the operation ``decode_step`` (``operations.step``). The first runs
every kernel by itself and supports every model. The second supports MLPs, the mixers of ``kinds`` and parallel
blocks of one of these with attention, and is verified against the first on the model, caches and context that are
timed. ``choices`` decides which of them a case takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.attention import Attention
from hybridbench.arch.blocks.mlp import Mlp
from hybridbench.arch.blocks.parallel import Parallel
from hybridbench.errors import WrongResult
from hybridbench.kernels import Problem
from hybridbench.kernels.backend import Implementation, accepts_anything, imported
from hybridbench.kernels.verify import Check
from hybridbench.model.cache import Cache, recurrent_states, states_compared
from hybridbench.model.kinds import STEPS
from hybridbench.model.steps.row import odd_width
from hybridbench.sizes import E4M3_SINCE, FUSED_STEP_BATCH
from hybridbench.suite.case import GRAPH, Case
from hybridbench.suite.ops import DECODE_STEP, block_ops, block_uses

BOUND = 6e-2
"""Largest relative error between the two ways in 16 bit, of a batch's logits and of each state that a step writes.

Both round every activation, at different places, through a dozen layers: 2e-2 to 4e-2 was seen at 1b. In float32, in
which only the interpreter runs the fused kernels, the tests allow 1e-5.
"""


def _load_fused() -> Callable[..., Any]:
    imported("triton", "triton is not importable")
    from hybridbench.model.fused import FusedStep

    return FusedStep


def _load_modules() -> Callable[..., Any]:
    from hybridbench.model.language import LanguageModel

    return LanguageModel.decode


def _on_gpu(problem: Problem) -> str | None:
    if problem.device != "cuda":
        return f"its kernels run on CUDA devices only, and the device is {problem.device}"
    if problem.dtype not in ("bfloat16", "float16"):
        return f"its products are made for bfloat16 and float16, and the dtype is {problem.dtype}"
    return None


modules = Implementation(_load_modules, accepts_anything)
fused = Implementation(_load_fused, _on_gpu)


def ruled_out_by(case: Case) -> str | None:
    """Why the fused step does not run this case: it cannot, or it was not named and another mode was; None if it may.

    Reasons that depend only on the problem, such as the dtype, are the backend's own (``fused``).
    """
    asked = case.execution.backends
    if reason := _no_e4m3(case):
        return reason
    if case.workload.batch > FUSED_STEP_BATCH:
        return f"it holds at most {FUSED_STEP_BATCH} sequences in a tile, and the batch is {case.workload.batch}"
    if case.execution.mode != GRAPH and DECODE_STEP not in asked:
        return f"mode {case.execution.mode} runs the modules"
    kernels = {op for block, borrows in block_uses(case.model) for op in block_ops(block, borrows)[1]}
    if named := next((op for op in sorted(kernels) if asked.get(op, "auto") != "auto"), None):
        return f"a kernel for {named} was named, which only the modules run"
    for block, _ in case.model.uses:
        if reason := _unfused(block):
            return reason
    if case.execution.streams != 1 and not any(block.branches for block, _ in case.model.uses):
        return f"{case.model.label} has no parallel block, whose branches could run on a stream each"
    return None


def _no_e4m3(case: Case) -> str | None:
    """Why this machine's GPU cannot run a case that is stored in E4M3; None if it can, or there is none to ask."""
    execution = case.execution
    if execution.device != "cuda" or "fp8" not in (execution.weight_dtype, execution.kv_dtype):
        return None
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() >= E4M3_SINCE:
        return None
    return f"{torch.cuda.get_device_name()} has no conversions of E4M3, which came with compute capability 8.9"


FUSED_AXES = {"scale": ("none",), "value": ("separate",)}
"""Fusion axes of a parallel block to the values that the kernels support. They support every norm and op."""


def _unfused_mlp(block: Mlp) -> str | None:
    return odd_width(block.d_model, block.d_ff)


def _unfused_parallel(block: Parallel) -> str | None:
    first, second = block.branches
    if not isinstance(second, Attention) or isinstance(first, Attention):
        return "it fuses parallel blocks of a mixer with attention only"
    if reason := _unfused(first) or STEPS[type(first)].unfused_branch(first) or _unfused(second):
        return reason
    for axis, known in FUSED_AXES.items():
        if getattr(block.fusion, axis) not in known:
            return f"fusion {axis} '{getattr(block.fusion, axis)}' is not fused"
    if block.fusion.out == "joint" and block.fusion.op != "concat":
        return f"a joint projection after {block.fusion.op} is not fused"
    return None


UNFUSED: dict[type[Block], Callable[[Any], str | None]] = {
    Mlp: _unfused_mlp,
    Parallel: _unfused_parallel,
    **{kind: row.unfused for kind, row in STEPS.items()},
}
"""Kind of block to what says why its fused kernels cannot run one, or None; a kind without a row has no such kernels.

Mixers have theirs in ``kinds``; ``fused.PLANS`` has a row for the module of every other kind here.
"""


def _unfused(block: Block) -> str | None:
    """Why the fused step cannot run a block; None where it can."""
    row = UNFUSED.get(type(block))
    return row(block) if row is not None else f"it has no kernels for a block of kind {block.kind}"


def verify_step(
    plain: Callable[[], Tensor], fused: Callable[[], Tensor], caches: list[Cache], inputs: tuple[Tensor, Tensor]
) -> Check:
    """Compares one step of the modules with one of the fused step (``both_ways``).

    Raises:
        WrongResult: they differ; the text says in what and by how much.
    """
    errors = both_ways(plain, fused, caches, inputs)
    for name, error in errors.items():
        if not error <= BOUND:
            raise WrongResult(
                f"the fused decode step differs from the modules in {name}: relative error {error:.2g}, and at most "
                f"{BOUND:.2g} is allowed. Decode with --backend {DECODE_STEP}=modules."
            )
    return Check(DECODE_STEP, "fused", max(errors.values()), BOUND, 1)


def both_ways(
    plain: Callable[[], Tensor], other: Callable[[], Tensor], caches: list[Cache], inputs: tuple[Tensor, ...]
) -> dict[str, float]:
    """Relative errors, by name, of the logits and states of one step taken both ways from the same state.

    The state is restored afterwards.

    Args:
        plain, other: a step that returns logits (B, V), and reads and writes ``caches`` and ``inputs``.
        inputs: tensors that a step reads and writes, such as token and position of each sequence.
    """
    states = recurrent_states(caches)
    before = [tensor.clone() for tensor in (*states, *inputs)]

    def put_back() -> None:
        for tensor, value in zip((*states, *inputs), before, strict=True):
            tensor.copy_(value)

    def left_by(step: Callable[[], Tensor]) -> dict[str, Tensor]:
        left = {"logits": step().float().clone()}
        left |= {name: tensor.clone() for name, tensor in states_compared(caches).items()}
        put_back()
        return left

    expected, found = left_by(plain), left_by(other)
    return {name: relative_error([(found[name], value)]) for name, value in expected.items()}


def relative_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The relative error of all (found, expected) pairs together; 0 where they are equal, zeros included."""
    norms = [((found.float() - expected.float()).norm(), expected.float().norm()) for found, expected in pairs]
    difference, size = (math.hypot(*(float(norm) for norm in kind)) for kind in zip(*norms, strict=True))
    return 0.0 if difference == 0 else difference / size if size else math.inf


def step_problem(case: Case) -> Problem:
    """The problem of a case's decode step: what decides whether a backend can run it."""
    execution = case.execution
    return Problem(device=execution.device, dtype=execution.dtype, length=case.workload.context)
