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
from concurrent.futures import ThreadPoolExecutor

from hybridbench.arch.block import Convention, Storage
from hybridbench.arch.families import ARCHS, build_spec
from hybridbench.arch.model import ModelSpec, cache_bytes, params
from hybridbench.arch.presets import PRESETS, preset_spec
from hybridbench.arch.scales import SCALES
from hybridbench.errors import BadInput, Unsupported
from hybridbench.gate.baseline import Section
from hybridbench.machine import usable_cores
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


def kernels(
    architectures: Sequence[str] = ARCHITECTURES, wanted: Sequence[str] = (), known: Section | None = None
) -> Section:
    """Figures of our Triton kernels, compiled for each architecture in a process of its own, one on each core.

    Args:
        architectures: some of ``ARCHITECTURES``.
        wanted: names of kernels; all where it is empty.
        known: an earlier section: a kernel whose source, constants and compilers are those of it keeps its figures.

    Raises:
        Unsupported: Triton is not installed, or a kernel could not be launched.
    """
    known = known or Section({}, {})

    def observed(architecture: str) -> Section:
        sources = {name: row[architecture] for name, row in known.sources.items() if architecture in row}
        # of a kernel whose figures are gone, its source alone says nothing
        sources = {name: one for name, one in sources.items() if _of(architecture, known.figures.get(name, {}))}
        given = json.dumps({"versions": dict(known.versions), "sources": sources})
        return _observed("compiled", architecture, *wanted, given=given, of=architecture)

    with ThreadPoolExecutor(min(len(architectures), usable_cores())) as pool:
        sections = dict(zip(architectures, pool.map(observed, architectures), strict=True))
    rows: dict[str, dict[str, int | None]] = {}
    all_sources: dict[str, dict[str, str]] = {}
    compiled = {name for section in sections.values() for name in section.figures}
    for architecture, section in sections.items():
        for name, source in section.sources.items():
            now = section.figures.get(name) or _of(architecture, known.figures[name])
            rows.setdefault(name, {}).update(now)
            all_sources.setdefault(name, {}).update(source)
    versions = next(iter(sections.values())).versions
    return Section(dict(sorted(rows.items())), versions, dict(sorted(all_sources.items())), len(rows.keys() - compiled))


def _of(architecture: str, row: Mapping[str, int | None]) -> dict[str, int | None]:
    """The figures of one architecture."""
    return {quantity: value for quantity, value in row.items() if quantity.endswith(f" {architecture}")}


def _observed(program: str, *words: str, given: str = "", of: str = "") -> Section:
    """What a program of ``gate.observe`` prints. A process of its own, because torch and drivers hold for a whole one.

    Args:
        given: its standard input.
        of: what the sources that it prints are for.

    Raises:
        Unsupported: it cannot run here.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"hybridbench.gate.observe.{program}", *words],
        capture_output=True,
        text=True,
        input=given,
        timeout=LONGEST_S,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Unsupported(f"{program} could not be observed here: {lines[-1]}")
    body = json.loads(done.stdout)
    sources = {name: {of: source} for name, source in body.get("sources", {}).items()}
    return Section(body["figures"], body["versions"], sources)


PARTS: dict[str, Callable[[Section | None], Section]] = {
    "formulas": lambda _known: formulas(),
    "steps": lambda _known: _observed("steps"),
    "launches": lambda _known: _observed("fused"),
    "kernels": lambda known: kernels(known=known),
}
"""Each is given what is known of it from an earlier time; None observes everything anew."""
