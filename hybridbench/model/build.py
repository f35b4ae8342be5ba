"""build: from a spec and an execution to a model on the meta device, every operation resolved to a backend first.

Backends are resolved per mixer shape, since a kernel may support one head width and not another. So a case that cannot
run is found before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from hybridbench.arch.block import Block
from hybridbench.arch.blocks.moe import Moe
from hybridbench.arch.model import ModelSpec, mixers
from hybridbench.errors import Unsupported
from hybridbench.kernels import Backend, Problem, Resolution
from hybridbench.model.block import BlockModule, Factory, Ops
from hybridbench.model.checkpoint import learning
from hybridbench.model.choices import PassedOver, choose_in_case, choose_step, core_or_parts
from hybridbench.model.kinds import MODULES
from hybridbench.model.language import LanguageModel
from hybridbench.model.mixer import torch_dtype
from hybridbench.model.step import step_problem
from hybridbench.problem import of_op, problem_of
from hybridbench.suite.case import Case
from hybridbench.suite.ops import CORE, CORE_PARTS, DECODE_STEP, block_ops_in, block_uses, model_ops_in


@dataclass(frozen=True)
class Resolved:
    """One operation of one block shape, or of the model itself (``block`` None): what was asked for, what will run and
    why, and in how many sublayers.
    """

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
    """Checks that every block of a model has a module here. A model without can be costed, not run.

    Raises:
        Unsupported: naming the block or the variant.
    """
    blocks = dict.fromkeys([*(block for block, _ in spec.uses), *(mixer for _, mixer in mixers(spec))])
    for block in blocks:
        if type(block) not in MODULES:
            raise Unsupported(f"blocks of kind {block.kind} have no module: hybridbench can cost them, not run them.")
        _check_variants(block, block.kind)
    _check_variants(spec, "a model")


def _check_variants(part: Block | ModelSpec, what: str) -> None:
    assert is_dataclass(part), "a spec is a dataclass"
    for spec_field in fields(part):
        value = getattr(part, spec_field.name)
        if "variant" in spec_field.metadata and value != spec_field.default:
            reason = spec_field.metadata.get("reason", "")
            raise Unsupported(
                f"{what} with {spec_field.name} {value} has no module{reason}: hybridbench can cost it, not run it."
            )


@dataclass(frozen=True)
class NeededOperation:
    """One operation that a case needs, before anything is chosen for it. ``choose`` raises Unsupported where nothing
    can run it, and BadInput for an unknown backend.
    """

    case: Case
    block: Block | None
    op: str
    problem: Problem
    uses: int
    choose: Callable[[], Resolution]

    def resolved(self) -> Resolved:
        """What will run it.

        Raises:
            Unsupported: it cannot run here as asked; the text names it and the way out.
            BadInput: an unknown backend.
        """
        choice = self.choose()
        function = choice.backend.load()
        if self.op != DECODE_STEP and self.case.execution.checkpoint == "selective":
            function = learning(self.op, function)
        return Resolved(self.block, self.op, choice, self.problem, self.uses, function)


def resolve_backends(case: Case) -> list[Resolved]:
    """Every operation the case runs, per distinct block shape.

    Raises:
        Unsupported: one of them cannot run here as asked; the text names it and the way out.
        BadInput: an unknown backend.
    """
    return [asked.resolved() for asked in asked_operations(case)]


def asked_operations(case: Case) -> Iterator[NeededOperation]:
    """Every operation the case needs, per distinct block shape, with nothing chosen yet.

    Raises:
        Unsupported: a block has no module here.
    """
    spec, row = case.model, case.workload.row
    check_buildable(spec)
    if case.execution.weight_dtype is not None and any(isinstance(block, Moe) for block, _ in spec.uses):
        raise Unsupported(
            f"routed experts with weights in {case.execution.weight_dtype}: their grouped products read plain weights; "
            f"decode without --weight-dtype."
        )
    for (block, borrows), times in block_uses(spec).items():
        yield from _asked_of_block(case, block, borrows, times)
    if row.decodes:
        yield NeededOperation(case, None, DECODE_STEP, step_problem(case), 1, partial(choose_step, case))
    for op in model_ops_in(row):
        if op == DECODE_STEP:
            continue
        times = len(spec.layers) + 1 if op == "add_rms_norm" else 1
        problem = problem_of(None, case)
        yield NeededOperation(case, None, op, problem, times, partial(choose_in_case, op, problem, case))


def _asked_of_block(case: Case, block: Block, borrows: bool, times: int) -> Iterator[NeededOperation]:
    """The operations of one block shape; Mamba-2's core is one of them, or its parts are."""
    needed = dict(block_ops_in(block, borrows, case.workload.row))
    problem = problem_of(block, case, borrows)
    before: PassedOver = ()
    if CORE in needed:
        try:
            taken, before = core_or_parts(problem, case.execution.backends)
        except Unsupported as reason:
            taken = ()
            core = of_op(CORE, problem, case, step=needed[CORE])
            yield NeededOperation(case, block, CORE, core, times, partial(_refuse, reason))
        for op in {CORE, *CORE_PARTS} - set(taken):
            del needed[op]
    for op, in_step in needed.items():
        asks = of_op(op, problem, case, step=in_step)
        known = before if op in CORE_PARTS else ()
        yield NeededOperation(case, block, op, asks, times, partial(_choose, op, asks, case, known))


def _choose(op: str, problem: Problem, case: Case, before: PassedOver) -> Resolution:
    choice = choose_in_case(op, problem, case)
    return replace(choice, passed_over=before + choice.passed_over)


def _refuse(reason: Unsupported) -> Resolution:
    raise reason


def build_model(case: Case, resolved: list[Resolved]) -> LanguageModel:
    """The case's model on the meta device; ``allocate`` makes it real."""
    spec = case.model
    make = _factory(case, resolved)
    layers = list(build_layers(case, resolved))
    model = LanguageModel(layers, _ops(resolved, None), spec.d_model, spec.vocab_size, make)
    fused = [item.function for item in resolved if item.op == DECODE_STEP and item.backend.name == "fused"]
    model.fused_step = fused[0] if fused else None
    model.checkpoint = case.execution.checkpoint
    return model


def build_layers(case: Case, resolved: list[Resolved]) -> Iterator[BlockModule]:
    """The modules of the case's sublayers on the meta device, one after the other."""
    make = _factory(case, resolved)
    assert make.build is not None
    for index, block in enumerate(make.layers):
        yield make.build(block, replace(make, index=index))


def _factory(case: Case, resolved: list[Resolved]) -> Factory:
    def module(block: Block, make: Factory, **branch: bool) -> BlockModule:
        return MODULES[type(block)](block, _ops(resolved, block), make, **branch)

    spec = case.model
    return Factory(torch_dtype(case.execution.dtype), norm_eps=spec.norm_eps, layers=spec.placed, build=module)


def _ops(resolved: list[Resolved], block: Block | None) -> Ops:
    return {item.op: item.function for item in resolved if item.block == block}


def parameter_count(model: nn.Module) -> int:
    """The number of parameters of a built module; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
