"""pytest_plugin: the fixture ``gpu_benchmark``, which times kernels with hybridbench's sampler under pytest-benchmark.

pytest-benchmark times the host, chooses loops of calls and keeps their mean. Here samples come from
``kernel_suite.timing`` and go into pytest-benchmark's own statistics, so that its table, its files, its comparison and
what reads these do as always.

    def test_softmax(gpu_benchmark):
        def make(i):
            x = torch.randn(4096, 4096, device="cuda")
            return lambda: torch.softmax(x, -1)

        out = gpu_benchmark(make)

``gpu_benchmark.cell`` takes a cell of a suite of kernels instead, and checks and times it as ``hybridbench kernels``
does; with ``--hybridbench-records`` its record is kept too, with the same samples.

PyTorch is not imported and nothing changes until a test asks for the fixture. Without pytest-benchmark there is nothing
to fill, and a test that asks is told so.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hybridbench.errors import BadInput
from hybridbench.record import ADVICE, Status
from hybridbench.stats import median, median_interval
from hybridbench.store import RecordWriter
from hybridbench.units import NS_PER_S

if TYPE_CHECKING:
    import torch

    from hybridbench.bench import Bench
    from hybridbench.kernel_suite.cell import Cell
    from hybridbench.kernel_suite.record import KernelRecord
    from hybridbench.kernel_suite.timing import Make, Timed

Entry = dict[str, object]

MEDIANS, RECORDS = "gpu_benchmark_medians", "hybridbench_records"
MEASURED = pytest.StashKey[list[Entry]]()
"""What the fixture measured in this session, in the form of ``--gpu-benchmark-medians``."""
DEVICE = pytest.StashKey["torch.device"]()
"""The device of the latest measurement; absent where there was none."""
BENCHES = pytest.StashKey["dict[str, Bench]"]()
"""Devices with their instruments, by kind, once cells were timed on them."""
WRITER = pytest.StashKey[RecordWriter]()
"""Where records go, once there is one."""
GPU_KEY = "gpu"
"""The key of a machine's description that only sessions with the fixture have."""
MISSING = (
    "gpu_benchmark needs pytest-benchmark, which is not installed or is switched off: "
    "install it with pip install pytest-benchmark, and do not pass -p no:benchmark."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--gpu-benchmark-medians`` and ``--hybridbench-records``."""
    group = parser.getgroup("hybridbench")
    group.addoption(
        "--hybridbench-records",
        dest=RECORDS,
        metavar="DIR",
        help="Keep hybridbench's records of the cells that gpu_benchmark.cell times in this folder.",
    )
    group.addoption(
        "--gpu-benchmark-medians",
        dest=MEDIANS,
        metavar="PATH",
        help="Write the medians of gpu_benchmark as JSON of github-action-benchmark's customSmallerIsBetter.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers the fixture, and the hooks of pytest-benchmark where it is active."""
    config.stash[MEASURED], config.stash[BENCHES] = [], {}
    present = config.pluginmanager.hasplugin("benchmark")
    config.pluginmanager.register(_Beside() if present else _Alone(), "hybridbench-gpu-benchmark")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes the medians, if asked; a session that measured none fails, so that a check cannot pass by vanishing."""
    if WRITER in session.config.stash:
        session.config.stash[WRITER].close()
    path = session.config.getoption(MEDIANS)
    if path is None or hasattr(session.config, "workerinput"):
        return
    measured = session.config.stash[MEASURED]
    if measured:
        Path(path).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    elif exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says where records and medians are, or why there are no medians."""
    if WRITER in config.stash:
        terminalreporter.write_line(f"Wrote records in: {config.stash[WRITER].path}")
    path = config.getoption(MEDIANS)
    if path is None:
        return
    if config.stash[MEASURED]:
        terminalreporter.write_line(f"Wrote medians in: {path}")
    else:
        terminalreporter.write_line(
            f"No medians in {path}: no test measured with gpu_benchmark. pytest-benchmark measures nothing "
            "under pytest-xdist (-n) or with --benchmark-disable and --benchmark-skip."
        )


class GpuBenchmark:
    """The fixture: times one kernel, once.

    Attributes:
        timed: the samples and how they were taken, as ``kernel_suite.timing.Timed``; None where pytest-benchmark is
            disabled.
    """

    def __init__(self, benchmark: Any, config: pytest.Config) -> None:
        self.timed: Timed | None = None
        self._benchmark = benchmark
        self._config = config

    def __call__(self, make: Make, *, device: str | None = None, **plan: Any) -> Any:
        """Times the call that ``make`` returns, and returns what one more call of it gives.

        Args:
            make: ``make(i)`` draws inputs number i in fresh memory and returns a call without arguments bound to them.
            device: where it runs, as PyTorch writes it; None takes a GPU if there is one.
            plan: fields of ``kernel_suite.timing.Plan``: ``cold``, ``graph``, ``allocations``, ``rotate`` and others.
                ``max_time_s`` is ``--benchmark-max-time`` unless given.

        Raises:
            BadInput: a field that a plan does not have, or a version of pytest-benchmark that works differently.
        """
        import torch

        fixture = self._once("gpu_benchmark(...)")
        on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if fixture.disabled:
            return make(0)()
        try:
            self._measure(make, on, plan)
            return make(0)()
        except BaseException:
            fixture.has_error = True
            raise

    def cell(self, cell: Cell) -> KernelRecord | None:
        """Checks and times a cell of a suite of kernels, and returns its record; None where nothing is measured.

        A cell that cannot run here skips its test. ``--benchmark-max-time`` counts where the suite says nothing else.

        Raises:
            WrongResult: its outputs are wrong; whatever else a kernel raises is passed on too.
        """
        fixture = self._once("gpu_benchmark.cell(...)")
        from hybridbench.bench import Bench
        from hybridbench.kernel_suite.cell import Budget
        from hybridbench.kernel_suite.run import ready, run_cell
        from hybridbench.worker import failure_of

        benches = self._config.stash[BENCHES]
        if cell.device not in benches:
            benches[cell.device] = Bench.open(cell.device, lambda _name: None)
        bench = benches[cell.device]
        if cell.sampling.max_time_s == Budget.max_time_s:
            seconds = float(self._config.getoption("benchmark_max_time"))
            cell = replace(cell, sampling=replace(cell.sampling, max_time_s=seconds))
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            if fixture.disabled:
                ready(cell, bench)
                return None
            seen, caveats = run_cell(cell, bench)
        except Exception as exc:
            fixture.has_error = True
            said = failure_of(exc)
            status = Status(said["status"])
            if not fixture.disabled:
                self._record(cell, bench, started, status, message=said["message"], traceback=said["traceback"])
            if status is Status.UNSUPPORTED:
                pytest.skip(said["message"])
            raise
        record = self._record(cell, bench, started, Status.OK, observed=seen, caveats=caveats)
        timed = self.timed = _timed(record)
        agreed = {"checked_against": seen.agreement.against, "why_not_checked": seen.agreement.why_not}
        more: Entry = {"ran": seen.ran, "version": seen.version, **agreed, "key": cell.key, "run_id": record.run_id}
        self._keep(timed, bench.device, [f"{caveat}: {ADVICE[caveat]}" for caveat in caveats], more)
        return record

    def _once(self, how: str) -> Any:
        """pytest-benchmark's fixture, marked as used.

        Raises:
            BadInput: it has been used before, or works differently.
        """
        fixture = self._benchmark
        if not all(hasattr(fixture, name) for name in ("_mode", "_make_stats", "disabled", "has_error")):
            raise BadInput("gpu_benchmark does not know this pytest-benchmark: install one from 5.1 up to 5.3.")
        if fixture._mode:
            raise BadInput(f"this test has measured before ({fixture._mode}): use gpu_benchmark once in a test.")
        fixture._mode = how
        return fixture

    def _record(self, cell: Cell, bench: Bench, started: str, status: Status, **more: Any) -> KernelRecord:
        """A cell's record, on disk where ``--hybridbench-records`` asks for it."""
        from hybridbench.kernel_suite.record import KernelRecord

        folder, stash = self._config.getoption(RECORDS), self._config.stash
        if folder is not None and WRITER not in stash:
            stash[WRITER] = RecordWriter(Path(folder), kind=KernelRecord)
        run_id = stash[WRITER].run_id if folder is not None else "pytest"
        record = KernelRecord(cell, status, run_id, started, bench.environment(), **more)
        if folder is not None:
            stash[WRITER].append(record)
        return record

    def _measure(self, make: Make, device: torch.device, plan: dict[str, Any]) -> None:
        from hybridbench.kernel_suite.timing import Plan, time_calls
        from hybridbench.measure.caveats import find_caveats

        unknown = sorted(plan.keys() - Plan.__dataclass_fields__.keys())
        if unknown:
            known = ", ".join(Plan.__dataclass_fields__)
            raise BadInput(f"gpu_benchmark has no parameter '{unknown[0]}': known are device, {known}.")
        asked = Plan(**{"max_time_s": float(self._config.getoption("benchmark_max_time")), **plan})
        timed = self.timed = time_calls(make, device, asked)
        caveats = find_caveats(
            timed.samples_ns,
            target_rel_ci=asked.target_rel_ci,
            resolution_ns=timed.resolution_ns,
            before=timed.before,
            after=timed.after,
            waited_frac=timed.waited_frac,
        )
        self._keep(timed, device, [f"{caveat}: {ADVICE[caveat]}" for caveat in caveats], {})

    def _keep(self, timed: Timed, device: torch.device, caveats: list[str], more: Entry) -> None:
        """Puts samples into pytest-benchmark's statistics, and what is said of them beside."""
        self._benchmark.extra_info |= extra_info(timed, device, caveats) | more
        stats = self._benchmark._make_stats(1)
        for sample_ns in timed.samples_ns:
            stats.update(sample_ns / NS_PER_S)
        self._config.stash[DEVICE] = device
        self._config.stash[MEASURED].append(entry(self._benchmark.fullname, self._benchmark.extra_info, timed))


def _timed(record: KernelRecord) -> Timed:
    """The samples of a record as the sampler gave them."""
    from hybridbench.kernel_suite.timing import Timed

    seen = record.observed
    assert seen is not None, "a record that is ok has observed something"
    return Timed(
        samples_ns=seen.samples_ns,
        by_allocation=seen.by_allocation,
        calls_per_sample=seen.calls_per_sample,
        graph=seen.graph,
        cold=seen.cold,
        warmup_ns=seen.warmup_ns,
        timer=seen.timer,
        before=seen.gpu_before,
        after=seen.gpu_after,
        not_captured=seen.not_captured,
        rested=seen.rested,
        waited_frac=seen.waited_frac,
        canary_ns=seen.canary_ns,
    )


def extra_info(timed: Timed, device: torch.device, caveats: list[str]) -> Entry:
    """What pytest-benchmark's files say of a measurement beside its statistics; seconds and Hz."""
    low_ns, high_ns = median_interval(timed.samples_ns)
    states = {"before": timed.before, "after": timed.after}
    return {
        "device": str(device),
        "timer": timed.timer,
        "median_interval_s": [low_ns / NS_PER_S, high_ns / NS_PER_S],
        "cold": timed.cold,
        "graph": timed.graph,
        "not_captured": timed.not_captured,
        "rested": timed.rested,
        "waited_frac": timed.waited_frac,
        "calls_per_sample": timed.calls_per_sample,
        "samples_by_allocation": timed.by_allocation,
        "sm_clock_hz": {when: state.sm_clock_hz if state else None for when, state in states.items()},
        "caveats": caveats,
    }


def entry(name: str, extra: dict[str, Any], timed: Timed) -> Entry:
    """A measurement as github-action-benchmark's ``customSmallerIsBetter`` takes it: the median and its interval."""
    low_ns, high_ns = median_interval(timed.samples_ns)
    middle_ns = median(timed.samples_ns)
    half_us = max(high_ns - middle_ns, middle_ns - low_ns) / 1e3
    said = ", ".join(f"{key} {extra[key]}" for key in ("device", "timer", "cold", "graph"))
    return {
        "name": name,
        "unit": "us",
        "value": middle_ns / 1e3,
        "range": f"± {half_us:.3g}",
        "extra": "\n".join([f"{len(timed.samples_ns)} samples, {said}", *extra["caveats"]]),
    }


class _Alone:
    """What there is without pytest-benchmark."""

    @pytest.fixture
    def gpu_benchmark(self) -> None:
        """Times kernels; needs pytest-benchmark."""
        pytest.fail(MISSING, pytrace=False)


class _Beside:
    """What there is beside pytest-benchmark."""

    @pytest.fixture
    def gpu_benchmark(self, benchmark: Any, request: pytest.FixtureRequest) -> GpuBenchmark:
        """Times a kernel, cold and over fresh inputs, into pytest-benchmark's statistics."""
        return GpuBenchmark(benchmark, request.config)

    def pytest_benchmark_update_machine_info(self, config: pytest.Config, machine_info: dict[str, Any]) -> None:
        """Adds the GPU and versions to what is saved, where the fixture measured something."""
        if DEVICE in config.stash:
            machine_info.update(_machine(config.stash[DEVICE]))

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_compare_machine_info(
        self, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
    ) -> None:
        """Adds the same where it is compared with a file that has it, before any test has run."""
        if GPU_KEY in compared_benchmark["machine_info"]:
            machine_info.update(_machine(None))


def _machine(device: torch.device | None) -> dict[str, Any]:
    """The GPU's name and driver, None for a CPU, and the versions of packages that decide how fast a kernel is."""
    import torch

    from hybridbench.measure.environment import fingerprint
    from hybridbench.measure.nvml import Gpu

    found = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    environment = fingerprint(found, Gpu.open(found))
    return {
        GPU_KEY: environment.device if found.type == "cuda" else None,
        "gpu_driver": environment.driver,
        "cuda": environment.cuda,
        "packages": environment.packages,
        "hybridbench": environment.hybridbench,
    }
