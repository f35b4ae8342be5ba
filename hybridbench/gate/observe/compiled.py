"""compiled: what ptxas makes of our Triton kernels for GPUs that need not be there: registers, spills, memory, code.

Prints, as JSON, the figures of each kernel at each set of constants, and the versions of Triton and of its assemblers.
A kernel is compiled as its launcher would have it on a GPU of the stated number of SMs (``launches``); of those that
differ in the alignment of their arguments only, the first counts. A program of its own for one GPU, because a driver
and the plans that launchers keep hold for a whole process.

Standard input holds, as JSON, the sources that are known (``sources``), by name, and of which versions they are. Those
that are the same now are not compiled again: they have no figures in what is printed.

    python -m hybridbench.gate.observe.compiled sm_90 [KERNEL ...] <<< '{"versions": {}, "sources": {}}'
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver

from hybridbench.gate.observe.launches import launch_all
from hybridbench.gate.observe.nowhere import Nowhere
from hybridbench.gate.observe.sources import source_of
from hybridbench.sizes import E4M3_SINCE


@dataclass(frozen=True)
class CompileTarget:
    """What kernels are compiled for: a compute capability, and the SMs that launchers choose splits for."""

    capability: int
    n_sms: int

    @property
    def pdl(self) -> bool:
        """Whether it has programmatic dependent launch."""
        return self.capability >= 90


GPUS = (CompileTarget(80, 108), CompileTarget(90, 132), CompileTarget(100, 148))
"""A100, H100 and H200, B200; ``gate.exact`` runs this program for each."""
_OPTIONS = (
    "num_warps",
    "num_stages",
    "num_ctas",
    "enable_fp_fusion",
    "launch_pdl",
    "launch_cooperative_grid",
    "maxnreg",
)
_FLAGS = ("PDL",)
"""Constants that follow from the GPU, so that they are no part of a kernel's name."""
_LOG = {
    "registers": r"Used (\d+) registers",
    "spill stores [B]": r"(\d+) bytes spill stores",
    "spill loads [B]": r"(\d+) bytes spill loads",
}
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP\b)\S", re.MULTILINE)

Launch = tuple[Any, dict[str, Any]]


def launches(gpu: CompileTarget, wanted: Collection[str]) -> dict[str, Launch]:
    """The kernels of all launches by name with constants, each with what Triton was to compile."""
    found: dict[str, Launch] = {}

    def seen(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        kernel = fn.jit_function
        if not wanted or kernel.__name__ in wanted:
            found.setdefault(named(kernel.__name__, compile), (kernel, compile))
        return True  # nothing is compiled or launched

    driver.set_active(Nowhere(target=GPUTarget("cuda", gpu.capability, 32)))
    knobs.runtime.jit_cache_hook = seen
    try:
        launch_all(pdl=gpu.pdl, n_sms=gpu.n_sms)
    finally:
        knobs.runtime.jit_cache_hook = None
    return found


def named(kernel: str, compile: dict[str, Any]) -> str:
    """A kernel with its constants and types, such as ``_swiglu_forward *bf16 *bf16 i32 i32 BLOCK=2048 warps=4``."""
    signature = compile["signature"]
    types = [kind for kind in signature.values() if kind != "constexpr"]
    constants = {list(signature)[place[0]]: value for place, value in compile["constants"].items() if len(place) == 1}
    # None stands for an argument that this launch has no use for
    shown = [f"{name}={value}" for name, value in constants.items() if name not in _FLAGS and value is not None]
    return " ".join([kernel, *types, *shown, f"warps={compile['num_warps']}", f"stages={compile['num_stages']}"])


def figures(launch: Launch, gpu: CompileTarget) -> dict[str, int | None]:
    """What the compiled kernel takes. All are None where it cannot be compiled for this GPU."""
    kernel, compile = launch
    nothing: dict[str, int | None] = dict.fromkeys([*_LOG, "shared memory [B]", "instructions"])
    no_e4m3 = divmod(gpu.capability, 10) < E4M3_SINCE  # Triton raises a ValueError
    if no_e4m3 and any("fp8e4nv" in kind for kind in compile["signature"].values()):
        return nothing
    source = ASTSource(kernel, compile["signature"], compile["constants"], compile["configs"][0])
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            built = triton.compile(
                source,
                target=GPUTarget("cuda", gpu.capability, 32),
                options=_options(compile),
            )
    except RuntimeError:  # of which Triton's errors of its compiler and assembler are
        return nothing
    log = said.getvalue()
    found: dict[str, int | None] = {name: _number(pattern, log) for name, pattern in _LOG.items()}
    found["shared memory [B]"] = int(built.metadata.shared)
    found["instructions"] = instructions(built.asm["cubin"])
    return found


def _options(compile: dict[str, Any]) -> dict[str, Any]:
    given = json.loads(compile["specialization_data"])["options"]
    return {name: given[name] for name in _OPTIONS if given.get(name) is not None}


def _number(pattern: str, log: str) -> int:
    match = re.search(pattern, log)
    if match is None:
        raise RuntimeError(f"the assembler's log has no {pattern!r}: {log}")
    return int(match[1])


def instructions(cubin: bytes) -> int:
    """Machine instructions of a compiled kernel, without those that only pad it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([_tool("nvdisasm"), "-c", file.name], capture_output=True, text=True, check=True)
    return len(_INSTRUCTION.findall(done.stdout))


def _tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def versions() -> dict[str, str]:
    """Of Triton and its assemblers."""
    found = {"triton": triton.__version__}
    for name in ("ptxas", "ptxas-blackwell"):
        said = subprocess.run([_tool(name), "--version"], capture_output=True, text=True, check=True).stdout
        match = re.search(r"\bV(\d[\d.]*)", said)
        found[name] = match[1] if match else said.strip()
    return found


@dataclass(frozen=True)
class CompiledKernels:
    """What is printed of one GPU.

    Args:
        sources: the source of every kernel, by name.
        figures: of those whose source is not known, with the architecture in the name of each quantity.
    """

    sources: dict[str, str]
    figures: dict[str, dict[str, int | None]]


def observe(
    gpu: CompileTarget, wanted: Collection[str] = (), known: Mapping[str, str] | None = None
) -> CompiledKernels:
    """The figures of each kernel.

    Args:
        gpu: what to compile for.
        wanted: names of kernels; all where it is empty.
        known: sources by name; what has the same one is not compiled.
    """
    found = dict(sorted(launches(gpu, wanted).items()))
    sources = {name: source_of(kernel, compile, _options(compile), gpu) for name, (kernel, compile) in found.items()}
    changed = {name: launch for name, launch in found.items() if (known or {}).get(name) != sources[name]}
    with tempfile.TemporaryDirectory(prefix="hybridbench-compiled-") as folder, knobs.cache.scope():
        knobs.cache.dir = folder  # what Triton has compiled before has no log
        with knobs.nvidia.scope(), knobs.compilation.scope():
            knobs.nvidia.dump_ptxas_log = True
            knobs.compilation.disable_line_info = True
            rows = {
                name: {f"{what} sm_{gpu.capability}": value for what, value in figures(launch, gpu).items()}
                for name, launch in changed.items()
            }
    return CompiledKernels(sources, rows)


def main() -> None:
    """Print the figures."""
    gpu = next(gpu for gpu in GPUS if f"sm_{gpu.capability}" == sys.argv[1])
    now, known = versions(), json.load(sys.stdin)
    found = observe(gpu, sys.argv[2:], known["sources"] if known["versions"] == now else {})
    json.dump({"versions": now, "sources": found.sources, "figures": found.figures}, sys.stdout)


if __name__ == "__main__":
    main()
