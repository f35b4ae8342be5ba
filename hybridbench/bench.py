"""bench: one device with its instruments, and one case run on it from a session to what is recorded.

``run_case`` shows a whole run: ceilings, a session (build, verify, prepare, check), count, measure, record. Everything
it reads from the machine comes through ``Instruments``, so that tests can replace the machine by a script.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch

from hybridbench.count.caches import count_cache
from hybridbench.count.kernels import kernel_names
from hybridbench.count.step import count_step
from hybridbench.errors import WrongResult
from hybridbench.kernels import Check
from hybridbench.kernels.compiling import noting
from hybridbench.measure.caveats import find_caveats
from hybridbench.measure.ceilings import measure_ceilings
from hybridbench.measure.clock import Timer, nothing, timer_for
from hybridbench.measure.cpu import CpuWatch
from hybridbench.measure.environment import fingerprint
from hybridbench.measure.memory import observe_memory, reset_peaks
from hybridbench.measure.nvml import Gpu, Watch
from hybridbench.measure.sampling import measure, measure_parts
from hybridbench.model.build import Resolved, parameter_count
from hybridbench.model.language import LanguageModel
from hybridbench.model.mixer import torch_dtype
from hybridbench.ranks.links import measure_links
from hybridbench.ranks.together import Together
from hybridbench.record import BackendUse, Caveat, Ceilings, Environment, Links, Observed, OperatorCount, Part
from hybridbench.session import Proofs, device_for, open_session
from hybridbench.suite.case import COMPILE, Case
from hybridbench.suite.ops import DECODE_STEP, ops_of
from hybridbench.suite.workloads import DECODE
from hybridbench.workload import Prepared
from hybridbench.workload.at_size.quantised import COARSE, QUANTISED


def operator_counts(work: Prepared, model: LanguageModel, resolved: list[Resolved]) -> list[OperatorCount]:
    """The FLOPs of one eager step, as each of the two public operator counters sees them."""
    counted = count_step(work, model, resolved)
    model.zero_grad(set_to_none=False)
    return [counted.by_torch.observed(), counted.by_fvcore.observed()]


def step_kernels(work: Prepared, device: torch.device) -> list[str]:
    """Names of the kernels of a step; empty where the profiler fails, so that the samples are not lost with it."""
    try:
        return kernel_names(work.step if work.steps_per_sample == 1 else work.eager_step, device)
    except RuntimeError as exc:
        print(f"kernel names are missing: {exc}", file=sys.stderr)  # noqa: T201
        return []


@dataclass(frozen=True)
class Instruments:
    """What is read from the machine while a case runs.

    Args:
        timer: the clock of a device's steps.
        now: the clock for everything else, such as building and the limit of a warm-up; ns.
        environment: the machine and its software.
        ceilings: the rates that a device reaches in a dtype.
        count: the FLOPs of a step as operator counters see them.
        kernels: the names of the kernels of a step.
        cpu: what else the processors do while a step is timed on them.
    """

    timer: Callable[[torch.device], Timer] = timer_for
    now: Callable[[], int] = time.perf_counter_ns
    environment: Callable[[torch.device, Gpu | None], Environment] = fingerprint
    ceilings: Callable[[torch.device, torch.dtype], Ceilings | None] = measure_ceilings
    count: Callable[[Prepared, LanguageModel, list[Resolved]], list[OperatorCount]] = operator_counts
    kernels: Callable[[Prepared, torch.device], list[str]] = step_kernels
    cpu: Callable[[], CpuWatch] = CpuWatch


@dataclass
class Bench:
    """One device, and what is remembered about it between cases."""

    device: torch.device
    gpu: Gpu | None
    idle_power_w: float | None
    phase: Callable[[str], None] = lambda _name: None
    proofs: Proofs = field(default_factory=Proofs)
    ceilings: dict[str, Ceilings | None] = field(default_factory=dict)
    instruments: Instruments = field(default_factory=Instruments)

    @classmethod
    def open(cls, kind: str, phase: Callable[[str], None], instruments: Instruments | None = None) -> Bench:
        """The first visible device of a kind."""
        device = device_for(kind)
        gpu = Gpu.open(device)
        idle_power_w = gpu.idle_power_w() if gpu else None
        return cls(device, gpu, idle_power_w, phase, instruments=instruments or Instruments())

    def environment(self) -> Environment:
        """The machine and its software as they are now."""
        return self.instruments.environment(self.device, self.gpu)

    def ceilings_for(self, dtype: str) -> Ceilings | None:
        """The device's rates in a dtype, measured once per process."""
        if dtype not in self.ceilings:
            self.ceilings[dtype] = self.instruments.ceilings(self.device, torch_dtype(dtype))
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # else the case's peak of reserved memory would include these gigabytes
        return self.ceilings[dtype]

    @cached_property
    def links(self) -> Links:
        """The rates between the ranks of this process's group, measured once per process by all of them."""
        return measure_links(self.device)


