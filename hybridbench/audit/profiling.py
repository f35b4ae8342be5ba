"""profiling: Nsight Compute run on the cases of an audit, on all GPUs of a machine at the same time.

It watches one process per case, and a second one for the case's instructions of vector units (``count.ncu`` says why).
Nsight Compute writes its report when a process ends. So with a process per case, the cases counted before a time limit
are kept, at the price of some 10 s of start-up each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hybridbench.audit.exchange import Observation, ask
from hybridbench.audit.observing import AuditRun
from hybridbench.count import ncu


@dataclass(frozen=True)
class Kernels:
    """What Nsight Compute counted for one case: its kernels in order, or None, and sentences about the count.

    Attributes:
        vector: whether instructions of vector units were counted.
    """

    launches: list[ncu.Launch] | None
    said: str
    vector: bool = False


class _StoppedError(Exception):
    """The audit was interrupted while a profiler ran."""


def count_all(
    run: AuditRun,
    seen: Sequence[Observation],
    found: dict[int, Kernels],
    *,
    vector: bool = True,
    gpus: Sequence[str] = (),
) -> None:
    """Count each case and store the result at its index: first tensor cores and bytes of all, then instructions.

    Args:
        run: the audit's cases and its limit.
        seen: the observations of the first cases, one per case.
        found: the results; filled as they come, so that an interruption loses none.
        vector: whether to count instructions of vector units too.
        gpus: the GPUs to count on, each a value of CUDA_VISIBLE_DEVICES. They must be the same model, because all run
            what was tuned on one. Empty for the GPU that child processes use by default.
    """
    path = ncu.find()
    if path is None:
        why = "Nsight Compute (ncu) is not installed, so there are no counters of the hardware's own"
        found.update(dict.fromkeys(range(len(seen)), Kernels(None, why)))
        return
    environments = [_environment(run.folder, gpu) for gpu in gpus] if len(gpus) > 1 else [{}]
    counter = _Counter(run, path, environments, found)
    with ThreadPoolExecutor(len(environments)) as threads:
        try:
            # Threads take these in order, so a thread that waits for a case's step waits for one that has begun.
            steps = [threads.submit(counter.step, *one) for one in enumerate(seen)]
            jobs: list[Future[Any]] = [*steps]
            if vector:
                jobs += [threads.submit(counter.vector, *one) for one in enumerate(steps)]
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            counter.stop()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _environment(folder: Path, gpu: str) -> dict[str, str]:
    """The environment variables of a profiler and its program on one of several GPUs.

    Nsight Compute allows one profiler at a time, by a lock file in the temporary folder: a folder per GPU makes that
    one at a time per GPU.
    """
    own = folder / f"gpu-{gpu.replace('/', '-')}"
    own.mkdir(exist_ok=True)
    return {"CUDA_VISIBLE_DEVICES": gpu, "TMPDIR": str(own)}


class _Counter:
    """Calls Nsight Compute for one case at a time per environment; its methods may run in threads."""

    def __init__(
        self, run: AuditRun, path: str, environments: Sequence[Mapping[str, str]], found: dict[int, Kernels]
    ) -> None:
        self._run = run
        self._path = path
        self._found = found
        self._free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for environment in environments:
            self._free.put(environment)
        self._stopped = threading.Event()
        self._never: Kernels | None = None

    def stop(self) -> None:
        """End all running profilers and the programs they watch at once."""
        self._stopped.set()

    def step(self, place: int, observed: Observation) -> Kernels:
        """Count the tensor-core FLOPs and the bytes of one case, or record why they are unknown."""
        if self._never is None:
            try:
                kernels = self._step(place, observed)
            except ncu.NoCountersError as exc:
                kernels = Kernels(None, str(exc))
                if isinstance(exc, ncu.NeverCountersError):
                    self._never = kernels
            self._run.tell(place, "counted", None if kernels.launches is not None else kernels.said)
        else:
            kernels = self._never
        self._found[place] = kernels
        return kernels

    def _step(self, place: int, observed: Observation) -> Kernels:
        """The tensor-core FLOPs and the bytes of one case.

        Raises:
            NoCounters: nothing was counted.
        """
        if observed.why_not is not None:
            raise ncu.NoCountersError(observed.why_not)
        case = self._run.cases[place]
        ask(self._asked(place), case, observed.tuned)
        report = self._report(place, ncu.step_metrics(case.execution.dtype))
        launches, rounds = ncu.parse(report), ncu.passes(report)
        more = ": bytes are not those of a step, since passes upset the caches" if rounds > 1 else ""
        often = f"{rounds or 'unknown'} pass{'' if rounds == 1 else 'es'}"
        return Kernels(launches, f"Nsight Compute counted {len(launches)} kernels in {often}{more}.")

    def vector(self, place: int, step: Future[Kernels]) -> None:
        """Add instructions of vector units to the result of ``step``, or why they are missing."""
        kernels = step.result()
        if kernels.launches is None:
            return
        why = None
        try:
            report = self._report(place, ncu.vector_metrics(self._run.cases[place].execution.dtype))
            kernels = replace(kernels, launches=ncu.with_vector(kernels.launches, report), vector=True)
        except ncu.NoCountersError as exc:
            why = str(exc)
            kernels = replace(kernels, said=f"{kernels.said} Instructions of vector units were not counted: {why}.")
        self._run.tell(place, "counted vector instructions of", why)
        self._found[place] = kernels

    def _report(self, place: int, metrics: Sequence[str]) -> str:
        """Nsight Compute's report on one case.

        Raises:
            NoCounters: there is none, or no time is left.
        """
        if self._run.left_s() <= 0:
            raise ncu.NoCountersError(f"no time was left of {self._run.limit_s:g} s: give more with --limit")
        log = self._run.folder / f"ncu-{place}.csv"
        log.unlink(missing_ok=True)
        program = self._run.program("profiled", self._asked(place))
        with self._gpu() as environment:
            return ncu.run(self._path, metrics, log, program, self._run.left_s(), environment, self._go_on)

    def _asked(self, place: int) -> Path:
        """The file that tells a process which case it is to run."""
        return self._run.folder / f"case-{place}.json"

    @contextmanager
    def _gpu(self) -> Iterator[Mapping[str, str]]:
        environment = self._free.get()
        try:
            yield environment
        finally:
            self._free.put(environment)

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError
