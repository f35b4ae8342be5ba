"""What the table of operations says of each is so: contracts that a row added is held to without a new test."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridbench.count.names import classify
from hybridbench.kernels import OPERATIONS, Operation, Problem
from hybridbench.kernels.by_rows import holds_sequences
from hybridbench.kernels.inputs import Draw, Trial

SMALL = Problem(
    "cpu", "float32", head_dim=16, n_heads=4, n_kv_heads=2, d_state=16, n_angles=4, chunk_size=16, d_conv=4, window=8
)
ROWS = [pytest.param(row, id=name) for name, row in OPERATIONS.items()]


def trials(row: Operation) -> list[Trial]:
    n_kv_heads = 4 if row.name.startswith("kda") else 2
    problem = dataclasses.replace(SMALL, n_kv_heads=n_kv_heads, training=True)
    return list(row.draw(problem, Draw(problem, torch.device("cpu"), torch.Generator().manual_seed(0))))


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_found_by_its_name_and_names_backends_of_its_own(row: Operation) -> None:
    assert OPERATIONS[row.name] is row
    assert row.reference.__name__ == row.name
    names = [backend.name for backend in (*row.backends, *row.cpu_only)]
    assert len(set(names)) == len(names)
    assert set(row.on_cpu) <= set(names)


@pytest.mark.parametrize("row", ROWS)
def test_as_many_tensors_come_back_as_the_row_says(row: Operation) -> None:
    returned = []

    def watched(*given: Any, **options: Any) -> Any:
        made = row.reference(*given, **options)
        returned.append(len(made) if isinstance(made, tuple) else 1)
        return made

    trial = trials(row)[0]
    trial.call(watched, trial.tensors)
    assert set(returned) == {row.outputs}


@pytest.mark.parametrize("row", ROWS)
def test_what_verification_allows_is_allowed_to_tensors_that_are_drawn(row: Operation) -> None:
    drawn = {name for trial in trials(row) if trial.gradients for name in trial.tensors}
    assert {*row.cancels, *row.sums, *row.sums.values()} <= drawn


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.sequences], ids=lambda row: row.name)
def test_an_operation_over_sequences_has_rows_for_them(row: Operation) -> None:
    assert any(holds_sequences(name) for name in trials(row)[0].tensors)


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.again], ids=lambda row: row.name)
def test_what_is_made_again_is_what_was_made(row: Operation) -> None:
    again = row.again
    assert again is not None

    def made_twice(*given: Any, **options: Any) -> Any:
        made, recipes = again(row.reference, given, options)
        for tensor, function, arguments in recipes:
            assert isinstance(tensor, Tensor)
            torch.testing.assert_close(function(*arguments), tensor)
        return made

    for trial in trials(row):
        trial.call(made_twice, trial.tensors)


@pytest.mark.parametrize("row", [row for row in OPERATIONS.values() if row.kernels], ids=lambda row: row.name)
def test_names_of_kernels_are_of_the_operations_class(row: Operation) -> None:
    plain = [name for name in row.kernels if re.fullmatch(r"\w+", name)]
    assert {classify(name) for name in plain} <= {row.spends}
