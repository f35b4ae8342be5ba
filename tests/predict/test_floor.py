"""The floor stands once: by hand, exactly, and nowhere else in the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

import hybridbench
from hybridbench.predict.floor import bound, floor_s, times_s
from hybridbench.predict.work import Phase

SOURCES = Path(hybridbench.__file__).parent
ARITHMETIC, MEMORY = re.compile("flops|compute"), re.compile("bytes|moved|memory|traffic")
COMPUTE_BOUND, MEMORY_BOUND = Phase(flops=600, moved_bytes=100), Phase(flops=100, moved_bytes=300)


def test_the_slower_of_arithmetic_and_memory_bounds_a_phase() -> None:
    assert times_s(COMPUTE_BOUND, 100.0, 50.0) == (6.0, 2.0)
    assert floor_s([COMPUTE_BOUND], 100.0, 50.0) == 6.0
    assert floor_s([MEMORY_BOUND], 100.0, 50.0) == 6.0
    assert bound([COMPUTE_BOUND], 100.0, 50.0) == "compute"
    assert bound([MEMORY_BOUND], 100.0, 50.0) == "memory"


def test_phases_follow_one_another() -> None:
    """Not the slower of two sums: 7 s of arithmetic and 8 s of traffic take 12."""
    both = [COMPUTE_BOUND, MEMORY_BOUND]
    assert floor_s(both, 100.0, 50.0) == 12.0
    assert bound(both, 100.0, 50.0) == "compute"
    assert bound([COMPUTE_BOUND, MEMORY_BOUND, MEMORY_BOUND], 100.0, 50.0) == "memory"


def test_fractions_stay_exact() -> None:
    """Past 2^53 floats do not see the one FLOP that decides."""
    flops_per_s, bytes_per_s = Fraction(989_400_000_000_001), Fraction(4_800_000_000_001)
    phase = Phase(flops=(1 << 60) + 1, moved_bytes=1)
    assert floor_s([phase], flops_per_s, bytes_per_s) == Fraction((1 << 60) + 1, 989_400_000_000_001)
    less = Phase(flops=1 << 60, moved_bytes=1)
    assert floor_s([less], flops_per_s, bytes_per_s) < floor_s([phase], flops_per_s, bytes_per_s)
    assert floor_s([less], float(flops_per_s), 1.0) == floor_s([phase], float(flops_per_s), 1.0)


def floors(source: str) -> Iterator[str]:
    """What takes the larger of arithmetic and memory traffic, and what divides bytes by a bandwidth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "max":
            said = " ".join(ast.unparse(part) for part in node.args)
            if "times_s" in said or (ARITHMETIC.search(said) and MEMORY.search(said)):
                yield ast.unparse(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            above, below = ast.unparse(node.left), ast.unparse(node.right)
            if MEMORY.search(above) and re.search(r"(bytes|memory)\w*(_per_s|rate)|bandwidth", below):
                yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "max(flops / peak, moved / bandwidth)",
        "max(flops * bandwidth, moved_bytes * peak)",
        "max(compute(n), memory(n))",
        "max(times_s(phase, 1.0, 1.0))",
        "step = moved / gpu.memory_bytes_per_s",
    ],
)
def test_another_floor_would_be_found(source: str) -> None:
    assert list(floors(source))


def test_the_floor_is_written_out_once() -> None:
    found = {
        str(path.relative_to(SOURCES)): written
        for path in sorted(SOURCES.rglob("*.py"))
        if (written := list(floors(path.read_text(encoding="utf-8"))))
    }
    assert found == {
        "predict/floor.py": [
            "phase.moved_bytes / bytes_per_s",
            "max(times_s(phase, flops_per_s, bytes_per_s))",
        ]
    }
