"""harness: the self test of the timing, in a process of its own, so that the command itself holds no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from hybridbench.errors import WorkerDied
from hybridbench.machine import thread_settings
from hybridbench.processes import last_line, run_program

LIMIT_S = 120.0


def self_test(device: str, gpu: str | None = None) -> dict[str, Any]:
    """What the timing makes of work of a known length: ``expected_ns, forward_ns, backward_ns, error_frac``.

    Args:
        gpu: the CUDA_VISIBLE_DEVICES of the process; None leaves it.

    Raises:
        WorkerDied: the process failed; the text has its last line.
    """
    environment = thread_settings() | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    words = [sys.executable, "-m", "hybridbench.kernel_suite.worker", "--self-test", device]
    try:
        code, output, errors = run_program(words, LIMIT_S, environment=environment)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise WorkerDied(f"the self test of the timing did not run: {exc}") from exc
    if code != 0:
        raise WorkerDied(f"the self test of the timing failed: {last_line(errors)}")
    found: dict[str, Any] = json.loads(last_line(output))
    return found


def in_words(found: dict[str, Any]) -> str:
    """How far off the timing is, in one sentence."""
    return f"Self test: work of a known length is timed {100 * found['error_frac']:.2g}% off."
