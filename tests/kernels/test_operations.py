"""What the table of operations says of each is so: contracts that a row added is held to without a new test."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridbench.arch.block import Convention
from hybridbench.arch.blocks.attention import Attention
from hybridbench.kernels import Backend, Problem, backends, reference_of
from hybridbench.kernels.by_rows import holds_sequences
from hybridbench.kernels.drawing import Draw, Trial
from hybridbench.kernels.loading import again_of, draw_of, named
from hybridbench.kernels.resolver import by_path
from hybridbench.kernels.verify import inputs_at
from hybridbench.operations import OPERATIONS
from hybridbench.operations.operation import DIMENSIONS, REST, Operation, elements, flops, moved_bytes
from hybridbench.problem import problem_of
from hybridbench.suite.case import Case
from hybridbench.suite.ops import CORE, CORE_PARTS, DECODE_STEP, block_ops, block_uses
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.trace import classify

SMALL = Problem(
    "cpu", "float32", head_dim=16, n_heads=4, n_kv_heads=2, d_state=16, n_angles=4, chunk_size=16, d_conv=4, window=8
)
ROWS = [pytest.param(row, id=name) for name, row in OPERATIONS.items()]
OF_TENSORS = [pytest.param(row, id=name) for name, row in OPERATIONS.items() if row.inputs]
CALLED_WITH_THEM = [pytest.param(row, id=name) for name, row in OPERATIONS.items() if row.inputs and name != "adamw"]


def asked(row: Operation, **changes: Any) -> Problem:
    """A small problem of an operation; kda has no groups."""
    return dataclasses.replace(SMALL, n_kv_heads=4 if row.name.startswith("kda") else 2, **changes)


def trials(row: Operation, **changes: Any) -> list[Trial]:
    problem = asked(row, **changes)
    return list(draw_of(row.name)(problem, Draw(problem, torch.device("cpu"), torch.Generator().manual_seed(0))))


# Paths and names.


@pytest.mark.parametrize("row", ROWS)
def test_every_path_of_a_row_leads_somewhere(row: Operation) -> None:
    table = backends(row.name)
    assert list(table) == [row.plain, *(one.name for one in (*row.backends, *row.cpu_only))]
    for name, declared in row.by_name.items():
        backend = table[name]
        assert isinstance(backend, Backend)
        assert (backend.op, backend.name, backend.limits) == (row.name, name, declared.limits)
        assert callable(backend.load)
        reason = backend.unsupported(SMALL)
        assert reason is None or not reason.endswith(".")
    assert set(row.on_cpu) <= set(table)
    assert callable(table[row.plain].load())
    if row.inputs:
        assert table[row.plain].load() is reference_of(row.name)
        assert reference_of(row.name).__name__ == row.name
        assert next(iter(trials(row))).tensors


def test_a_persons_own_function_is_found_by_the_same_loader() -> None:
    assert named("hybridbench.kernels.scan.reference:ssd") is reference_of("ssd")
    assert by_path("ssd", "hybridbench.kernels.scan.reference:ssd").load() is reference_of("ssd")


def test_only_a_whole_step_is_called_with_no_tensors() -> None:
    assert [name for name, row in OPERATIONS.items() if not row.inputs] == [DECODE_STEP]


# Shapes.


def joined(row: Operation, made: Any) -> tuple[Tensor, ...]:
    """What an operation returned, one tensor for each output of its row."""
    if any(tensor.apart for tensor in row.tensors):
        return (torch.stack(made),)
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("row", CALLED_WITH_THEM)
def test_inputs_are_the_references_parameters(row: Operation) -> None:
    """By name and in order. What takes any leading dimensions names its parameter without the letters."""
    parameters = inspect.signature(reference_of(row.name)).parameters.values()
    tensors = row.tensors[: len(row.inputs)]
    given = [tensor.name for tensor in tensors if not tensor.optional]
    positional = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert len(positional) == len(given)
    assert all(name in (tensor, tensor.rpartition("_")[0]) for name, tensor in zip(positional, given, strict=True))
    by_name = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert by_name == {*row.settings, *(tensor.name for tensor in tensors if tensor.optional)}


@pytest.mark.parametrize("row", OF_TENSORS)
def test_letters_have_a_meaning_and_sequences_a_row(row: Operation) -> None:
    used = {letter for tensor in row.tensors for letter in tensor.dimensions}
    assert used <= {*DIMENSIONS, *row.dimensions}
    assert set(row.dimensions) <= used
    if row.sequences:
        assert any(tensor.dimensions.startswith("B") for tensor in row.tensors)


@pytest.mark.parametrize("row", CALLED_WITH_THEM)
def test_drawn_tensors_have_the_shapes_and_dtypes_of_the_row(row: Operation) -> None:
    """One letter is one size in a trial's inputs and outputs. Widths are the problem's; draws have few heads."""
    same = "PVNRW" if row.sequences else ""
    by_name = {tensor.name: tensor for tensor in row.tensors}
    problem, found = asked(row, dtype="bfloat16"), 0
    for trial in trials(row, dtype="bfloat16"):
        sizes: dict[str, int] = {}
        returned: list[Any] = []

        def watched(*given: Any, _returned: list[Any] = returned, **options: Any) -> Any:
            made = reference_of(row.name)(*given, **options)
            _returned.append(made)
            return made

        trial.call(watched, trial.tensors)
        outs = joined(row, returned[0])
        drawn = {name: tensor for name, tensor in trial.tensors.items() if name in by_name}
        made = dict(zip([tensor.name for tensor in row.tensors[len(row.inputs) :]], outs, strict=True))
        found += len(drawn)
        for name, tensor in (drawn | made).items():
            said = by_name[name]
            assert tensor.dim() == len(said.dimensions), name
            for letter, size in zip(said.dimensions, tensor.shape, strict=True):
                assert sizes.setdefault(letter, size) == size, f"{letter} of {name}"
            if not said.in_place:  # a state is kept in any dtype
                assert str(tensor.dtype) == f"torch.{said.dtype or 'bfloat16'}", name
        assert all(sizes[letter] == row.size(letter, problem) for letter in same if letter in sizes)
    assert found or row.name == "swiglu"  # its one tensor is drawn under another name


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.sequences], ids=lambda row: row.name)
def test_inputs_at_size_have_as_many_elements_as_the_problem_says(row: Operation) -> None:
    sizes = {"batch": 3, "length": 40, "width": 96, "conv_channels": 96}
    problem = asked(row, **sizes)
    if row.name == CORE:  # whose width is its heads'
        problem = dataclasses.replace(problem, width=problem.n_heads * problem.head_dim)
    counts = elements(row, problem)
    found = inputs_at(row.name, problem, device="cpu", seed=0).tensors
    known = {name: tensor.numel() for name, tensor in found.items() if name in counts}
    assert known == {name: counts[name] for name in known}
    inputs = {tensor.name for tensor in row.tensors[: len(row.inputs)] if not tensor.optional}
    assert inputs - known.keys() <= ({"packed_BTE"} if row.name == CORE else set())


@pytest.mark.parametrize("row", CALLED_WITH_THEM)
def test_as_many_tensors_come_back_as_the_row_says(row: Operation) -> None:
    returned = []

    def watched(*given: Any, **options: Any) -> Any:
        made = reference_of(row.name)(*given, **options)
        returned.append(len(joined(row, made)))
        return made

    trial = trials(row)[0]
    trial.call(watched, trial.tensors)
    assert set(returned) == {len(row.outputs)}


def test_bytes_that_must_move_by_hand() -> None:
    row = OPERATIONS["ssd_step"]
    problem = Problem("cuda", "bfloat16", head_dim=64, n_heads=32, d_state=128, n_groups=1, batch=4)
    state, x, dt, small = 4 * 32 * 64 * 128, 4 * 32 * 64, 4 * 32, 3 * 32
    assert moved_bytes(row, problem) == 2 * (2 * state + 2 * x + dt + 2 * 4 * 128) + 4 * small


def test_norms_of_a_mixer_s_output_are_as_wide_as_a_value_head_or_as_its_block_says() -> None:
    row = OPERATIONS["norm_gate"]
    problem = Problem("cuda", "bfloat16", head_dim=64, n_heads=32, batch=4, length=9)
    whole = dataclasses.replace(problem, norm_width=2048)
    for asked_, width, norms in ((problem, 64, 32), (whole, 2048, 1)):
        counts = elements(row, asked_)
        assert (counts["weight_V"], counts["y_BTHV"]) == (width, 4 * 9 * 2048)
        assert flops(row, asked_) == 4 * 9 * (8 * 2048 + 3 * norms)
        drawn = draw_of("norm_gate")(asked_, Draw(asked_, torch.device("cpu"), torch.Generator()))
        assert next(iter(drawn)).tensors["weight_V"].numel() == width


# FLOPs.


def counted(row: Operation, problem: Problem) -> tuple[int, Problem]:
    """FLOPs of products and convolutions of the reference implementation, as PyTorch counts them."""
    given = inputs_at(row.name, problem, device="cpu", seed=0)
    with FlopCounterMode(display=False) as counter:
        given.run(reference_of(row.name))
    return int(counter.get_total_flops()), problem


def test_attention_is_what_pytorch_counts_without_what_a_mask_hides() -> None:
    row = OPERATIONS["attention"]
    total, problem = counted(row, asked(row, batch=3, length=40, window=None, v_head_dim=24))
    spec = Attention(d_model=1, n_heads=4, n_kv_heads=2, head_dim=16, v_head_dim=24)
    assert total == flops(row, problem) + 3 * spec.full_mask_extra_flops(40)
    assert flops(row, problem) == 3 * 2 * 4 * (16 + 24) * (40 * 41 // 2)


@pytest.mark.parametrize("op", ["attention_decode", "conv1d"])
def test_products_are_what_pytorch_counts(op: str) -> None:
    row = OPERATIONS[op]
    total, problem = counted(row, asked(row, batch=3, length=40, width=64, conv_channels=64, window=None))
    assert total == flops(row, problem) > 0


@pytest.mark.parametrize(("op", "sizes"), [
    ("experts", {"d_model": 64, "d_expert": 32, "n_experts": 5, "top_k": 2}),
    ("linear_cross_entropy", {"width": 64, "vocabulary": 1000}),
])  # fmt: skip
def test_products_of_tokens_are_what_pytorch_counts(op: str, sizes: dict[str, int]) -> None:
    """The draws have sizes of their own."""
    row = OPERATIONS[op]
    for trial in trials(row):
        problem = Problem("cpu", "float32", batch=1, length=int(trial.label.split()[0]), training=True, **sizes)
        given = {name: tensor.requires_grad_(tensor.is_floating_point()) for name, tensor in trial.tensors.items()}
        with FlopCounterMode(display=False) as counter:
            made = trial.call(reference_of(op), given)
            forward = counter.get_total_flops()
            torch.stack([tensor.sum() for tensor in made.values()]).sum().backward()
        assert forward == flops(row, problem)
        assert counter.get_total_flops() == flops(row, problem, training=True)


@pytest.mark.parametrize(
    ("scan", "step"),
    [
        ("ssd", "ssd_step"),
        ("conv1d", "conv1d_step"),
        ("selective_scan", "selective_step"),
        ("mamba3_scan", "mamba3_step"),
        ("gated_delta", "gated_delta_step"),
        ("kda", "kda_step"),
        ("lightning", "lightning_step"),
        ("rwkv7", "rwkv7_step"),
    ],
)
def test_a_recurrence_over_a_sequence_is_so_many_steps(scan: str, step: str) -> None:
    problem = dataclasses.replace(SMALL, batch=3, length=40, width=64, conv_channels=64)
    assert flops(OPERATIONS[scan], problem) == 40 * flops(OPERATIONS[step], problem) > 0
    assert flops(OPERATIONS[step], problem, training=True) == flops(OPERATIONS[step], problem)
    assert flops(OPERATIONS[scan], problem, training=True) == 3 * flops(OPERATIONS[scan], problem)


def tiny(pattern: str, workload: str) -> Case:
    sweep = Sweep(workload, pattern=pattern, scale="tiny", ctx="64", batch="2", device="cpu")
    (case,) = cases(sweep, has_gpu=False)
    return case


@pytest.mark.parametrize("workload", ["train", "prefill", "decode"])
@pytest.mark.parametrize("pattern", ["*-", "S-", "M-", "m-", "3-", "G-", "K-", "L-", "7-", "*E"])
def test_operations_of_a_block_add_up_to_its_core(pattern: str, workload: str) -> None:
    """What ``arch`` counts of a block's core, and of routed experts, from the problems that its operations get."""
    case = tiny(pattern, workload)
    for block, borrows in block_uses(case.model):
        sequence, step = block_ops(block, borrows)
        problem = problem_of(block, case, borrows)
        if workload == "decode":
            tokens, ops = 1, step
            caches = min(65, problem.window + problem.sinks if problem.window else 65)  # the new token has its slot
            problem = dataclasses.replace(problem, length=caches if block.mixers else 1, window=None, sinks=0)
        else:
            tokens, ops = (3 if workload == "train" else 1) * 64, sequence
        counted_by_arch = [op for op in ops if OPERATIONS[op].spends != REST and not (CORE in ops and op in CORE_PARTS)]
        found = sum(flops(OPERATIONS[op], problem, workload == "train") for op in counted_by_arch)
        cores = sum(core.total for core in block.cores(workload, 64, Convention.EXACT).values())
        assert found == 2 * (cores + tokens * block.products().get("moe experts", 0)), block.kind


