"""run: cases in, audits out: counted in this process on a CPU, in processes of their own on GPUs.

There one process observes all cases (``on_gpu``), and then Nsight Compute counts each (``profiling``). A case that
fails or comes too late has the accounts it has, and says why not the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hybridbench.arch.blocks.ssd_kernels import Tiles
from hybridbench.audit.hardware import by_class, by_kernel, hardware_view
from hybridbench.audit.observe import Observation, observe
from hybridbench.audit.on_gpu import Progress, Session, observe_all
from hybridbench.audit.profiling import Kernels, count_all
from hybridbench.audit.views import FVCORE, GPU, TORCH, Audit, View, closed_forms
from hybridbench.errors import Unsupported
from hybridbench.processes import terminable
from hybridbench.session import Proofs
from hybridbench.suite.case import Case

NO_GPU = "no GPU, so there are no counters of the hardware's own"
NOT_ASKED = "the GPU's counters were not asked for"
STOPPED = "stopped before its kernels were counted"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM on a GPU; no process is left behind.

    Attributes:
        finished: the audits of the cases that were observed by then.
    """

    def __init__(self, finished: list[Audit]) -> None:
        super().__init__()
        self.finished = finished


def audit(
    cases: Sequence[Case],
    *,
    counters: bool = True,
    vector: bool = True,
    limit_s: float = 1800.0,
    gpus: Sequence[str] = (),
    progress: Progress = lambda line: None,
) -> list[Audit]:
    """Each case's accounts.

    Args:
        counters: whether the GPU's own counters are asked for.
        vector: whether instructions of vector units are counted too, in a second run of each case.
        limit_s: how long all cases together may take on a GPU; seconds. What was counted by then is kept.
        gpus: where kernels are counted, each a value of CUDA_VISIBLE_DEVICES, all of one kind; empty for the first GPU.
        progress: told a line whenever a case was observed, or its kernels counted.

    Raises:
        Unsupported: no case could be observed; the text is about the first.
        Interrupted: with what was finished.
    """
    seen, counted, stopped = list[Observation](), dict[int, Kernels](), False
    try:
        if any(case.execution.device == "cuda" for case in cases):
            with terminable(), tempfile.TemporaryDirectory(prefix="hybridbench-audit-") as folder:
                session = Session(cases, Path(folder), limit_s, progress)
                observe_all(session, seen)
                if counters:
                    count_all(session, seen, counted, vector=vector, gpus=gpus)
        else:
            proofs = Proofs()
            for case in cases:
                seen.append(observe(case, proofs))
                progress(f"{len(seen)}/{len(cases)} observed {case.label}")
    except KeyboardInterrupt:
        stopped = True
    if seen and all(one.refused is not None for one in seen):
        raise Unsupported(f"{cases[0].label}: {seen[0].refused}")
    on_gpu = cases[0].execution.device == "cuda"
    why = STOPPED if stopped and counters and on_gpu else NOT_ASKED if on_gpu else NO_GPU
    kernels = [counted.get(place, Kernels(None, why)) for place in range(len(seen))]
    forms = [closed_forms(case) for case in cases[: len(seen)]]
    audits = [_assembled(*parts) for parts in zip(cases, forms, seen, kernels, strict=False)]
    if stopped:
        raise Interrupted(audits)
    return audits


def _assembled(case: Case, forms: dict[str, View], seen: Observation, kernels: Kernels) -> Audit:
    views = dict(forms)
    for counter in (TORCH, FVCORE):
        if seen.refused is not None:
            views[counter] = View(counter, {}, error=seen.refused.rstrip("."))
            continue
        counted = seen.counted[counter]
        views[counter] = View(
            counter, counted.flops, seen.reasons[counter], counted.formulas, counted.unseen, counted.error
        )
    notes = _tile_notes(seen.tiles)
    if kernels.launches is None:
        return Audit(case, seen.backends, {**views, GPU: View(GPU, {}, error=kernels.said.rstrip("."))}, notes=notes)
    views[GPU], note = hardware_view(case, kernels.launches, seen.products, seen.tiles, kernels.vector)
    notes += [kernels.said] + ([note] if note else [])
    groups = by_class(kernels.launches, kernels.vector), by_kernel(kernels.launches, kernels.vector)
    return Audit(case, seen.backends, views, *groups, notes)


def _tile_notes(tiles: Tiles | None) -> list[str]:
    if not tiles:
        return []
    shown = ", ".join(f"{kernel.strip('_').removesuffix('_kernel')} {m}x{n}x{k}" for kernel, (m, n, k) in tiles.items())
    return [f"Tiles (rows x columns x depth, 0 where it is the whole head) as autotuned: {shown}."]
