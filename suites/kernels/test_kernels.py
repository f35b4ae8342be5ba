"""The cells of suites/kernels.toml as benchmarks of pytest-benchmark; where there is no GPU, those of small.toml here.

    pytest suites/kernels
    pytest suites/kernels -k swiglu --benchmark-json=kernels.json --hybridbench-records=results/local/kernels

Problems, checks and sampler are those of ``hybridbench kernels``; each cell is timed by itself. What cannot run here is
skipped with its reason, and what is wrong fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hybridbench.kernel_suite import file
from hybridbench.kernel_suite.cell import Cell, sizes_text
from hybridbench.machine import visible_gpus

HAS_GPU = bool(visible_gpus())
HERE = Path(__file__).parent
SUITE = HERE.parent / "kernels.toml" if HAS_GPU else HERE / "small.toml"
CELLS = file.cells_of(file.load(SUITE)[1], has_gpu=HAS_GPU)


def _named(cell: Cell) -> str:
    return "-".join([cell.op, cell.backend, cell.direction, *sizes_text(cell.problem).split(), cell.problem.dtype])


@pytest.mark.parametrize("cell", CELLS, ids=_named)
def test_kernel(gpu_benchmark: Any, cell: Cell) -> None:
    """One cell: resolved, compared at the size that is timed, then timed."""
    gpu_benchmark.cell(cell)
