"""Compiles the kernels of a fused decode step together, for a GPU that is not there, and then launches them nowhere.

Prints, as JSON, how many were compiled outside the main thread before the step ran, how many while it ran, and how many
were launched, and their names. With the word ``across`` it is the step of a rank that has a part of every sublayer. A
program of its own, because a driver holds for a whole process.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import torch
import triton
from triton.runtime.driver import driver

from hybridbench.arch.families import pattern_spec
from hybridbench.gate.observe.nowhere import Nowhere
from hybridbench.kernels.tuning import compile_together
from hybridbench.model import build_model, resolve_backends
from hybridbench.model.across import Across
from hybridbench.model.fused import FusedStep
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, Workload

compiled: list[bool] = []
launched: list[str] = []


def main() -> None:
    driver.set_active(Nowhere(lambda source, metadata: launched.append(metadata.name)))
    build = triton.compiler.compiler.compile

    def told(*given: Any, **more: Any) -> Any:
        compiled.append(threading.current_thread() is threading.main_thread())
        return build(*given, **more)

    triton.compiler.compile = triton.compiler.compiler.compile = told
    spec = pattern_spec("M-*-(*&M)-", "tiny")
    case = Case(spec, Workload(GENERATE, 64, 2, 32), Execution("cpu", "bfloat16", "eager"))
    model = build_model(case, resolve_backends(case))
    model.allocate(torch.device("cpu"), 0)
    if "across" in sys.argv:
        model.across = Across(0, 1, model.vocab_size)
        model.across.silent = True  # nothing travels
    token_B, position_B = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    caches = model.new_caches(2, 64, case.execution.storage)
    step = FusedStep(model, caches, token_B, position_B, advance=False, pdl=True)
    compile_together(step.compilations)
    before = list(compiled)
    step()
    counts = {"together": before.count(False), "before": len(before), "while": len(compiled) - len(before)}
    counts |= {"launched": len(launched), "launches": len(step.launches)}
    sys.stdout.write(json.dumps({**counts, "kernels": sorted(set(launched))}))


if __name__ == "__main__":
    main()
