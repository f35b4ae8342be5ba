"""Sizes stand once: kernels, workloads and predictions read the same, and no copy of one is left."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import hybridbench
from hybridbench.arch.blocks.mamba2 import Mamba2
from hybridbench.model.mixer import padding
from hybridbench.sizes import LOSS_CHUNK_BYTES, aligned, loss_rows, rows_within

SOURCES = Path(hybridbench.__file__).parent
SIZES = ("ROW_ALIGNED", "TRAIN_BATCHES", "FUSED_STEP_BATCH", "LOSS_CHUNK_BYTES", "SELECTIVE_SCAN_CHUNK")


def test_chunks_of_the_loss_are_few_and_equal() -> None:
    row = 128_256 * 2
    assert loss_rows(32_768, row) == 8192  # four
    assert loss_rows(8400, row) == 4352  # two of 4,200, in whole tiles of 256
    assert loss_rows(100, row) == 100
    assert loss_rows(1 << 20, row) * row <= LOSS_CHUNK_BYTES
    assert rows_within(1000, 5, 2000) == 1
    assert rows_within(1000, 1000, 10) == 64


@pytest.mark.parametrize("columns", [1, 7, 8, 4882])
def test_rows_start_on_16_bytes(columns: int) -> None:
    assert columns <= aligned(columns) < columns + 8
    assert aligned(columns) * 2 % 16 == 0


def test_a_module_pads_its_rows_as_the_formulas_count_them() -> None:
    spec = Mamba2(2048, 2304, 128, 128)
    assert spec.in_columns() == 4882 + padding(4882, torch.device("cuda"))


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_assigned_once(name: str) -> None:
    assigned = [
        str(path.relative_to(SOURCES))
        for path in SOURCES.rglob("*.py")
        if name in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
    ]
    assert assigned == ["sizes.py"]
