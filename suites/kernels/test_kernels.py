"""Single operations as benchmarks of pytest-benchmark, each held to its reference before it is timed.

    pytest suites/kernels
    pytest suites/kernels -k swiglu --benchmark-json=kernels.json

Sizes are those of the 1B models on a GPU and small ones on a CPU; the names of the benchmarks have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hybridbench.kernels import resolve, verify
from hybridbench.kernels.verify import inputs_at
from hybridbench.problem import Problem
from hybridbench.units import format_tokens

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
SEED = 0

HEADS: dict[str, Any] = {"head_dim": 64, "n_heads": 32, "n_kv_heads": 8} if ON_GPU else {"head_dim": 32, "n_heads": 4}
SSM: dict[str, Any] = {"head_dim": 64, "d_state": 128, "chunk_size": 256} if ON_GPU else {"head_dim": 16, "d_state": 16}
SIZES = {"batch": 4, "length": 8192, "dtype": "bfloat16"} if ON_GPU else {"batch": 2, "length": 256, "dtype": "float32"}
WIDTH, SSM_HEADS = (2048, 64) if ON_GPU else (128, 8)

PROBLEMS: dict[str, dict[str, Any]] = {
    "swiglu": {"width": 4 * WIDTH},
    "add_rms_norm": {"width": WIDTH},
    "attention": HEADS,
    "attention_decode": HEADS,
    "ssd": {"chunk_size": 64, **SSM, "n_heads": SSM_HEADS},
}
"""Operation to the sizes that it has beside batch and length."""


def _named(op: str) -> str:
    return f"{op}-{DEVICE}-{SIZES['dtype']}-{SIZES['batch']}x{format_tokens(SIZES['length'])}"


@pytest.mark.parametrize("op", PROBLEMS, ids=_named)
def test_forward(gpu_benchmark: Any, op: str) -> None:
    """The forward of the backend that ``auto`` takes."""
    problem = Problem(DEVICE, **SIZES, **PROBLEMS[op])
    backend = resolve(op, "auto", problem)
    verify(backend, replace(problem, training=False), device=DEVICE, seed=SEED)
    kernel = backend.load()

    def make(number: int) -> Callable[[], object]:
        inputs = inputs_at(op, problem, device=DEVICE, seed=SEED + number)
        return lambda: inputs.run(kernel)

    with torch.no_grad():
        out = gpu_benchmark(make)
    assert all(bool(tensor.isfinite().all()) for tensor in out.values())