@pytest.mark.parametrize("row", ROWS)
def test_every_operation_has_flops_but_a_whole_step(row: Operation) -> None:
    sizes = {"d_model": 64, "d_expert": 32, "n_experts": 5, "top_k": 2, "vocabulary": 100, "n_params": 7}
    problem = asked(row, batch=3, length=40, width=64, conv_channels=64, **sizes)
    if row.inputs:
        once = flops(row, problem)
        assert once > 0
        assert flops(row, problem, training=True) in (once, 3 * once)
    else:
        with pytest.raises(ValueError, match="depend on its model"):
            flops(row, problem)


# Verification, activations kept, and traces.


@pytest.mark.parametrize("row", OF_TENSORS)
def test_what_verification_allows_is_allowed_to_tensors_that_are_drawn(row: Operation) -> None:
    drawn = {name for trial in trials(row, training=True) if trial.gradients for name in trial.tensors}
    assert {*row.cancels, *row.sums, *row.sums.values()} <= drawn


@pytest.mark.parametrize("row", OF_TENSORS)
def test_angles_are_inputs_that_a_step_updates(row: Operation) -> None:
    assert {*row.angles} <= {tensor.name for tensor in row.tensors[: len(row.inputs)] if tensor.in_place}


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.sequences], ids=lambda row: row.name)
def test_an_operation_over_sequences_has_rows_for_them(row: Operation) -> None:
    assert any(holds_sequences(name) for name in trials(row)[0].tensors)


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.again], ids=lambda row: row.name)
def test_what_is_made_again_is_what_was_made(row: Operation) -> None:
    again = again_of(row.name)
    assert again is not None

    def made_twice(*given: Any, **options: Any) -> Any:
        made, recipes = again(reference_of(row.name), given, options)
        for tensor, function, arguments in recipes:
            assert isinstance(tensor, Tensor)
            torch.testing.assert_close(function(*arguments), tensor)
        return made

    for trial in trials(row, training=True):
        trial.call(made_twice, trial.tensors)


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.kernels], ids=lambda row: row.name)
def test_names_of_kernels_are_of_the_operations_class(row: Operation) -> None:
    plain = [name for name in row.kernels if re.fullmatch(r"\w+", name)]
    assert {classify(name) for name in plain} <= {row.spends}