def run_case(case: Case, bench: Bench) -> tuple[Observed, list[Caveat]]:
    """Runs one case and returns what was observed, with its caveats.

    Raises:
        Unsupported, WrongResult: before anything is timed.
        torch.OutOfMemoryError: a step or its check does not fit. Any other error of a kernel is passed on too.
    """
    with noting() as compiled:
        observed, caveats = _run_case(case, bench)
    return replace(observed, compiled=compiled), caveats


def _run_case(case: Case, bench: Bench) -> tuple[Observed, list[Caveat]]:
    bench.phase("ceilings")
    ceilings = bench.ceilings_for(case.execution.dtype)

    tools = bench.instruments
    session = open_session(case, bench.device, bench.proofs, bench.phase, tools.now)
    resolved, model, work = session.resolved, session.model, session.work

    bench.phase("count")
    counts = [] if case.sampling.probes or session.place else tools.count(work, model, resolved)

    bench.phase("measure")
    together = None if session.place is None else Together(session.place, tools.timer(bench.device), tools.now)
    timer, now = (tools.timer(bench.device), tools.now) if together is None else (together.timer, together.now)
    # Ranks on a CPU take processors from each other by design.
    cpu = tools.cpu() if bench.device.type == "cpu" and together is None else None
    also = [] if together is None else [together.timer.noting()]
    region = TimedRegion(Watch(bench.gpu, tools.now), *also, *([cpu] if cpu else []))
    between = cpu or nothing
    reset_peaks(bench.device)
    if work.parts:
        parts = [(part.enter, part.step) for part in work.parts]
        timed = measure_parts(parts, timer, case.sampling, now=now, around=region, between=between)
    else:
        timed = [measure(work.step, timer, case.sampling, now=now, around=region, between=between)]
    watch = region.watch
    waited_frac = cpu.waited_frac if cpu else None
    # Parts are not whole steps, so there is no number of steps to divide their energy by.
    energy = watch.energy(0 if work.parts else timed[0].runs, bench.idle_power_w)

    bench.phase("record")
    cache = count_cache(work.caches, work.capacity) if work.caches else None
    kept = cache.kv_cache_bytes + cache.ssm_state_bytes + cache.conv_state_bytes if cache else None
    observed = Observed(
        samples_ns=[] if work.parts else timed[0].samples_ns,
        steps_per_sample=work.steps_per_sample,
        warmup_steps=sum(samples.warmup_steps for samples in timed),
        warmup_ns=sum(samples.warmup_ns for samples in timed),
        timer=timer.name,
        parameters=parameter_count(model),
        memory=observe_memory(bench.device, model, optimizer=work.optimizer, cache_bytes=kept),
        cache=cache,
        counts=counts,
        backends=backend_uses(timed_operations(resolved, case), work.checks, bench.proofs),
        kernels=[] if case.sampling.probes else tools.kernels(work, bench.device),
        gpu_before=watch.before,
        gpu_after=watch.after,
        energy=energy,
        build_ns=session.build_ns,
        prepare_ns=session.prepare_ns,
        loss=_finite_loss(work),
        ceilings=ceilings,
        parts=[Part(part.context, samples.samples_ns) for part, samples in zip(work.parts, timed, strict=False)],
        sized=session.sized,
        check_ns=session.check_ns,
        waited_frac=waited_frac,
        canary_ns=cpu.canary_ns if cpu else [],
    )
    if together is not None:
        bench.phase("measure without transfers")
        observed = together.observe(observed, work, case.sampling, bench.links)
    found = {
        caveat
        for samples in timed
        for caveat in find_caveats(
            samples.samples_ns,
            target_rel_ci=case.sampling.target_rel_ci,
            resolution_ns=timer.resolution_ns,
            before=watch.before,
            after=watch.after,
            energy=energy,
            graph_breaks=graph_breaks() if case.execution.mode == COMPILE else 0,
            recompiles=region.compilations,
            waited_frac=waited_frac,
        )
    }
    if any(check.what == QUANTISED and check.error > COARSE for check in session.sized):
        found.add(Caveat.COARSE_LOGITS)
    if session.unchecked:
        print("not checked at size:", *session.unchecked, sep="\n", file=sys.stderr)  # noqa: T201
        found.add(Caveat.NOT_CHECKED)
    return observed, [caveat for caveat in Caveat if caveat in found]


