"""build: from a spec and an execution to a model on the meta device, every operation resolved to a backend first.

Backends are resolved per mixer shape, since a kernel may take one head width and refuse another; what cannot run is
found before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from hybridbench.arch.attention import Attention
from hybridbench.arch.block import Block, Mixer
from hybridbench.arch.delta import GatedDelta, Kda
from hybridbench.arch.mamba1 import Mamba1
from hybridbench.arch.mamba2 import Mamba2
from hybridbench.arch.mamba3 import Mamba3
from hybridbench.arch.mlp import Mlp
from hybridbench.arch.model import ModelSpec, mixers
from hybridbench.arch.moe import Moe
from hybridbench.arch.parallel import Parallel
from hybridbench.errors import Unsupported
from hybridbench.kernels import Backend, Problem, Resolution
from hybridbench.model.attention import AttentionModule
from hybridbench.model.checkpoint import learning
from hybridbench.model.choices import PassedOver, choose_in_case, choose_step, core_or_parts
from hybridbench.model.delta import DeltaModule
from hybridbench.model.language import LanguageModel
from hybridbench.model.mamba1 import Mamba1Module
from hybridbench.model.mamba2 import Mamba2Module
from hybridbench.model.mamba3 import Mamba3Module
from hybridbench.model.mixer import Factory, MixerModule, Ops, torch_dtype
from hybridbench.model.mlp import MlpModule
from hybridbench.model.moe import MoeModule
from hybridbench.model.parallel import ParallelModule
from hybridbench.model.step import step_problem
from hybridbench.problem import of_op, problem_of
from hybridbench.suite import (
    CORE,
    CORE_PARTS,
    DECODE,
    DECODE_STEP,
    GENERATE,
    TRAIN,
    Case,
    block_ops,
    block_uses,
)


@dataclass(frozen=True)
class Resolved:
    """One operation of one block shape (None: the model's own): what was asked for, what will run and why, and in how
    many sublayers."""

    block: Block | None
    op: str
    choice: Resolution
    problem: Problem
    uses: int
    function: Callable[..., Any]

    @property
    def asked(self) -> str:
        """The backend asked for."""
        return self.choice.asked

    @property
    def backend(self) -> Backend:
        """The backend that will run."""
        return self.choice.backend


def check_buildable(spec: ModelSpec) -> None:
    """Refuses a model that has no modules here: it can be costed, not run.

    Raises:
        Unsupported: naming the block or the variant.
    """
    blocks = dict.fromkeys([*(spec.blocks[symbol] for symbol in spec.counts), *(mixer for _, mixer in mixers(spec))])
    for part in (*blocks, spec):
        if isinstance(part, Block) and not isinstance(part, _BUILT):
            raise Unsupported(f"blocks of kind {part.kind} have no module: hybridbench can cost them, not run them.")
        what = part.kind if isinstance(part, Block) else "a model"
        for spec_field in fields(part):  # type: ignore[arg-type]
            value = getattr(part, spec_field.name)
            if "variant" in spec_field.metadata and value != spec_field.default:
                reason = spec_field.metadata.get("reason", "")
                raise Unsupported(
                    f"{what} with {spec_field.name} {value} has no module{reason}: hybridbench can cost it, not run it."
                )


_BUILT = (Attention, Mamba1, Mamba2, Mamba3, GatedDelta, Kda, Mlp, Moe, Parallel)


def resolve_backends(case: Case) -> list[Resolved]:
    """Every operation the case runs, per distinct block shape.

    Raises:
        Unsupported: one of them cannot run here as asked; the text names it and the way out.
        BadInput: an unknown backend.
    """
    spec, kind = case.model, case.workload.kind
    check_buildable(spec)

    def function(op: str, backend: Backend) -> Callable[..., Any]:
        return learning(op, backend.load()) if case.execution.checkpoint == "selective" else backend.load()

    found = []
    for (block, borrows), times in block_uses(spec).items():
        sequence, step = block_ops(block, borrows)
        needed = dict.fromkeys((sequence if kind != DECODE else ()) + (step if kind in (DECODE, GENERATE) else ()))
        problem = problem_of(block, case, borrows)
        before: PassedOver = ()
        if CORE in needed:
            taken, before = core_or_parts(problem, case.execution.backends)
            for op in {CORE, *CORE_PARTS} - set(taken):
                del needed[op]
        for op in needed:
            asks = of_op(op, problem, case, step=op in step)
            choice = choose_in_case(op, asks, case)
            if op in CORE_PARTS:
                choice = replace(choice, passed_over=before + choice.passed_over)
            found.append(Resolved(block, op, choice, asks, times, function(op, choice.backend)))
    if kind in (DECODE, GENERATE):
        choice = choose_step(case)
        found.append(Resolved(None, DECODE_STEP, choice, step_problem(case), 1, choice.backend.load()))
    of_model = {} if kind == DECODE else {"add_rms_norm": len(spec.layers) + 1}
    if kind == TRAIN:
        of_model |= {"linear_cross_entropy": 1, "adamw": 1}
    for op, times in of_model.items():
        problem = problem_of(None, case)
        choice = choose_in_case(op, problem, case)
        found.append(Resolved(None, op, choice, problem, times, function(op, choice.backend)))
    return found


def build_model(case: Case, resolved: list[Resolved]) -> LanguageModel:
    """The case's model on the meta device; ``allocate`` makes it real."""
    make = Factory(torch_dtype(case.execution.dtype))
    spec = case.model

    def ops(block: Block | None) -> Ops:
        return {item.op: item.function for item in resolved if item.block == block}

    def mixer(block: Mixer, borrows_value: bool = False, projects: bool = True) -> MixerModule:
        settings = {"borrows_value": borrows_value, "projects": projects}
        if isinstance(block, Attention):
            return AttentionModule(block, ops(block), make, **settings)
        if isinstance(block, Mamba1):
            return Mamba1Module(block, ops(block), make, **settings)
        if isinstance(block, Mamba3):
            return Mamba3Module(block, ops(block), make, norm_eps=spec.norm_eps, **settings)
        if isinstance(block, GatedDelta | Kda):
            return DeltaModule(block, ops(block), make, norm_eps=spec.norm_eps, **settings)
        assert isinstance(block, Mamba2), f"no module for a mixer of kind {block.kind}"
        return Mamba2Module(block, ops(block), make, norm_eps=spec.norm_eps, **settings)

    def module(block: Block) -> nn.Module:
        if isinstance(block, Mlp):
            return MlpModule(block, ops(block), make)
        if isinstance(block, Moe):
            return MoeModule(block, ops(block), make)
        if isinstance(block, Parallel):
            projects = block.fusion.out == "separate"
            first, second = (
                mixer(branch, borrows_value=index == block.borrower, projects=projects)
                for index, branch in enumerate(block.branches)
            )
            return ParallelModule(block, ops(block), (first, second), make, spec.norm_eps)
        assert isinstance(block, Mixer), f"no module for a block of kind {block.kind}"
        return mixer(block)

    layers = [module(spec.blocks[symbol]) for symbol in spec.layers]
    model = LanguageModel(layers, ops(None), spec.d_model, spec.vocab_size, spec.norm_eps, make)
    fused = [item.function for item in resolved if item.op == DECODE_STEP and item.backend.name == "fused"]
    model.fused_step = fused[0] if fused else None
    model.checkpoint = case.execution.checkpoint
    return model


def parameter_count(model: nn.Module) -> int:
    """Parameters of a built module, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
