"""noise: by how much a cell's median differs between fresh processes of the same code, from their records.

    between     standard deviation of the logarithms of the processes' medians
    within      spread of the samples of one process: half the distance from their 16th to their 84th percentile

A comparison of two separate runs cannot see what is below the first. What a record says of how it was timed tells the
likely reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

from hybridbench.kernel_suite.cell import Cell
from hybridbench.kernel_suite.figures import LAUNCH_BOUND_S, median_s
from hybridbench.kernel_suite.record import KernelObserved, KernelRecord
from hybridbench.record import Caveat, GpuState, Status
from hybridbench.stats import log_spread, median
from hybridbench.store import machine_of
from hybridbench.units import format_number

LEAST = 3
"""Fewer processes say nothing about what is between them."""
QUIET_FRAC = 0.005
"""Up to here a cell can tell one percent from nothing."""
CLOCKS_FRAC = 0.01
"""Clocks that differ by more between processes are a reason."""


@dataclass(frozen=True)
class CellNoise:
    """One cell in several processes on one machine.

    Attributes:
        records: one of each process, in the order of time.
        medians_s: of each process, in the order of time; seconds.
        between_frac, within_frac: as above; fractions.
        reasons: the likely reasons, where ``between_frac`` is above ``QUIET_FRAC``; the first is the likeliest.
    """

    records: tuple[KernelRecord, ...]
    medians_s: tuple[float, ...]
    between_frac: float
    within_frac: float
    reasons: tuple[str, ...]

    @property
    def first(self) -> KernelRecord:
        """The first process's."""
        return self.records[0]

    @property
    def cell(self) -> Cell:
        """Which cell."""
        return self.first.case

    @property
    def quiet(self) -> bool:
        """Whether its processes agree to ``QUIET_FRAC``."""
        return self.between_frac <= QUIET_FRAC

    @property
    def fills(self) -> bool | None:
        """Whether its longest kernel has a block for every multiprocessor; None is unknown."""
        seen = self.first.observed
        return None if seen is None or seen.blocks_per_sm is None else seen.blocks_per_sm >= 1


def noise_of(records: Sequence[KernelRecord]) -> list[CellNoise]:
    """The noise of each cell that ``LEAST`` or more runs of the same code on one machine timed, as they first come."""
    found: dict[tuple[str | None, ...], dict[str, KernelRecord]] = {}
    for record in sorted(records, key=lambda one: one.started):
        if record.status is Status.OK and record.observed is not None:
            code = (record.environment.hybridbench, record.environment.git_commit, record.observed.version)
            found.setdefault((record.case.key, *machine_of(record), *code), {})[record.run_id] = record
    return [_of_cell(list(runs.values())) for runs in found.values() if len(runs) >= LEAST]


def _of_cell(runs: Sequence[KernelRecord]) -> CellNoise:
    medians = [seconds for record in runs if (seconds := median_s(record)) is not None]
    seen = [record.observed for record in runs if record.observed is not None]
    between = stdev(math.log(seconds) for seconds in medians)
    within = median([log_spread([one.samples_ns]) for one in seen])
    reasons = _reasons(runs, seen, between) if between > QUIET_FRAC else []
    return CellNoise(tuple(runs), tuple(medians), between, within, tuple(reasons))


def _reasons(runs: Sequence[KernelRecord], seen: Sequence[KernelObserved], between: float) -> list[str]:
    """Why the processes of a cell differ, as far as their records tell."""
    caveats = {caveat for record in runs for caveat in record.caveats}
    found = [
        *(["another process used the GPU"] if Caveat.SHARED_GPU in caveats else []),
        *_tuning(seen),
        *_blocks(seen),
        *_launches(runs, seen),
        *_clocks(seen),
        *_placement(seen, between),
    ]
    if runs[0].environment.device_kind == "cpu":
        waited = Caveat.SHARED_CPU in caveats
        found.append("other programs had the processors" if waited else "other work on the same cores")
    return found or ["nothing in the records tells why"]


def _tuning(seen: Sequence[KernelObserved]) -> list[str]:
    """Autotuners that chose differently, and other kernels that ran."""
    choices: dict[tuple[str, str], set[str]] = {}
    for one in seen:
        for chosen in one.tuning:
            choices.setdefault((chosen.kernel, chosen.key), set()).add(chosen.configuration)
    differing = sorted({kernel for (kernel, _), some in choices.items() if len(some) > 1})
    if differing:
        return [f"the autotuner of {', '.join(differing)} chose differently"]
    if len({frozenset(one.kernels) for one in seen}) > 1:
        return ["different kernels ran"]
    return []


def _blocks(seen: Sequence[KernelObserved]) -> list[str]:
    blocks = [one.blocks_per_sm for one in seen if one.blocks_per_sm is not None]
    if not blocks or min(blocks) >= 1:
        return []
    return [f"less than one block per SM ({format_number(min(blocks), 2)}): the time varies with where they land"]


def _launches(runs: Sequence[KernelRecord], seen: Sequence[KernelObserved]) -> list[str]:
    """Short calls that the host launches one by one, in all processes or in some."""
    if len({one.graph for one in seen}) > 1:
        return ["replayed from a graph in some processes and launched one by one in others"]
    short = [one for record, one in zip(runs, seen, strict=True) if _launched(record, one)]
    if not short:
        return []
    why = next((one.not_captured for one in short if one.not_captured), None)
    return ["launched one by one, so it waits for the host" + (f" ({why})" if why else "")]


def _launched(record: KernelRecord, seen: KernelObserved) -> bool:
    seconds = median_s(record)
    on_gpu = record.environment.device_kind == "cuda"
    return on_gpu and not seen.graph and seconds is not None and seconds < LAUNCH_BOUND_S


def _clocks(seen: Sequence[KernelObserved]) -> list[str]:
    """Clocks that a limit lowered, or that differed between processes."""
    states: list[GpuState] = [state for one in seen for state in (one.gpu_before, one.gpu_after) if state is not None]
    clocks = [state.sm_clock_hz for state in states if state.sm_clock_hz]
    limits = sorted({reason for state in states for reason in state.throttle_reasons})
    if not clocks or max(clocks) <= min(clocks) * (1 + CLOCKS_FRAC):
        return []
    why = f" ({', '.join(limits)})" if limits else ""
    return [f"clocks from {min(clocks) / 1e6:.0f} to {max(clocks) / 1e6:.0f} MHz{why}"]


def _placement(seen: Sequence[KernelObserved], between: float) -> list[str]:
    """Allocations of one process that differ about as much as processes do."""
    within = median([allocation_spread(one) for one in seen])
    if within < between / 2:
        return []
    return [f"memory placement: allocations of one process differ by {format_number(100 * within, 2)}% too"]


def allocation_spread(seen: KernelObserved) -> float:
    """The spread of the medians of a process's own allocations, each a fresh set of memory; a fraction."""
    medians, start = list[float](), 0
    for count in seen.by_allocation:
        if count:
            medians.append(median(seen.samples_ns[start : start + count]))
        start += count
    return log_spread([medians]) if len(medians) > 1 else 0.0
