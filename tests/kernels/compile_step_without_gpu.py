"""Compiles the kernels of a fused decode step together, for a GPU that is not there, and then launches them nowhere.

Prints, as JSON, how many were compiled outside the main thread before the step ran, how many while it ran, and how many
were launched. A program of its own, because a driver holds for a whole process.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from hybridbench.arch.families import pattern_spec
from hybridbench.kernels.tuning import compile_together
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.fused import FusedStep
from hybridbench.suite import GENERATE, Case, Execution, Workload

compiled: list[bool] = []
launched: list[str] = []


class Nowhere:
    """A driver of a Hopper GPU."""

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 2**18},
        load_binary=lambda *binary: (1, 1, 0, 0, 1024),
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        return lambda *launch: launched.append(metadata.name)


def main() -> None:
    driver.set_active(Nowhere())
    build = triton.compiler.compiler.compile

    def told(*given: Any, **more: Any) -> Any:
        compiled.append(threading.current_thread() is threading.main_thread())
        return build(*given, **more)

    triton.compiler.compile = triton.compiler.compiler.compile = told
    spec = pattern_spec("M-*-(*&M)-", "tiny")
    case = Case(spec, Workload(GENERATE, 64, 2, 32), Execution("cpu", "bfloat16", "eager"))
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), 0)
    token_B, position_B = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    caches = model.new_caches(2, 64, case.execution.storage)
    step = FusedStep(model, caches, token_B, position_B, advance=False, pdl=True)
    compile_together(step.compilations)
    before = list(compiled)
    step()
    counts = {"together": before.count(False), "before": len(before), "while": len(compiled) - len(before)}
    sys.stdout.write(json.dumps(counts | {"launched": len(launched), "launches": len(step.launches)}))


if __name__ == "__main__":
    main()