def make_ready(case: Case, bench: Bench) -> tuple[None, list[Caveat]]:
    """Builds, verifies, checks and counts a case and runs its step once. Nothing is timed and nothing observed.

    Counting is done for its kernels: without gradients some are others than those of a step.

    Raises:
        Unsupported, WrongResult, torch.OutOfMemoryError: as ``run_case``.
    """
    session = open_session(case, bench.device, bench.proofs, bench.phase, bench.instruments.now)
    work = session.work
    if not case.sampling.probes:
        bench.instruments.count(work, session.model, session.resolved)
    for part in work.parts:
        part.enter()
        part.step()
    if not work.parts:
        work.step()
    return None, []


def _finite_loss(work: Prepared) -> float | None:
    """The last step's loss; None in inference.

    Raises:
        WrongResult: it is NaN or infinite.
    """
    loss = work.loss() if work.loss else None
    if loss is not None and not math.isfinite(loss):
        raise WrongResult(f"the loss after the timed steps is {loss}: lower the learning rate or use a wider dtype.")
    return loss


class TimedRegion:
    """Reads NVML before and after the samples, and counts the graphs that torch.compile compiles in between.

    Args:
        also: other contexts of the samples, entered before NVML is read and left after.
    """

    def __init__(self, watch: Watch, *also: AbstractContextManager[object]) -> None:
        self.watch = watch
        self.compilations = 0
        self._also = also
        self._entered = ExitStack()

    def __enter__(self) -> TimedRegion:
        self.compilations = -compilations()
        for one in (*self._also, self.watch):
            self._entered.enter_context(one)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._entered.__exit__(*exc)
        self.compilations += compilations()


def compilations() -> int:
    """Graphs torch.compile has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def graph_breaks() -> int:
    """Places where torch.compile fell back to Python in the functions compiled since the last reset."""
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def timed_operations(resolved: list[Resolved], case: Case) -> list[Resolved]:
    """The operations that the timed steps run: a fused decode step does not run the modules' own kernels."""
    if not any(item.op == DECODE_STEP and item.backend.name == "fused" for item in resolved):
        return resolved
    over_sequences = [op for one in case.workload.row.passes if one != DECODE for op in ops_of(case.model, one)]
    return [item for item in resolved if item.op == DECODE_STEP or item.op in over_sequences]


def backend_uses(timed: list[Resolved], checks: Sequence[Check], proofs: Proofs) -> list[BackendUse]:
    """One entry per operation and backend, with the verification that came closest to its bound.

    Args:
        checks: of the step as a whole, such as of compiled layers.
        proofs: the verifications of single kernels.
    """
    uses: dict[tuple[str, str], BackendUse] = {}
    of_step = {(check.op, check.backend): check for check in checks}
    for item in timed:
        check = of_step.get((item.op, item.backend.name)) or proofs.of(item)
        use = BackendUse(
            op=item.op,
            asked=item.asked,
            ran=f"{item.backend.ran}, {check.how}" if check and check.how else item.backend.ran,
            package=item.backend.package,
            version=item.backend.version,
            error=check.error if check else None,
            bound=check.bound if check else None,
        )
        worst = uses.get((item.op, use.ran))
        if worst is None or (use.error or 0.0) / (use.bound or 1.0) > (worst.error or 0.0) / (worst.bound or 1.0):
            uses[item.op, use.ran] = use
    of_kernels = {(item.op, item.backend.name) for item in timed}
    for key, check in of_step.items():
        if key not in of_kernels:  # a check of compiled layers, which are not an operation's kernel
            proof = (check.error, check.bound)
            uses[key] = BackendUse(check.op, check.backend, check.backend, "torch", version("torch"), *proof)
    return list(uses.values())
