"""run: cases in, audits out: counted in this process on a CPU, under Nsight Compute in one of its own on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hybridbench.arch.ssd_kernels import Tiles
from hybridbench.audit.hardware import by_class, by_kernel, hardware_view
from hybridbench.audit.observe import Observation, observe
from hybridbench.audit.views import FVCORE, GPU, TORCH, Audit, View, closed_forms
from hybridbench.count import ncu
from hybridbench.errors import Unsupported
from hybridbench.suite import Case

NO_GPU = "no GPU, so there are no counters of the hardware's own"


def audit(cases: Sequence[Case], *, counters: bool = True, vector: bool = True, limit_s: float = 600.0) -> list[Audit]:
    """Each case's accounts.

    Args:
        counters: whether the GPU's own counters are asked for.
        vector: whether instructions of vector units are among them, which may cost further passes.
        limit_s: how long Nsight Compute, and then the bare process, may take for all cases.

    Raises:
        Unsupported: a case cannot run here, or the process that counts ended early.
    """
    forms = [closed_forms(case) for case in cases]
    if not any(case.execution.device == "cuda" for case in cases):
        seen, launches, said = [observe(case) for case in cases], None, NO_GPU
    else:
        seen, launches, said = _on_gpu(cases, counters, vector, limit_s)
    return [
        _assembled(case, known, found, launches[place] if launches else None, vector, said)
        for place, (case, known, found) in enumerate(zip(cases, forms, seen, strict=True))
    ]


def _assembled(
    case: Case, forms: dict[str, View], seen: Observation, launches: list[ncu.Launch] | None, vector: bool, said: str
) -> Audit:
    if seen.refused is not None:
        raise Unsupported(f"{case.label}: {seen.refused}")
    views = dict(forms)
    for counter in (TORCH, FVCORE):
        counted = seen.counted[counter]
        views[counter] = View(
            counter, counted.flops, seen.reasons[counter], counted.formulas, counted.unseen, counted.error
        )
    notes = _tile_notes(seen.tiles)
    if launches is None:
        return Audit(case, seen.backends, {**views, GPU: View(GPU, {}, error=said)}, notes=notes)
    views[GPU], note = hardware_view(case, launches, seen.products, seen.tiles, vector)
    notes += [said] + ([note] if note else [])
    return Audit(case, seen.backends, views, by_class(launches), by_kernel(launches), notes)


def _tile_notes(tiles: Tiles) -> list[str]:
    if not tiles:
        return []
    shown = ", ".join(f"{kernel.strip('_').removesuffix('_kernel')} {m}x{n}x{k}" for kernel, (m, n, k) in tiles.items())
    return [f"Tiles (rows x columns x depth, 0 where it is the whole head) as autotuned: {shown}."]


def _on_gpu(
    cases: Sequence[Case], counters: bool, vector: bool, limit_s: float
) -> tuple[list[Observation], list[list[ncu.Launch]] | None, str]:
    """What was seen of each case, its kernels where they were counted, and a sentence about that."""
    with tempfile.TemporaryDirectory(prefix="hybridbench-audit-") as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps([case.to_dict() for case in cases]), encoding="utf-8")
        seen = folder / "seen.json"
        files = [str(folder / "cases.json"), str(seen)]
        program = [sys.executable, "-m", "hybridbench.audit.counted", *files, str(os.getpid())]
        said, launches = "the GPU's counters were not asked for", None
        if counters:
            launches, said = _counted(cases, folder, program, vector, limit_s)
        found = _observations(seen)
        if len(found) < len(cases):
            try:
                code, _, errors = ncu.in_session(program, limit_s)
            except subprocess.TimeoutExpired as exc:
                raise Unsupported(f"counting had not finished after {limit_s:g} s: give more with --limit.") from exc
            found = _observations(seen)
            if len(found) < len(cases):
                last = (errors.strip().splitlines() or ["it said nothing"])[-1]
                raise Unsupported(f"the process that counts ended early (exit code {code}): {last}")
        return found, launches, said


def _observations(path: Path) -> list[Observation]:
    if not path.exists():
        return []
    return [Observation.from_dict(body) for body in json.loads(path.read_text(encoding="utf-8"))]


def _counted(
    cases: Sequence[Case], folder: Path, program: list[str], vector: bool, limit_s: float
) -> tuple[list[list[ncu.Launch]] | None, str]:
    path = ncu.find()
    if path is None:
        return None, "Nsight Compute (ncu) is not installed, so there are no counters of the hardware's own"
    dtypes = dict.fromkeys(case.execution.dtype for case in cases)
    try:
        report = ncu.run(path, dtypes, folder / "ncu.csv", program, vector, limit_s)
        launches = ncu.split(ncu.parse(report))
    except ncu.NoCounters as exc:
        return None, str(exc)
    if len(launches) != len(cases):
        return None, f"Nsight Compute's report holds {len(launches)} of {len(cases)} cases"
    kernels = sum(len(some) for some in launches)
    rounds = ncu.passes(report)
    more = (
        ": bytes read are too few, since each pass finds what the one before left in the caches" if rounds > 1 else ""
    )
    return launches, f"Nsight Compute counted {kernels} kernels in {rounds or 'unknown'} passes at most{more}."
