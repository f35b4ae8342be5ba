"""Configurations compile side by side before any is timed, and the same one is taken; kernels of a step do too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("triton.runtime._async_compile")

PROGRAM = Path(__file__).with_name("tune_without_gpu.py")
TIMED = [["launched", 64], ["timed", 64], ["launched", 16], ["timed", 16], ["launched", 32], ["timed", 32]]
THEN = [["launched", 16]] * 2


def tuned(cache: Path, *words: str, **environment: str) -> list[list[Any]]:
    """What happened, in a process with Triton's cache there."""
    surrounding = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0", **environment}
    done = subprocess.run(
        [sys.executable, PROGRAM, *words], env=surrounding, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["best"] == {"BLOCK": 16}
    happened: list[list[Any]] = found["happened"]
    return happened


def test_all_are_compiled_in_threads_before_one_is_timed(tmp_path: Path) -> None:
    happened = tuned(tmp_path, "side-by-side")
    assert sorted(happened[:4]) == [["compiled", block, False] for block in (8, 16, 32, 64)]
    again = ["compiled", 8, True]  # it does not compile, of which the autotuner hears in its turn
    assert happened[4:] == [*TIMED[:2], again, *TIMED[2:], *THEN]


def test_triton_alone_compiles_them_one_by_one(tmp_path: Path) -> None:
    """Or this package need not."""
    happened = tuned(tmp_path)
    assert [one for one in happened if one[0] != "compiled"] == [*TIMED, *THEN]
    assert [one[2] for one in happened if one[0] == "compiled"] == [True] * 4


def test_a_result_on_disk_compiles_one(tmp_path: Path) -> None:
    tuned(tmp_path, "side-by-side", TRITON_CACHE_AUTOTUNING="1")
    assert tuned(tmp_path, "side-by-side", TRITON_CACHE_AUTOTUNING="1") == [["compiled", 16, True], *THEN]


def test_the_kernels_of_a_fused_step_are_compiled_together_and_none_again(tmp_path: Path) -> None:
    program = PROGRAM.with_name("compile_step_without_gpu.py")
    surrounding = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, program], env=surrounding, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["together"] == found["before"] >= 8
    assert found["while"] == 0
    assert found["launched"] == found["launches"]
