"""Measured ceilings are rates this machine really has: a product cannot beat them by much, and memory can be short."""

from __future__ import annotations

import time

import pytest
import torch

from hybridbench.measure import ceilings
from hybridbench.measure.ceilings import measure_ceilings

CPU = torch.device("cpu")


def test_rates_are_those_of_the_same_work_timed_by_hand() -> None:
    found = measure_ceilings(CPU, torch.float32)
    assert found is not None
    assert found.dtype == "float32"
    assert found.read_bytes_per_s >= found.copy_bytes_per_s > 1e8
    a = torch.randn(1024, 1024)
    fastest = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.matmul(a, a)
        fastest = min(fastest, time.perf_counter() - start)
    assert found.matmul_flops_per_s == pytest.approx(2 * 1024**3 / fastest, rel=0.9), "the same order of magnitude"


def test_too_little_memory_is_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> float:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(ceilings, "_seconds", exhausted)
    assert measure_ceilings(CPU, torch.float32) is None
