"""run: cases in, audits out: counted in this process on a CPU, in processes of their own on a GPU.

There one process observes all cases, without a profiler. Then Nsight Compute watches a process for each case that was
observed, and another for its instructions of vector units (``count.ncu`` says why). Its reports come at the end, so
only by a process each is kept what was counted before the time ran out, for some 10 s of start-up. A case that fails or
comes too late has the accounts it has, and says why not the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hybridbench.arch.ssd_kernels import Tiles
from hybridbench.audit.hardware import by_class, by_kernel, hardware_view
from hybridbench.audit.observe import Observation, observe
from hybridbench.audit.views import FVCORE, GPU, TORCH, Audit, View, closed_forms
from hybridbench.count import ncu
from hybridbench.count.processes import last_line, run_program
from hybridbench.errors import Unsupported
from hybridbench.runner import terminable
from hybridbench.suite import Case

NO_GPU = "no GPU, so there are no counters of the hardware's own"
NOT_ASKED = "the GPU's counters were not asked for"
STOPPED = "stopped before its kernels were counted"
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Kernels:
    """What Nsight Compute counted of one case: its kernels in order, None without; and sentences about it.

    Attributes:
        vector: whether instructions of vector units are among it.
    """

    launches: list[ncu.Launch] | None
    said: str
    vector: bool = False


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
    progress: Progress = lambda line: None,
) -> list[Audit]:
    """Each case's accounts.

    Args:
        counters: whether the GPU's own counters are asked for.
        vector: whether instructions of vector units are counted too, in a second run of each case.
        limit_s: how long all cases together may take on a GPU; seconds. What was counted by then is kept.
        progress: told a line whenever a case was observed, or its kernels counted.

    Raises:
        Unsupported: no case could be observed; the text is about the first.
        Interrupted: with what was finished.
    """
    seen, kernels, stopped = list[Observation](), list[Kernels](), False
    try:
        if any(case.execution.device == "cuda" for case in cases):
            with terminable(), tempfile.TemporaryDirectory(prefix="hybridbench-audit-") as folder:
                run = _OnGpu(cases, Path(folder), limit_s, progress)
                run.observe(seen)
                if counters:
                    run.count(kernels, seen, vector)
        else:
            for case in cases:
                seen.append(observe(case))
                progress(f"{len(seen)}/{len(cases)} observed {case.label}")
    except KeyboardInterrupt:
        stopped = True
    if seen and all(one.refused is not None for one in seen):
        raise Unsupported(f"{cases[0].label}: {seen[0].refused}")
    on_gpu = cases[0].execution.device == "cuda"
    why = STOPPED if stopped and counters and on_gpu else NOT_ASKED if on_gpu else NO_GPU
    kernels += [Kernels(None, why)] * (len(seen) - len(kernels))
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


class _OnGpu:
    """Cases counted in processes of their own, within one limit.

    Args:
        folder: where they exchange files; empty.
    """

    def __init__(self, cases: Sequence[Case], folder: Path, limit_s: float, progress: Progress) -> None:
        self._cases = cases
        self._folder = folder
        self._limit_s = limit_s
        self._ends_at = time.monotonic() + limit_s
        self._progress = progress

    def _left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def observe(self, found: list[Observation]) -> None:
        """Adds what was seen of each case. A process that ends early costs one case; another takes the next."""
        while len(found) < len(self._cases):
            self._observe_more(found)

    def _observe_more(self, found: list[Observation]) -> None:
        """Adds what one process saw of the cases that are missing, and why it got no further."""
        start = len(found)
        waiting = self._cases[start:]
        asked, seen = self._folder / f"cases-{start}.json", self._folder / f"seen-{start}.jsonl"
        asked.write_text(json.dumps([case.to_dict() for case in waiting]), encoding="utf-8")

        def add(one: Observation) -> None:
            self._tell(len(found), "observed", one.refused)
            found.append(one)

        def read() -> None:
            for line in _lines(seen)[len(found) - start :]:
                add(Observation.from_dict(json.loads(line)))

        missing = 1
        try:
            code, _, errors = run_program(self._program("observe", asked, seen), self._left_s(), read)
            why = f"the process that counts ended early (exit code {code}): {last_line(errors)}"
        except subprocess.TimeoutExpired:
            why = f"counting had not finished after {self._limit_s:g} s: give more with --limit"
            missing = len(waiting)
        read()
        for _ in self._cases[len(found) : len(found) + missing]:
            add(Observation(refused=why))

    def count(self, found: list[Kernels], seen: Sequence[Observation], vector: bool) -> None:
        """Adds what Nsight Compute counted of each case that was observed: first tensor cores and bytes of all."""
        path = ncu.find()
        if path is None:
            why = "Nsight Compute (ncu) is not installed, so there are no counters of the hardware's own"
            found += [Kernels(None, why)] * len(self._cases)
            return
        for place, observed in enumerate(seen):
            over = False
            try:
                found.append(self._step(path, place, observed))
            except ncu.NoCounters as exc:
                found.append(Kernels(None, str(exc)))
                over = isinstance(exc, ncu.NeverCounters)
            self._tell(place, "counted", None if found[-1].launches is not None else found[-1].said)
            if over:
                found += [found[-1]] * (len(seen) - len(found))
                return
        for place, kernels in enumerate(found if vector else ()):
            found[place] = self._with_vector(path, place, kernels)

    def _step(self, path: str, place: int, observed: Observation) -> Kernels:
        """What tensor cores did in one case, and the bytes that it moved.

        Raises:
            NoCounters: nothing was counted.
        """
        if observed.refused is not None:
            raise ncu.NoCounters(observed.refused)
        case, tuned = self._cases[place], [asdict(one) for one in observed.tuned]
        self._asked(place).write_text(json.dumps({"case": case.to_dict(), "tuned": tuned}), encoding="utf-8")
        report = self._report(path, place, ncu.step_metrics(case.execution.dtype))
        launches, rounds = ncu.parse(report), ncu.passes(report)
        more = ": bytes are not those of a step, since passes upset the caches" if rounds > 1 else ""
        often = f"{rounds or 'unknown'} pass{'' if rounds == 1 else 'es'}"
        return Kernels(launches, f"Nsight Compute counted {len(launches)} kernels in {often}{more}.")

    def _with_vector(self, path: str, place: int, kernels: Kernels) -> Kernels:
        """The same with instructions of vector units, or why without them."""
        if kernels.launches is None:
            return kernels
        why = None
        try:
            report = self._report(path, place, ncu.vector_metrics(self._cases[place].execution.dtype))
            kernels = replace(kernels, launches=ncu.with_vector(kernels.launches, report), vector=True)
        except ncu.NoCounters as exc:
            why = str(exc)
            kernels = replace(kernels, said=f"{kernels.said} Instructions of vector units were not counted: {why}.")
        self._tell(place, "counted vector instructions of", why)
        return kernels

    def _asked(self, place: int) -> Path:
        """The file that tells a process which case it is to run."""
        return self._folder / f"case-{place}.json"

    def _report(self, path: str, place: int, metrics: Sequence[str]) -> str:
        """Nsight Compute's report on one case.

        Raises:
            NoCounters: there is none, or no time is left.
        """
        if self._left_s() <= 0:
            raise ncu.NoCounters(f"no time was left of {self._limit_s:g} s: give more with --limit")
        log = self._folder / f"ncu-{place}.csv"
        log.unlink(missing_ok=True)
        return ncu.run(path, metrics, log, self._program("counted", self._asked(place)), self._left_s())

    def _tell(self, place: int, what: str, why_not: str | None) -> None:
        label = self._cases[place].label
        more = f"{what} {label}" if why_not is None else f"not {what} {label}: {why_not}"
        self._progress(f"{place + 1}/{len(self._cases)} {more}")

    def _program(self, module: str, *files: Path) -> list[str]:
        return [sys.executable, "-m", f"hybridbench.audit.{module}", *map(str, files), str(os.getpid())]


def _lines(path: Path) -> list[str]:
    """The whole lines of a file that may not be there, or end within one."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
