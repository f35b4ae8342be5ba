"""run: cases in, audits out: other processes observe and count, this one judges, without torch.

One process observes all cases (``observing``). On a GPU, Nsight Compute then counts each (``profiling``). A case that
fails or runs out of time keeps the accounts it has and says why the others are missing.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hybridbench.arch.blocks.ssd_kernels import Tiles
from hybridbench.audit.exchange import Observation
from hybridbench.audit.judge.hardware import by_class, by_kernel, hardware_view
from hybridbench.audit.judge.reasons import counter_reasons
from hybridbench.audit.judge.views import GPU, Audit, View, closed_forms
from hybridbench.audit.observing import AuditRun, Progress, observe_all
from hybridbench.audit.profiling import Kernels, count_all
from hybridbench.count.account import FVCORE, TORCH
from hybridbench.errors import Unsupported
from hybridbench.processes import terminable
from hybridbench.suite.case import Case

NO_GPU = "no GPU, so there are no counters of the hardware's own"
NOT_ASKED = "the GPU's counters were not asked for"
STOPPED = "stopped before its kernels were counted"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; no process is left behind.

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
    progress: Progress = lambda _line: None,
) -> list[Audit]:
    """The audit of each case.

    Args:
        cases: the cases, of each of which one step is counted; all on the same kind of device.
        counters: whether to use the GPU's own counters.
        vector: whether to count instructions of vector units too, in a second run of each case.
        limit_s: the longest time of all cases together on a GPU; seconds. Counts made before are kept.
        gpus: the GPUs to count on, each a value of CUDA_VISIBLE_DEVICES, all the same model; empty for the first GPU.
        progress: called with a line of text whenever a case was observed, or its kernels were counted.

    Raises:
        Unsupported: no case could be observed; the text is about the first.
        Interrupted: with what was finished.
    """
    on_gpu = any(case.execution.device == "cuda" for case in cases)
    seen, counted, stopped = list[Observation](), dict[int, Kernels](), False
    try:
        with terminable(), tempfile.TemporaryDirectory(prefix="hybridbench-audit-") as folder:
            run = AuditRun(cases, Path(folder), limit_s if on_gpu else math.inf, progress)
            observe_all(run, seen)
            if counters and on_gpu:
                count_all(run, seen, counted, vector=vector, gpus=gpus)
    except KeyboardInterrupt:
        stopped = True
    if seen and all(one.why_not is not None for one in seen):
        raise Unsupported(f"{cases[0].label}: {seen[0].why_not}")
    why = STOPPED if stopped and counters and on_gpu else NOT_ASKED if on_gpu else NO_GPU
    kernels = [counted.get(place, Kernels(None, why)) for place in range(len(seen))]
    audits = [judged(*parts) for parts in zip(cases, seen, kernels, strict=False)]
    if stopped:
        raise Interrupted(audits)
    return audits


def judged(case: Case, seen: Observation, kernels: Kernels) -> Audit:
    """The audit of one case: what both counters and the GPU saw, beside the three conventions."""
    views = closed_forms(case)
    for counter in (TORCH, FVCORE):
        if seen.why_not is not None:
            views[counter] = View(counter, {}, error=seen.why_not.rstrip("."))
            continue
        account, reasons = seen.accounts[counter], counter_reasons(case, seen.ran, counter)
        views[counter] = View(counter, account.flops, reasons, account.formulas, account.unseen, account.error)
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
    return [f"Tiles (rows x columns x inner dimension, 0 where it is the whole head) as autotuned: {shown}."]
