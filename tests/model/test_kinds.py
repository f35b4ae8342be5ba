"""What every row of ``model.kinds`` must have, and what every kind of block without a row says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from every_block import D_MODEL, EVERY_BLOCK
from torch import nn
from variants import VARIANTS

from hybridbench.arch.activations import activations
from hybridbench.arch.block import Block, Mixer, Storage
from hybridbench.arch.families import pattern_spec
from hybridbench.arch.kinds import BLOCKS
from hybridbench.arch.kinds import KINDS as ROWS
from hybridbench.arch.model import ModelSpec
from hybridbench.errors import BadInput, Unsupported
from hybridbench.kernels import backends
from hybridbench.model.block import BlockModule
from hybridbench.model.build import build_model, check_buildable, resolve_backends
from hybridbench.model.kinds import MODULES, STEPS
from hybridbench.model.step import UNFUSED
from hybridbench.problem import Problem, problem_of
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.ops import block_ops, block_uses
from hybridbench.suite.workloads import GENERATE, Workload

STORAGE = Storage.of("float32")
DEVICE = torch.device("cpu")
KINDS = {cls.kind: cls for cls in MODULES}
OTHERS = {kind: cls for kind, cls in BLOCKS.items() if cls not in MODULES}


def case_of(spec: ModelSpec) -> Case:
    return Case(spec, Workload(GENERATE, 64, 2, 32), Execution("cpu", "float32", "eager"))


def holding(kind: str) -> Iterator[ModelSpec]:
    """The models of ``variants`` with a block of a kind, branches included."""
    for spec in VARIANTS.values():
        if any(block.kind == kind for block, _ in block_uses(spec)):
            yield spec


def block_of(spec: ModelSpec, kind: str) -> Block:
    return next(block for block, _ in block_uses(spec) if block.kind == kind)


@pytest.fixture(scope="module")
def built() -> dict[str, tuple[Block, BlockModule]]:
    """Kind to a block and its module, alone or a branch, allocated on the CPU."""
    found: dict[str, tuple[Block, BlockModule]] = {}
    for kind in KINDS:
        spec = next(holding(kind))
        case = case_of(spec)
        model = build_model(case, resolve_backends(case))
        model.allocate(DEVICE, 0)
        modules = (module for module in model.modules() if isinstance(module, BlockModule))
        wanted, made = block_of(spec, kind), MODULES[KINDS[kind]]
        found[kind] = wanted, next(m for m in modules if type(m) is made and getattr(m, "spec", wanted) == wanted)
    return found


def test_every_kind_with_operations_has_a_module_and_no_other() -> None:
    assert {cls.kind for cls in MODULES} == {kind for kind, cls in BLOCKS.items() if cls.sequence_ops}
    assert all(BLOCKS[cls.kind] is cls for cls in MODULES), "a row of arch.kinds has the very class"


def test_what_may_take_mamba2_s_place_or_branch_runs() -> None:
    assert {kind.spec for kind in ROWS if kind.mixer or kind.branches} <= set(MODULES)
    for spec, module in MODULES.items():
        assert getattr(module, "mixes") != spec.feed_forward, spec  # noqa: B009


def test_the_fused_step_plans_the_modules_of_the_blocks_it_takes() -> None:
    pytest.importorskip("triton", reason="fused kernels are Triton's")
    from hybridbench.model.fused import PLANS

    assert {MODULES[spec] for spec in set(UNFUSED) - set(STEPS)} == set(PLANS)
    assert all(issubclass(spec, Mixer) and spec in MODULES for spec in STEPS)


@pytest.mark.parametrize("kind", KINDS)
def test_operations_have_backends(kind: str) -> None:
    cls = KINDS[kind]
    for op in (*cls.sequence_ops, *cls.step_ops):
        assert backends(op), op


@pytest.mark.parametrize("kind", KINDS)
def test_absent_operations_are_among_its_own(kind: str) -> None:
    for spec in holding(kind):
        for block, borrows in block_uses(spec):
            own = {*block.sequence_ops, *block.step_ops}
            absent = set(block.absent_ops(borrows))
            assert absent <= own
            assert {op for ops in block_ops(block, borrows) for op in ops} == own - absent


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_fields_of_a_problem(kind: str) -> None:
    spec = next(holding(kind))
    block = block_of(spec, kind)
    sizes = block.sizes()
    assert sizes
    assert set(sizes) < {field.name for field in fields(Problem)}
    problem = problem_of(block, case_of(spec))
    assert {name: getattr(problem, name) for name in sizes} == sizes
    assert problem.row == block.packed_row


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_keeps_is_known(kind: str) -> None:
    assert activations(block_of(next(holding(kind)), kind), STORAGE).saved


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_a_rule_for_another_width(kind: str) -> None:
    spec = pattern_spec(next(holding(kind)).pattern, "350m")
    block = block_of(spec, kind)
    twice = block.scaled(2 * spec.d_model, spec.d_model)
    assert type(twice) is type(block)
    assert 3.5 < twice.params() / block.params() < 4.1
    assert block.scaled(spec.d_model, spec.d_model) == block


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_has_the_parameters_of_its_spec(kind: str, built: dict[str, tuple[Block, BlockModule]]) -> None:
    block, module = built[kind]
    count = sum(parameter.numel() for parameter in module.parameters())
    if isinstance(block, Mixer) and getattr(module, "out_proj", None) is None:
        count += block.out_width * block.d_model  # projected by its parallel block
    if getattr(module, "borrows_value", False):
        pytest.skip("a borrowing branch has fewer")
    assert count == block.params()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_is_as_large_as_its_spec_says(kind: str, built: dict[str, tuple[Block, BlockModule]]) -> None:
    block, module = built[kind]
    cache = module.new_cache(1, 64, STORAGE, DEVICE)
    assert (cache is not None) == module.mixes
    if cache is None:
        assert block.cache(64, STORAGE).total == 0
        return
    found = {name: sum(x.nbytes for x in tensors) for name, tensors in cache.tensors().items()}
    expected = block.cache(64, STORAGE)
    assert {name: getattr(expected, name) for name in found} == found
    assert sum(found.values()) == expected.total
    assert cache.compared()


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_model_s_seed_is_drawn(kind: str, built: dict[str, tuple[Block, BlockModule]]) -> None:
    _, module = built[kind]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in (*module.parameters(), *module.buffers()))
    assert any(isinstance(part, nn.Linear) for part in module.modules())


@pytest.mark.parametrize("kind", OTHERS)
def test_a_kind_without_a_module_says_so(kind: str) -> None:
    block = next(one for one in EVERY_BLOCK.values() if one.kind == kind)
    letter = next(row.letter for row in ROWS if row.spec.kind == kind)
    blocks = {letter: block, "*": EVERY_BLOCK["attention"]}  # a model needs a block that mixes positions
    spec = ModelSpec("two blocks", "custom", D_MODEL, vocab_size=97, pattern=f"{letter}*", blocks=blocks)
    assert block_ops(block) == ((), ())
    with pytest.raises(Unsupported, match="hybridbench can cost"):
        check_buildable(spec)
    with pytest.raises(BadInput, match=f"no memory formula for blocks of kind {kind}"):
        activations(block, STORAGE)
    with pytest.raises(BadInput, match="match it by blocks"):
        block.scaled(64, 32)
