"""fused: how many kernels a fused decode step launches, of every family and every mixer, with no GPU there.

Prints the figures and Triton's version as JSON. A program of its own, because a driver holds for a whole process.
"""

from __future__ import annotations

import json
import sys

import torch
import triton
from triton import knobs
from triton.runtime.driver import driver

from hybridbench.arch.families import ARCHS, MAMBA2, Options, build_spec
from hybridbench.arch.kinds import MIXERS
from hybridbench.arch.model import ModelSpec
from hybridbench.arch.scales import SCALES
from hybridbench.gate.observe.nowhere import Nowhere
from hybridbench.kernels.attention.triton_decode import stated_multiprocessors
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.fused import FusedStep
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, Workload

N_SMS = 132
"""Of an H100 or H200: a step splits its products by them."""


def launched(spec: ModelSpec) -> int:
    """Kernels that one fused step of a model launches."""
    case = Case(spec, Workload(GENERATE, 64, 4, 32), Execution("cpu", "bfloat16", "eager"))
    count = 0

    def seen(**_: object) -> bool:
        nonlocal count
        count += 1
        return True  # nothing is compiled or launched, so that every launch comes here

    with torch.device("meta"), stated_multiprocessors(N_SMS):
        model = build_model(case, resolve_backends(case))
        token, position = torch.empty(2, 4, dtype=torch.int64)
        caches = model.new_caches(4, 64, case.execution.storage)
        step = FusedStep(model, caches, token, position, advance=True, pdl=True)
        knobs.runtime.jit_cache_hook = seen
        try:
            step()
        finally:
            knobs.runtime.jit_cache_hook = None
    return count


def main() -> None:
    """Print the figures."""
    driver.set_active(Nowhere())
    specs = {f"{arch}/{scale}": build_spec(arch, scale) for scale in SCALES for arch in ARCHS}
    for mixer in (mixer for mixer in MIXERS if mixer != MAMBA2):
        for arch in ("inter", "intra"):
            specs[f"{arch} {mixer}/1b"] = build_spec(arch, "1b", Options(mixer=mixer))
    figures = {name: {"launches": launched(spec)} for name, spec in specs.items()}
    json.dump({"versions": {"triton": triton.__version__}, "figures": figures}, sys.stdout)


if __name__ == "__main__":
    main()
