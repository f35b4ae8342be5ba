"""Configurations compile side by side before any is timed, and the same one is taken; kernels of a step do too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from hybridbench.kernels.backend import imported
from hybridbench.kernels.tuning import side_by_side

pytestmark = pytest.mark.slow

pytest.importorskip("triton.runtime._async_compile")

PROGRAM = Path(__file__).with_name("tune_without_gpu.py")
TIMED = [["launched", 64], ["timed", 64], ["launched", 16], ["timed", 16], ["launched", 32], ["timed", 32]]
THEN = [["launched", 16]] * 2


def tuned(cache: Path, *words: str, **environment: str) -> list[list[Any]]:
    """What happened, in a process with Triton's cache there."""
    happened: list[list[Any]] = said(cache, *words, **environment)["happened"]
    return happened


def said(cache: Path, *words: str, **environment: str) -> dict[str, Any]:
    surrounding = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0", **environment}
    done = subprocess.run(
        [sys.executable, PROGRAM, *words], env=surrounding, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["best"] == {"BLOCK": 16}
    return found


def test_all_are_compiled_in_threads_before_one_is_timed(tmp_path: Path) -> None:
    happened = tuned(tmp_path, "side-by-side")
    assert sorted(happened[:4]) == [["compiled", block, False] for block in (8, 16, 32, 64)]
    again = ["compiled", 8, True]  # it does not compile, of which the autotuner hears in its turn
    assert happened[4:] == [*TIMED[:2], again, *TIMED[2:], *THEN]


def test_a_record_says_what_compiled_and_tuned_itself_and_nothing_of_what_lay_on_disk(tmp_path: Path) -> None:
    (kernel,) = said(tmp_path, "side-by-side")["noted"]
    assert (kernel["kernel"], kernel["variants"]) == ("filled", 3)  # of four one does not compile
    assert kernel["compile_ns"] > 1e6
    assert kernel["tune_ns"] > 0
    (again,) = said(tmp_path, "side-by-side")["noted"]
    assert (again["variants"], again["compile_ns"]) == (0, 0)
    assert said(tmp_path, "side-by-side", TRITON_CACHE_AUTOTUNING="1")["noted"] == [again | {"tune_ns": ANY}]
    assert said(tmp_path, "side-by-side", TRITON_CACHE_AUTOTUNING="1")["noted"] == []


def test_triton_alone_compiles_them_one_by_one(tmp_path: Path) -> None:
    """Or this package need not."""
    happened = tuned(tmp_path)
    assert [one for one in happened if one[0] != "compiled"] == [*TIMED, *THEN]
    assert [one[2] for one in happened if one[0] == "compiled"] == [True] * 4


def test_a_result_on_disk_compiles_one(tmp_path: Path) -> None:
    tuned(tmp_path, "side-by-side", TRITON_CACHE_AUTOTUNING="1")
    assert tuned(tmp_path, "side-by-side", TRITON_CACHE_AUTOTUNING="1") == [["compiled", 16, True], *THEN]


def test_the_kernels_of_a_backward_are_compiled_together_and_none_again(tmp_path: Path) -> None:
    words = [sys.executable, PROGRAM.with_name("compile_backward_without_gpu.py")]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kernels = ["scan_reverse_kernel", *(f"scan_d_{name}_kernel" for name in "xbc"), "scan_finish_kernel"]
    assert sorted(found["compiled"]) == sorted([["scan_steps_kernel", True], *([name, False] for name in kernels)])
    assert found["launched"] == ["scan_steps_kernel", *kernels] * 2


def test_the_kernels_of_a_fused_step_are_compiled_together_and_none_again(tmp_path: Path) -> None:
    program = PROGRAM.with_name("compile_step_without_gpu.py")
    surrounding = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, program], env=surrounding, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["together"] == found["before"] >= 8
    assert found["while"] == 0
    assert found["launched"] == found["launches"]


def test_tritons_class_is_its_own_again_afterwards() -> None:
    autotuner = pytest.importorskip("triton.runtime.autotuner").Autotuner
    pytest.importorskip("triton.runtime._async_compile")
    own = autotuner.prune_configs, autotuner._bench
    imported("triton", "triton is not importable")
    assert (autotuner.prune_configs, autotuner._bench) == own, "outside, an import changes nothing"
    with side_by_side():
        inside = autotuner.prune_configs, autotuner._bench
        assert not set(inside) & set(own)
        with side_by_side():
            imported("triton", "triton is not importable")
            assert (autotuner.prune_configs, autotuner._bench) == inside, "once is enough"
        assert (autotuner.prune_configs, autotuner._bench) == inside
    assert (autotuner.prune_configs, autotuner._bench) == own
    with suppress(RuntimeError), side_by_side():
        raise RuntimeError("the case failed")
    assert (autotuner.prune_configs, autotuner._bench) == own


def test_a_kernel_that_brings_triton_later_is_taken_in() -> None:
    """In a process of its own, where nothing has imported Triton before."""
    pytest.importorskip("triton.runtime._async_compile")
    code = """
import sys
from hybridbench.kernels.backend import imported
from hybridbench.kernels.tuning import side_by_side
with side_by_side():
    assert "triton" not in sys.modules
    imported("triton", "triton is not importable")
    from triton.runtime.autotuner import Autotuner
    assert hasattr(Autotuner._bench, "__wrapped__") and hasattr(Autotuner.prune_configs, "__wrapped__")
assert not hasattr(Autotuner._bench, "__wrapped__") and not hasattr(Autotuner.prune_configs, "__wrapped__")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
