"""What the kernels of a fused decode step take on a Hopper GPU, compiled without one.

A table of registers, spilled bytes, shared memory, programs that fit on an SM, and how they load and multiply.

    step_budgets.py [SCALE,... [BATCH,... [PATTERN,...]]]

Patterns are of ``--pattern``; the default has a block of every kind. Constants are those that the step's rules choose
on 132 SMs. A line whose kernel spills, or of which not one program fits, ends with ``!``. Exit code 1 if there is one.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver

from hybridbench.arch.families import pattern_spec
from hybridbench.gate.observe.nowhere import Nowhere
from hybridbench.kernels.attention.triton_decode import stated_multiprocessors
from hybridbench.model.build import build_model, resolve_backends
from hybridbench.model.fused import FusedStep
from hybridbench.model.tiling import SM_SHARED
from hybridbench.suite.case import Case, Execution
from hybridbench.suite.workloads import GENERATE, Workload

N_SMS, SM_REGISTERS, SM_THREADS = 132, 65536, 2048
"""Of an H200. A program takes 1 KiB of shared memory more than it asks for."""

SHOWN = ("ROWS", "HALF", "SPLITS", "BLOCK_K", "STAGES", "TOKENS", "PARTS", "BLOCK", "SLICE", "NORM", "P", "N")
OPTIONS = ("num_warps", "num_stages", "launch_pdl", "maxnreg")
CODE = (
    "HGMMA",
    "HMMA",
    "LDGSTS.E.BYPASS.128",
    "LDGSTS",
    "LDG.E.128",
    "LDG.E.EF.128",
    "LDG",
    "STG.E.128",
    "STG.E.EF.128",
    "STG",
)


def launched(pattern: str, scale: str, batch: int, context: int = 4096) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The distinct kernels of a step, by name with constants."""
    found: dict[str, tuple[Any, dict[str, Any]]] = {}

    def seen(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        constants = {
            list(compile["signature"])[place[0]]: value
            for place, value in compile["constants"].items()
            if len(place) == 1
        }
        shown = " ".join(f"{name.lower()}={constants[name]}" for name in SHOWN if name in constants)
        name = f"{fn.jit_function.__name__} {shown} warps={compile['num_warps']}"
        found.setdefault(name, (fn.jit_function, compile))
        return True

    case = Case(
        pattern_spec(pattern, scale), Workload(GENERATE, context, batch, 32), Execution("cpu", "bfloat16", "eager")
    )
    with torch.device("meta"), stated_multiprocessors(N_SMS):
        model = build_model(case, resolve_backends(case))
        token, position = torch.empty(2, batch, dtype=torch.int64)
        caches = model.new_caches(batch, context, case.execution.storage)
        step = FusedStep(model, caches, token, position, advance=True, pdl=True)
        knobs.runtime.jit_cache_hook = seen
        try:
            step()
        finally:
            knobs.runtime.jit_cache_hook = None
    return found


_known: dict[str, dict[str, int]] = {}


def taken(kernel: Any, compile: dict[str, Any]) -> dict[str, int]:
    """What a compiled kernel takes. Triton's log is that of the first compilation, so it is kept."""
    if compile["key"] not in _known:
        _known[compile["key"]] = _compiled(kernel, compile)
    return _known[compile["key"]]


def _compiled(kernel: Any, compile: dict[str, Any]) -> dict[str, int]:
    options = json.loads(compile["specialization_data"])["options"]
    source = ASTSource(kernel, compile["signature"], compile["constants"], compile["configs"][0])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        built = triton.compile(
            source,
            target=GPUTarget("cuda", 90, 32),
            options={name: options[name] for name in OPTIONS if options.get(name)},
        )
    log = said.getvalue()

    def number(pattern: str) -> int:
        match = re.search(pattern, log)
        assert match, log
        return int(match[1])

    found = {
        "registers": number(r"Used (\d+) registers"),
        "spilled": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        "shared": int(built.metadata.shared),
    }
    threads = 32 * compile["num_warps"]
    allocated = -(-found["registers"] // 8) * 8 * threads
    found["per SM"] = min(SM_REGISTERS // allocated, SM_SHARED // (found["shared"] + 1024), SM_THREADS // threads)
    listing = disassembled(built.asm["cubin"])
    return found | {what: len(re.findall(rf"\b{re.escape(what)}", listing)) for what in CODE}


def disassembled(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([str(tool), "-c", file.name], capture_output=True, text=True, check=True).stdout


def rows(scales: list[str], batches: list[str], patterns: list[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """A name and the figures of each kernel; those of one that does not compile are empty."""
    for scale in scales:
        for batch in batches:
            for pattern in patterns:
                for name, launch in launched(pattern, scale, int(batch)).items():
                    try:
                        yield f"{scale} b{batch} {name}", taken(*launch)
                    except RuntimeError as exc:
                        sys.stderr.write(f"{name}: {exc}\n")
                        yield f"{scale} b{batch} {name}", {}


def main() -> int:
    """Print the table."""
    given = [part.split(",") for part in sys.argv[1:]]
    scales, batches, patterns = [*given, *[["1b"], ["64"], ["M-*-(*&M)-"]][len(given) :]]
    driver.set_active(Nowhere())
    bad = 0
    with tempfile.TemporaryDirectory(prefix="hybridbench-budgets-") as folder, knobs.cache.scope():
        knobs.cache.dir = folder
        with knobs.nvidia.scope(), knobs.compilation.scope():
            knobs.nvidia.dump_ptxas_log = True
            knobs.compilation.disable_line_info = True
            for name, found in rows(scales, batches, patterns):
                poor = not found or found["spilled"] > 0 or found["per SM"] < 1
                bad += poor
                figures = " ".join(f"{what}={value}" for what, value in found.items())
                sys.stdout.write(f"{name}: {figures}{' !' if poor else ''}\n")
                sys.stdout.flush()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
