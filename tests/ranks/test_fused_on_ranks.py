"""The fused decode step where each rank has a part of every sublayer: right in the interpreter, compiled for a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
KERNELS = HERE.parent / "kernels"
ROOT = HERE.parents[1]


def said_by(program: Path, *words: str, **environment: str) -> Any:
    paths = os.pathsep.join([str(HERE), str(KERNELS), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
    command = [sys.executable, str(program), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_ranks_give_the_logits_and_tokens_of_the_modules_on_one() -> None:
    found = said_by(HERE / "step_on_ranks.py", TRITON_INTERPRET="1")
    assert len(found) == 8
    for model, error, added_up in found:
        assert error < 1e-5, model
        assert added_up == 1.0, f"{model}: all-reduces carry the bytes predicted, in float32"


@pytest.mark.slow
def test_its_kernels_are_compiled_together_and_none_while_it_runs() -> None:
    found = said_by(KERNELS / "compile_step_without_gpu.py", "across")
    assert {"project_summand", "join_residual"} <= set(found["kernels"])
    assert "project_residual" not in found["kernels"]
    assert found["together"] > 0
    assert found["while"] == 0
