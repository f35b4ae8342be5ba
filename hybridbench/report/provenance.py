"""provenance: the machines, software and kernels with which records were made, in words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from hybridbench.derive.floors import peak_flops_per_s, peak_of
from hybridbench.record import Environment, Record
from hybridbench.report.groups import Group
from hybridbench.units import format_bytes, format_si


def machines(records: Sequence[Record]) -> list[str]:
    """A line of facts for each machine and set of software, in the order of the records."""
    first: dict[Hashable, Record] = {}
    for record in records:
        first.setdefault(_identity(record.environment), record)
    facts = ([*_facts(record.environment), _peaks(record)] for record in first.values())
    return ["; ".join(fact for fact in some if fact) for some in facts]


def _identity(environment: Environment) -> Hashable:
    """The same for equal environments, of which ten thousand are not compared with one another."""
    values = vars(environment) | {"packages": frozenset(environment.packages.items())}
    return tuple(values.values())


def _facts(environment: Environment) -> list[str]:
    on_gpu = environment.device_kind != "cpu"
    memory = f" ({format_bytes(environment.device_memory_bytes)})" if on_gpu else ""
    driver = f"driver {environment.driver or 'unknown'}, CUDA {environment.cuda or 'unknown'}"
    return [
        f"{environment.device}{memory}",
        f"{environment.cores} cores of {environment.cpu}, {format_bytes(environment.memory_bytes)}",
        driver if on_gpu else f"no GPU used, {_threads(environment.threads)}",
        f"Python {environment.python}, {environment.platform}",
        ", ".join(f"{name} {version}" for name, version in sorted(environment.packages.items())),
        f"hybridbench {environment.hybridbench}, commit {environment.git_commit or 'unknown'}",
    ]


def _threads(count: int | None) -> str:
    return "threads unknown" if count is None else f"operators on {count} thread{'s' if count > 1 else ''}"


def _peaks(record: Record) -> str:
    peak = peak_of(record)
    if peak is None:
        seen = record.observed
        floors = "floors by rates measured here" if seen and seen.ceilings else "no floor"
        return f"peaks unknown: no MFU or MBU, {floors}"
    rate = format_si(peak_flops_per_s(record), "FLOP/s")
    dtype = record.case.execution.dtype
    return f"peaks {rate} dense for {dtype}, {format_si(peak.memory_bytes_per_s, 'B/s')} ({peak.source})"


def kernels_that_ran(group: Group) -> list[str]:
    """A line for each operation and kernel of a group: the backend requested, the one that ran, and its package."""
    return sorted(
        {
            f"{use.op}: asked for {use.asked}, ran {use.ran} ({' '.join((use.package, use.version or 'unknown'))})"
            for record in group.records
            if record.observed
            for use in record.observed.backends
        }
    )


def differing_software(group: Group) -> str | None:
    """A sentence if the records of a group were made with different drivers or packages, else None."""
    software = {(record.environment.driver, *sorted(record.environment.packages.items())) for record in group.records}
    return (
        f"These records come from {len(software)} software environments: see Machines." if len(software) > 1 else None
    )
