"""worker: the process that runs cases on one device and answers with what it saw.

``run_case`` shows a whole run: open a session (build, verify, prepare, check), count, measure, record. The process
reads one case per line of JSON from standard input and writes one line of JSON per answer to a pipe of its own;
whatever libraries print goes to its log. It ends itself when its parent is gone, and after any failure that may have
harmed the device.

    python -m hybridbench.worker ANSWER_FD
"""

from __future__ import annotations

import faulthandler
import gc
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import IO, Any

import torch

from hybridbench.count.caches import count_cache
from hybridbench.count.kernels import kernel_names
from hybridbench.count.step import count_step
from hybridbench.errors import DeviceFault, HybridbenchError, Unsupported, WrongResult, described, reason
from hybridbench.kernels import release
from hybridbench.measure.caveats import find_caveats
from hybridbench.measure.ceilings import measure_ceilings
from hybridbench.measure.clock import timer_for
from hybridbench.measure.environment import fingerprint
from hybridbench.measure.memory import observe_memory, reset_peaks
from hybridbench.measure.nvml import Gpu, Watch
from hybridbench.measure.sampling import measure, measure_parts
from hybridbench.model.build import Resolved, parameter_count
from hybridbench.model.language import LanguageModel
from hybridbench.model.mixer import torch_dtype
from hybridbench.record import BackendUse, Caveat, Ceilings, Observed, OperatorCount, Part, Status, to_plain
from hybridbench.session import Proofs, open_session
from hybridbench.suite import DECODE_STEP, GENERATE, PREFILL, Case, ops_of
from hybridbench.workload import Prepared


@dataclass
class Bench:
    """One device and what stays known about it between cases."""

    device: torch.device
    gpu: Gpu | None
    idle_power_w: float | None
    phase: Callable[[str], None] = lambda name: None
    proofs: Proofs = field(default_factory=Proofs)
    ceilings: dict[str, Ceilings | None] = field(default_factory=dict)

    @classmethod
    def open(cls, kind: str, phase: Callable[[str], None]) -> Bench:
        """The first visible device of a kind."""
        device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
        gpu = Gpu.open(device) if kind == "cuda" else None
        return cls(device, gpu, gpu.idle_power_w() if gpu else None, phase)

    def ceilings_for(self, dtype: str) -> Ceilings | None:
        """The device's rates in a dtype, measured once per process."""
        if dtype not in self.ceilings:
            self.ceilings[dtype] = measure_ceilings(self.device, torch_dtype(dtype))
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # or the case's peak of reserved memory would hold these gigabytes
        return self.ceilings[dtype]


def run_case(case: Case, bench: Bench) -> tuple[Observed, list[Caveat]]:
    """Runs one case and returns what was seen.

    Raises:
        Unsupported, WrongResult: before anything is timed.
        torch.OutOfMemoryError and whatever else a kernel raises.
    """
    bench.phase("ceilings")
    bench.ceilings_for(case.execution.dtype)

    session = open_session(case, bench.device, bench.proofs, bench.phase)
    resolved, model, work = session.resolved, session.model, session.work

    bench.phase("count")
    counts = [] if case.sampling.probes else _count(work, model, resolved)

    bench.phase("measure")
    timer, region = timer_for(bench.device), TimedRegion(Watch(bench.gpu))
    reset_peaks(bench.device)
    if work.parts:
        timed = measure_parts([(part.enter, part.step) for part in work.parts], timer, case.sampling, around=region)
    else:
        timed = [measure(work.step, timer, case.sampling, around=region)]
    watch = region.watch
    # Parts are no whole steps, so their energy has none to be divided by.
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
        backends=_uses(_timed(resolved, case), work, bench),
        kernels=[] if case.sampling.probes else _kernels(work, bench.device),
        gpu_before=watch.before,
        gpu_after=watch.after,
        energy=energy,
        build_ns=session.build_ns,
        prepare_ns=session.prepare_ns,
        loss=_finite_loss(work),
        ceilings=bench.ceilings_for(case.execution.dtype),
        parts=[Part(part.depth, samples.samples_ns) for part, samples in zip(work.parts, timed, strict=False)],
        sized=session.sized,
        check_ns=session.check_ns,
    )
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
            graph_breaks=graph_breaks() if case.execution.mode == "compile" else 0,
            recompiles=region.compilations,
        )
    }
    if session.unchecked:
        print("not checked at size:", *session.unchecked, sep="\n", file=sys.stderr)  # noqa: T201
        found.add(Caveat.NOT_CHECKED)
    return observed, [caveat for caveat in Caveat if caveat in found]


def _kernels(work: Prepared, device: torch.device) -> list[str]:
    """Names of the kernels of a step; none where the profiler may not look, which is no reason to lose the samples."""
    try:
        return kernel_names(work.step if work.steps_per_sample == 1 else work.eager_step, device)
    except RuntimeError as exc:
        print(f"kernel names are missing: {exc}", file=sys.stderr)  # noqa: T201
        return []


def _finite_loss(work: Prepared) -> float | None:
    """The last step's loss, None in inference.

    Raises:
        WrongResult: it is no number; what trained to that was not the model.
    """
    loss = work.loss() if work.loss else None
    if loss is not None and not math.isfinite(loss):
        raise WrongResult(f"the loss after the timed steps is {loss}: lower the learning rate or use a wider dtype.")
    return loss


