"""Inputs at the size of a case: every kernel that runs on a CPU, each sequence in the batch against the same one alone.

What ``tests/gpu/test_size_gpu.py`` does at 4 x 128k, at sizes where a CPU has the memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.arch.kinds import KINDS
from hybridbench.kernels import Backend, available, backends
from hybridbench.kernels.by_rows import holds_sequences
from hybridbench.kernels.verify import BOUNDS, Inputs, inputs_at
from hybridbench.operations import OPERATIONS
from hybridbench.problem import Problem, of_op, problem_of
from hybridbench.suite.ops import block_ops, block_uses
from hybridbench.suite.sweep import Sweep, cases
from hybridbench.suite.workloads import DECODE, PREFILL

LENGTH, BATCH = 300, 3


OVER_SEQUENCES = [op for op, row in OPERATIONS.items() if row.sequences]


def problem(op: str, letter: str, dtype: str = "float32") -> Problem:
    """What a mixer of a small model asks of one operation."""
    step = op.endswith(("_step", "_decode"))
    sweep = Sweep(DECODE if step else PREFILL, pattern=f"{letter}-", scale="tiny", ctx=str(LENGTH), batch=str(BATCH))
    (case,) = cases(dataclasses.replace(sweep, device="cpu", dtype=dtype), has_gpu=False)
    for block, borrows in block_uses(case.model):
        if op in block_ops(block, borrows)[step]:
            return of_op(op, problem_of(block, case, borrows), case, step=step)
    raise AssertionError(f"no {op} in {letter}")


LETTERS = {
    op: [kind.letter for kind in KINDS if kind.at is not None and op in (*kind.spec.sequence_ops, *kind.spec.step_ops)]
    for op in OVER_SEQUENCES
}
"""The kinds of block that a pattern can have and that ask for an operation."""


def kernels() -> list[Any]:
    return [
        pytest.param(backend, letter, id=f"{op}-{name}-{letter}")
        for op in OVER_SEQUENCES
        for name, backend in backends(op).items()
        for letter in LETTERS[op]
    ]


@pytest.mark.parametrize(("backend", "letter"), kernels())
def test_every_sequence_is_what_it_is_alone(backend: Backend, letter: str) -> None:
    asked = problem(backend.op, letter)
    if reason := available(backend, asked):
        pytest.skip(reason)
    inputs, function = inputs_at(backend.op, asked, device="cpu", seed=5), backend.load()
    found = list(inputs.beside_alone(function, function, range(BATCH)))
    assert {row for row, _, _ in found} == set(range(BATCH))
    for row, name, error in found:
        assert error <= BOUNDS[asked.dtype][0], (row, name)


@pytest.mark.parametrize(("op", "letter"), [(op, letter) for op in OVER_SEQUENCES for letter in LETTERS[op]])
def test_sizes_and_strides_are_those_of_the_case(op: str, letter: str) -> None:
    asked = problem(op, letter)
    tensors = inputs_at(op, asked, device="cpu", seed=5).tensors
    batched = {name: tensor for name, tensor in tensors.items() if holds_sequences(name)}
    assert all(tensor.shape[0] == BATCH for tensor in batched.values())
    sequences = {name: tensor for name, tensor in batched.items() if "_BT" in name}
    for name, tensor in sequences.items():
        assert tensor.shape[1] == LENGTH, name
        assert tensor.dtype == torch.float32
        if op == "mamba2_core":  # its row is put together of parts that have gradients of their own
            continue
        if asked.row:
            assert tensor.stride()[:2] == (LENGTH * tensor.stride(1), tensor.stride(1)), name
            assert tensor.stride(1) >= asked.row, name
        else:
            assert tensor.stride() == (LENGTH, 1, BATCH * LENGTH), name
    heads = {"H": asked.n_heads, "K": asked.kv_heads, "T": LENGTH, "I": asked.width, "S": LENGTH, "N": asked.d_state}
    for name, tensor in batched.items():
        for letter_of, size in zip(name.rpartition("_")[2], tensor.shape, strict=True):
            assert letter_of not in heads or heads[letter_of] == size, name


def shifted(function: Callable[..., Any], places: int) -> Callable[..., Any]:
    """A kernel that, of a batch, reads the last sequence some positions off, as a wrapped offset does."""

    def wrong(x: Tensor, *others: Any, **options: Any) -> Any:
        if x.shape[0] > 1:
            x = torch.cat((x[:-1], x[-1:].roll(places, 1)))
        return function(x, *others, **options)

    return wrong


@pytest.mark.parametrize("op", ["conv1d", "ssd", "gated_delta"])
def test_a_sequence_that_reads_another_place_is_seen(op: str) -> None:
    asked = problem(op, LETTERS[op][0])
    inputs, function = inputs_at(op, asked, device="cpu", seed=5), backends(op)["reference"].load()
    errors = list(inputs.beside_alone(shifted(function, 64), function, range(BATCH)))
    assert max(error for row, _, error in errors if row < BATCH - 1) <= BOUNDS[asked.dtype][0]
    assert all(error > 0.1 for row, name, error in errors if row == BATCH - 1 and "_BT" in name)


def test_what_is_wrong_at_the_end_of_a_long_sequence_is_seen_and_what_is_no_number_too() -> None:
    length = 10_000

    def call(function: Callable[..., Any], t: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y_BTC": function(t["x_BTC"])}

    x_BTC = torch.randn(2, length, 4, generator=torch.Generator().manual_seed(0))
    x_BTC[:, -1] = 2.0  # what is wrong there is as large however the others were drawn
    inputs = Inputs({"x_BTC": x_BTC}, call)

    def at_the_end(value: float) -> Callable[[Tensor], Tensor]:
        def wrong(x: Tensor) -> Tensor:
            y = x.clone()
            y[1:, -1:] = value
            return y

        return wrong

    def worst(value: float) -> list[float]:
        return [error for _, _, error in inputs.beside_alone(at_the_end(value), lambda x: x, (0, 1))]

    assert worst(0.0)[0] == 0
    assert worst(0.0)[1] > 0.01, "one position of 10,000"
    assert math.isnan(worst(math.nan)[1])
    assert math.isnan(worst(math.inf)[1])


def test_inputs_at_size_depend_on_the_seed_alone() -> None:
    asked = problem("ssd", "M")
    one, same, other = (inputs_at("ssd", asked, device="cpu", seed=seed).tensors["x_BTHP"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_every_operation_over_sequences_has_a_mixer_that_asks_for_it() -> None:
    assert all(LETTERS.values()), LETTERS
