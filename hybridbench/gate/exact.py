"""exact: the figures that have no noise, part by part: formulas here, and in processes of their own what torch decides.

formulas    parameters, FLOPs, cache bytes and predicted peaks of every family at every scale and every published
            model; without torch
steps       operators, captured graphs, graph breaks and recompilations of small cases on a CPU; needs torch
launches    kernels that a fused decode step launches, of every family at every scale; needs Triton
kernels     registers, spills, shared memory and instructions of our Triton kernels, compiled for GPUs that need not
            be there; needs Triton, and minutes
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.arch.model import ModelSpec, cache_bytes, params
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput, Unsupported
from hybridbench.gate.baseline import Section
from hybridbench.predict.memory import footprint
from hybridbench.predict.work import step_flops
from hybridbench.suite.workloads import DECODE, PREFILL, TRAIN, Workload
from hybridbench.units import format_tokens

CONTEXTS = (4096, 32_768)
"""The shorter and the longer than any window of the models."""
LONGEST_S = 3600.0


def formulas() -> Section:
    """Figures of all families at all scales and of all published models, at batch 1, in bfloat16."""
    specs = {f"{arch}/{scale}": build_spec(arch, scale) for scale in SCALES for arch in ARCHS}
    specs |= {name: preset_spec(name) for name in PRESETS}
    return Section({name: _of_model(spec) for name, spec in specs.items()}, {})


def _of_model(spec: ModelSpec) -> dict[str, int | None]:
    storage = Storage()
    figures: dict[str, int | None] = {"parameters": params(spec)}
    for context in CONTEXTS:
        at = format_tokens(context)
        figures[f"cache [B] {at}"] = cache_bytes(spec, context, storage).total
        for kind in (TRAIN, PREFILL, DECODE):
            work = Workload(kind, context, 1)
            for convention in Convention:
                figures[f"{kind} {convention} [FLOP] {at}"] = _or_none(step_flops, spec, work, convention)
            figures[f"{kind} peak [B] {at}"] = _or_none(_peak_bytes, spec, work, storage)
    return figures


def _peak_bytes(spec: ModelSpec, work: Workload, storage: Storage) -> int:
    return footprint(spec, work, storage).total


def _or_none(formula: Callable[..., int], *given: object) -> int | None:
    """A figure, or None where a block has no formula for it."""
    try:
        return formula(*given)
    except BadInput:
        return None


ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""What kernels are compiled for: those of ``gate.observe.compiled``."""


def kernels(architectures: Sequence[str] = ARCHITECTURES, wanted: Sequence[str] = ()) -> Section:
    """Figures of our Triton kernels, compiled for each architecture in a process of its own.

    Args:
        architectures: some of ``ARCHITECTURES``.
        wanted: names of kernels; all where it is empty.

    Raises:
        Unsupported: Triton is not installed, or a kernel could not be launched.
    """
    rows: dict[str, dict[str, int | None]] = {}
    versions: Mapping[str, str] = {}
    for architecture in architectures:
        section = _observed("compiled", architecture, *wanted)
        versions = section.versions
        for name, row in section.figures.items():
            rows.setdefault(name, {}).update(row)
    return Section(dict(sorted(rows.items())), versions)


def _observed(program: str, *words: str) -> Section:
    """What a program of ``gate.observe`` prints. A process of its own, because torch and drivers hold for a whole one.

    Raises:
        Unsupported: it cannot run here.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"hybridbench.gate.observe.{program}", *words],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Unsupported(f"{program} could not be observed here: {lines[-1]}")
    body = json.loads(done.stdout)
    return Section(body["figures"], body["versions"])


PARTS: dict[str, Callable[[], Section]] = {
    "formulas": formulas,
    "steps": lambda: _observed("steps"),
    "launches": lambda: _observed("fused"),
    "kernels": kernels,
}
