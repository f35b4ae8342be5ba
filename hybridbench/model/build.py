"""build: from a spec and an execution to a model on the meta device, every operation resolved to a backend first.

Backends are resolved per mixer shape, since a kernel may take one head width and refuse another; what cannot run is
found before anything is allocated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from hybridbench.arch.attention import Attention
from hybridbench.arch.block import Block, Mixer
from hybridbench.arch.mamba2 import Mamba2
from hybridbench.arch.mlp import Mlp
from hybridbench.arch.model import mixers
from hybridbench.arch.moe import Moe
from hybridbench.arch.parallel import Parallel
from hybridbench.kernels import Backend, Problem, resolve
from hybridbench.model.attention import AttentionModule
from hybridbench.model.language import LanguageModel
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mixer import Factory, MixerModule, Ops, torch_dtype
from hybridbench.model.mlp import MlpModule
from hybridbench.model.moe import MoeModule
from hybridbench.model.parallel import ParallelModule
from hybridbench.suite import DECODE, GENERATE, OPS_OF_KIND, TRAIN, Case


@dataclass(frozen=True)
class Resolved:
    """One operation of one block shape (None: the head's loss): what was asked for, what will run, and in how many
    sublayers."""

    block: Block | None
    op: str
    asked: str
    backend: Backend
    problem: Problem
    uses: int
    function: Callable[..., Any]


def problem_of(block: Block | None, case: Case) -> Problem:
    """What a block asks of its kernels in this case; ``None`` is the head's loss."""
    work, execution = case.workload, case.execution
    common = {
        "device": execution.device,
        "dtype": execution.dtype,
        "training": work.kind == TRAIN,
        "length": work.context,
    }
    if isinstance(block, Attention):
        return Problem(
            head_dim=block.head_dim,
            v_head_dim=block.v_head_dim,
            n_heads=block.n_heads,
            n_kv_heads=block.n_kv_heads,
            window=block.window,
            sinks=block.sinks,
            **common,  # type: ignore[arg-type]
        )
    if isinstance(block, Mamba2):
        return Problem(
            head_dim=block.head_dim,
            n_heads=block.n_heads,
            d_state=block.d_state,
            n_groups=block.n_groups,
            chunk_size=block.chunk_size,
            d_conv=block.d_conv,
            **common,  # type: ignore[arg-type]
        )
    return Problem(**common)  # type: ignore[arg-type]


def resolve_backends(case: Case) -> list[Resolved]:
    """Every operation the case runs, per distinct block shape.

    Raises:
        Unsupported: one of them cannot run here as asked; the text names it and the way out.
        BadInput: an unknown backend.
    """
    spec, asked_for, kind = case.model, case.execution.backends, case.workload.kind
    uses: Counter[Block] = Counter()
    for symbol, mixer in mixers(spec):
        uses[mixer] += spec.counts[symbol]
    for symbol, block in spec.blocks.items():
        if isinstance(block, Moe):
            uses[block] += spec.counts[symbol]
    found = []
    for block, times in uses.items():
        sequence, step = OPS_OF_KIND[block.kind]
        needed = (sequence if kind != DECODE else ()) + (step if kind in (DECODE, GENERATE) else ())
        problem = problem_of(block, case)
        for op in dict.fromkeys(needed):
            asked = asked_for.get(op, "auto")
            # A window is kept by the ring buffer: the decode kernel sees a short cache without one.
            of_op = replace(problem, window=None, sinks=0) if op == "attention_decode" else problem
            backend = resolve(op, asked, of_op)
            found.append(Resolved(block, op, asked, backend, of_op, times, backend.load()))
    if kind == TRAIN:
        asked = asked_for.get("linear_cross_entropy", "auto")
        problem = problem_of(None, case)
        backend = resolve("linear_cross_entropy", asked, problem)
        found.append(Resolved(None, "linear_cross_entropy", asked, backend, problem, 1, backend.load()))
    return found


def build_model(case: Case, resolved: list[Resolved]) -> LanguageModel:
    """The case's model on the meta device; ``allocate`` makes it real."""
    make = Factory(torch_dtype(case.execution.dtype))
    spec = case.model

    def ops(block: Block | None) -> Ops:
        return {item.op: item.function for item in resolved if item.block == block}

    def mixer(block: Mixer, borrows_value: bool = False, projects: bool = True) -> MixerModule:
        if isinstance(block, Attention):
            return AttentionModule(block, ops(block), make, borrows_value=borrows_value, projects=projects)
        assert isinstance(block, Mamba2), f"no module for a mixer of kind {block.kind}"
        return Mamba2Module(
            block, ops(block), make, norm_eps=spec.norm_eps, borrows_value=borrows_value, projects=projects
        )

    def module(block: Block) -> nn.Module:
        if isinstance(block, Mlp):
            return MlpModule(block, make)
        if isinstance(block, Moe):
            return MoeModule(block, ops(block), make)
        if isinstance(block, Parallel):
            projects = block.fusion.out == "separate"
            first, second = (
                mixer(branch, borrows_value=index == block.borrower, projects=projects)
                for index, branch in enumerate(block.branches)
            )
            return ParallelModule(block, (first, second), make, spec.norm_eps)
        assert isinstance(block, Mixer), f"no module for a block of kind {block.kind}"
        return mixer(block)

    layers = [module(spec.blocks[symbol]) for symbol in spec.layers]
    return LanguageModel(layers, ops(None), spec.d_model, spec.vocab_size, spec.norm_eps, make)


def parameter_count(model: nn.Module) -> int:
    """Parameters of a built module, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