class TimedRegion:
    """Around the samples: what NVML saw, and how often torch.compile compiled although it should not have."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.compilations = 0

    def __enter__(self) -> TimedRegion:
        self.compilations = -compilations()
        self.watch.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.watch.__exit__(*exc)
        self.compilations += compilations()


def compilations() -> int:
    """Graphs torch.compile has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def graph_breaks() -> int:
    """Places where torch.compile fell back to Python in the functions compiled since the last reset."""
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def _timed(resolved: list[Resolved], case: Case) -> list[Resolved]:
    """What the timed steps run: a fused decode step leaves the modules' own kernels out of them."""
    if not any(item.op == DECODE_STEP and item.backend.name == "fused" for item in resolved):
        return resolved
    over_sequences = ops_of(case.model, PREFILL) if case.workload.kind == GENERATE else ()
    return [item for item in resolved if item.op == DECODE_STEP or item.op in over_sequences]


def _uses(timed: list[Resolved], work: Prepared, bench: Bench) -> list[BackendUse]:
    """One entry per operation and backend, with the proof that came closest to its bound."""
    uses: dict[tuple[str, str], BackendUse] = {}
    of_step = {(check.op, check.backend): check for check in work.checks}
    for item in timed:
        check = of_step.get((item.op, item.backend.name)) or bench.proofs.of(item)
        use = BackendUse(
            op=item.op,
            asked=item.asked,
            ran=item.backend.ran,
            package=item.backend.package,
            version=item.backend.version,
            error=check.error if check else None,
            bound=check.bound if check else None,
        )
        worst = uses.get((item.op, item.backend.ran))
        if worst is None or (use.error or 0.0) / (use.bound or 1.0) > (worst.error or 0.0) / (worst.bound or 1.0):
            uses[item.op, item.backend.ran] = use
    of_kernels = {(item.op, item.backend.name) for item in timed}
    for key, check in of_step.items():
        if key not in of_kernels:  # of compiled layers, which are no kernel of an operation
            proof = (check.error, check.bound)
            uses[key] = BackendUse(check.op, check.backend, check.backend, "torch", version("torch"), *proof)
    return list(uses.values())


def _count(work: Prepared, model: LanguageModel, resolved: list[Resolved]) -> list[OperatorCount]:
    """One eager step as both public counters see it; a counter that fails says so and costs nothing else."""
    counted = count_step(work, model, resolved)
    model.zero_grad(set_to_none=False)
    return [counted.by_torch.observed(), counted.by_fvcore.observed()]


def answer_for(case: Case, bench: Bench) -> dict[str, Any]:
    """The case's answer as plain values; every failure becomes a status, ``fit`` false where the process must end."""
    try:
        observed, caveats = run_case(case, bench)
    except Unsupported as exc:
        return _failure(Status.UNSUPPORTED, exc)
    except WrongResult as exc:
        return _failure(Status.WRONG, exc, fit=not isinstance(exc, DeviceFault))
    except HybridbenchError as exc:
        return _failure(Status.UNSUPPORTED, exc)
    except (torch.OutOfMemoryError, MemoryError) as exc:
        return _failure(Status.OOM, exc)
    except Exception as exc:
        # The CPU allocator raises a plain RuntimeError; CUDA libraries report their own, after which nobody knows.
        if "can't allocate memory" in str(exc):
            return _failure(Status.OOM, exc)
        if any(words in str(exc) for words in ("out of memory", "ALLOC_FAILED")):
            return _failure(Status.OOM, exc, fit=False)
        return _failure(Status.CRASHED, exc, fit=False)
    return {"status": Status.OK, "observed": to_plain(observed), "caveats": to_plain(caveats), "fit": True}


def _failure(status: Status, exc: BaseException, fit: bool = True) -> dict[str, Any]:
    text = reason(exc) if isinstance(exc, HybridbenchError) else described(exc)
    full = None if isinstance(exc, HybridbenchError) else "".join(traceback.format_exception(exc))
    return {"status": status, "message": text, "traceback": full, "fit": fit}


def _release(case: Case) -> None:
    """Gives the last case's memory back, so that the next one starts from an empty device."""
    if case.execution.mode == "compile":  # else only kernels were compiled, and those serve the next case too
        torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    release()
    gc.collect()
    if torch.cuda.is_available():
        # cuBLAS keeps 32 MiB for every stream that multiplied, and each captured graph warms up on a stream of its own:
        # the next case's peak would hold them all.
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: a killed run must not leave a GPU busy."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve(cases: IO[str], answers: IO[str]) -> None:
    """Answers cases until there are none left or one may have harmed the device."""

    def send(kind: str, **body: Any) -> None:
        answers.write(json.dumps({"kind": kind, **body}) + "\n")
        answers.flush()

    benches: dict[str, Bench] = {}
    gc.collect()
    gc.freeze()  # what was imported stays: searching it took 0.15 s a case, and now and then as long within a sample
    send("hello", cuda=torch.cuda.is_available())
    for line in cases:
        case = Case.from_dict(json.loads(line))
        kind = case.execution.device
        if kind == "cuda" and not torch.cuda.is_available():
            send("environment", environment=to_plain(fingerprint(torch.device("cpu"))))
            send("answer", **_failure(Status.UNSUPPORTED, Unsupported(NO_CUDA)))
            continue
        if kind not in benches:
            benches[kind] = Bench.open(kind, lambda name: send("phase", phase=name))
        bench = benches[kind]
        # Before anything can go wrong: a case that kills this process belongs to this machine all the same.
        send("environment", environment=to_plain(fingerprint(bench.device, bench.gpu)))
        answer = answer_for(case, bench)
        send("answer", **answer)
        if not answer["fit"]:
            return
        _release(case)


NO_CUDA = "PyTorch finds no CUDA device: install a CUDA build of torch and a driver, or measure with --device cpu"


def main() -> None:
    """Entry of the process."""
    faulthandler.register(signal.SIGUSR1)  # the runner asks a hanging worker where it is before killing it
    _end_with_parent()
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as answers:
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
