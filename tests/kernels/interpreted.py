"""interpreted: programs of this folder, run in Triton's interpreter, which is chosen for a whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def said(program: str, *words: str) -> Any:
    """What a program prints as JSON; it runs on one core."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(HERE / program), *words]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=HERE.parents[1], check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def right_steps(program: str, *words: str) -> list[Any]:
    """The cases of a program that compares decode steps, each with its errors, which are within their bounds.

    The first error is the largest of all logits over their spread, where the interpreter cuts bfloat16 off; the second
    a norm over the caches.
    """
    found: list[Any] = said(program, *words)
    for case, logits, caches in found:
        exact = "float32" in case
        assert logits < (2e-5 if exact else 0.15), f"{case}: logits {logits}"
        assert caches < (1e-5 if exact else 3e-2), f"{case}: caches {caches}"
    return found
